"""Same person or not? Pairs of pictures by a protocol's folds, and any two pictures.

    python verify.py score --data cfp --kind FP --backbone sface --run runs/cfp-sface
    python verify.py train --data cfp --kind FP --backbone mobilenet_v2 --run runs/siamese
    python verify.py pair A.jpg B.jpg --run runs/cfp-sface
    python verify.py table runs/cfp-sface runs/siamese

`score` judges an embedder as it is; `train` trains a Siamese network for each fold on the people of
the others. Both leave a run folder: config.json, metrics.json, pairs.csv (the score of every pair),
roc.png, errors.jpg (the worst errors of both kinds), calibration.json, and `train` model and
history of each fold. `pair` asks such a run about two pictures: thresholds and probability are the
run's own, calibrated on its pairs.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from config import EmbedSettings, Settings, UserError, as_arguments, check, parse
from data import readable
from embed import Embedding, embedding_of
from model import Embedder, embedder_of
from pair_results import MADE_BY, Answers, results_table, write_results
from pair_scores import (
    one_view,
    plain_score,
    read_two,
    similarities,
    trained_score,
    vectors_of,
    without_face,
)
from pair_training import Work, do_fold, fold_folder, kept_fold
from pairs import Pairs, PairSettings, read_pairs, read_pictures, score_known
from runs import (
    exit_code,
    log_to,
    only_process,
    read_json,
    report_each,
    versions,
    write_json,
)
from siamese import (
    SiameseSettings,
    check_siamese,
    make_inputs,
)
from verification import probability


@dataclass
class Score:
    """Score a protocol's pairs by an embedder as it is."""

    pairs: PairSettings
    embed: EmbedSettings
    run: Path = Path("runs/pairs")
    """Run folder, for all that is made."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """What compares two pictures: the cosine of their embeddings, or the Euclidean distance of the
    features as they are. (Of embeddings, of length 1, it would say what the cosine says.)"""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class Train:
    """Train a Siamese network for each fold, and score the fold's pairs."""

    pairs: PairSettings
    embed: EmbedSettings
    siamese: SiameseSettings
    run: Path = Path("runs/siamese")
    """Run folder, for all that is made."""
    folds: tuple[int, ...] = ()
    """Folds to test, each by a network of its own. Default: all."""
    seed: int = 0
    """Seed of every random choice."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""


@dataclass
class Pair:
    """Ask a run whether two pictures show the same person."""

    picture: tyro.conf.Positional[tuple[Path, Path]]
    """The two pictures."""
    run: Path = Path("runs/pairs")
    """Folder of a run that `score` or `train` made."""
    false_accept: float = 0.01
    """Share of pairs of strangers that may be called the same: 0.1, 0.01 or 0.001."""
    cache: Path = Path("cache")
    """Folder of the embedding cache."""
    json: bool = False
    """Print one JSON object and nothing else on standard output."""


@dataclass
class Table:
    """Print the measures of finished runs side by side."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""


@dataclass
class Program:
    """Settings of this file as a program."""

    command: tyro.conf.OmitSubcommandPrefixes[Score | Train | Pair | Table]


# ---- what a run remembers -----------------------------------------------------------------------

NOT_REMEMBERED = ("run", "cache", "folds")


def flat(asked: Score | Train) -> dict[str, Any]:
    """All settings of a command by name, as JSON holds them; places absolute."""
    table: dict[str, Any] = {"command": type(asked).__name__.lower()}
    for name, value in asdict(asked).items():
        table |= value if isinstance(value, dict) else {name: value}
    if table["weights"] not in (None, "none"):
        table["weights"] = Path(table["weights"])
    for name, value in table.items():
        if isinstance(value, Path):
            table[name] = str(value.resolve())
        elif isinstance(value, tuple):
            table[name] = list(value)
    return table


def remembered(folder: Path, cache: Path) -> Score | Train:
    """The command that made a run.

    Raises:
        UserError: there is none, or its config.json cannot be used.
    """
    table = read_json(folder / "config.json", MADE_BY)
    if not isinstance(table, dict) or table.get("command") not in ("score", "train"):
        raise UserError(f"{folder}: is no run of verify.py score or train")
    words = as_arguments({k: v for k, v in table.items() if k not in ("command", "cache")})
    try:
        program = parse([table["command"], *words, f"--cache={cache}"], "verify.py", Program)
    except SystemExit as error:
        raise UserError(f"{folder}/config.json is damaged: make it anew with {MADE_BY}") from error
    made: Score | Train = program.command
    return made


def prepare(asked: Score | Train) -> tuple[Pairs, pd.DataFrame, Embedding]:
    """Reads a command's pairs and checks their pictures; (pairs, catalogue rows, how to embed)."""
    check(Settings(embed=asked.embed))
    made = asked.run / "config.json"
    if made.is_file() and "command" not in read_json(made, MADE_BY):
        raise UserError(f"{asked.run}: is a run of main.py; name another folder with --run")
    pairs = read_pairs(asked.pairs)
    rows = read_pictures(asked.pairs, pairs)
    embedder = embedder_of(asked.embed, asked.cache)
    job = embedding_of(asked.embed, embedder, asked.pairs.data, asked.cache, len(rows))
    return pairs, rows, job


def finish(asked: Score | Train, made: Answers) -> None:
    """Writes what a command made, and how, and prints the measures."""
    (asked.run / "config.json").unlink(missing_ok=True)  # no settings beside others' calibration
    write_results(asked.run, made)
    write_json(asked.run / "versions.json", versions())
    write_json(asked.run / "config.json", flat(asked))
    print(results_table([asked.run]))


# ---- an embedder as it is -----------------------------------------------------------------------


def score(asked: Score) -> None:
    """The program's first command; see the top of this file."""
    pairs, rows, job = prepare(asked)
    good = rows[readable(rows)].reset_index(drop=True)
    vectors = vectors_of(job, good, asked.distance)
    scores = score_known(pairs.table, good, partial(similarities, vectors, asked.distance))
    finish(asked, Answers(asked.pairs.data, rows, pairs.table, scores))


# ---- trained networks ---------------------------------------------------------------------------


def train(asked: Train) -> None:
    """The program's second command. A fold that is done is not done again, unless something that it
    was made from has changed."""
    check_train(asked)
    pairs, rows, job = prepare(asked)
    table, good = pairs.table, rows[readable(rows)].reset_index(drop=True)
    folds = asked.folds or tuple(sorted(set(table.fold)))
    if unknown := sorted(set(folds) - set(table.fold)):
        raise UserError(f"--folds {unknown[0]}: the protocol has {sorted(set(table.fold))}")
    if table.fold.nunique() < 3:
        raise UserError("training needs three folds: to train on, to stop by, and to test")
    made_from = made_of(asked, pairs, good, job.embedder)
    results: dict[int, dict[str, Any]] = {}
    work = None
    for fold in tqdm(folds, "folds", unit=" folds"):
        results[fold] = kept_fold(asked.run, fold, made_from)
        if not results[fold]:
            work = work or make_work(asked, pairs, good, job)
            results[fold] = do_fold(work, fold, asked.run, made_from)
    tested = table[table.fold.isin(folds)]
    scores = np.full(len(table), np.nan)
    for fold, result in results.items():
        scores[table.fold == fold] = np.array(result["scores"], float)
    thresholds = {fold: result["threshold"] for fold, result in results.items()}
    made = Answers(asked.pairs.data, rows, tested, scores[tested.index], thresholds)
    finish(replace(asked, folds=folds), made)


def check_train(asked: Train) -> None:
    """Raises UserError for settings that a trained network cannot have."""
    check_siamese(asked.siamese)
    if asked.seed < 0:
        raise UserError(f"--seed {asked.seed}: must not be negative")
    if asked.embed.flip == "on" or asked.embed.scales != (1.0,):
        raise UserError("a trained network sees one view: --flip on and --scales are for score")
    if asked.embed.backbone.startswith("onnx:") and asked.siamese.layers != "none":
        raise UserError(f"--backbone {asked.embed.backbone} cannot be trained: --layers none")


def make_work(asked: Train, pairs: Pairs, good: pd.DataFrame, job: Embedding) -> Work:
    """What all folds are trained with."""
    job = one_view(job)
    inputs = make_inputs(job, good, asked.siamese, asked.seed)
    known = (job.embedder, inputs, good, pairs.people, pairs.table)
    return Work(*known, asked.siamese, asked.seed)


def made_of(asked: Train, pairs: Pairs, good: pd.DataFrame, embedder: Embedder) -> dict[str, Any]:
    """All that a fold's network depends on, as JSON holds it."""
    kept = {k: v for k, v in flat(asked).items() if k not in (*NOT_REMEMBERED, "data", "pairs")}
    listed = pairs.table[["fold", "a", "b", "same"]].to_csv() + good.to_csv()
    digest = hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()
    return kept | {"weights": embedder.weights_id, "pictures": digest}


# ---- any two pictures ---------------------------------------------------------------------------


def pair(asked: Pair) -> None:
    """The program's third command; see the top of this file."""
    made = remembered(asked.run, asked.cache)
    calibration = read_json(asked.run / "calibration.json", MADE_BY)
    threshold = calibration["thresholds"].get(str(asked.false_accept))
    if threshold is None:
        kept = ", ".join(calibration["thresholds"])
        raise UserError(f"--false-accept {asked.false_accept}: {asked.run} is calibrated at {kept}")
    photos = read_two(asked.picture)
    embedder = embedder_of(made.embed, asked.cache)
    job = embedding_of(made.embed, embedder, Path(), asked.cache, len(photos))
    if isinstance(made, Train):
        similarity = trained_score(job, photos, fold_folder(asked.run, made.folds[0]), made.siamese)
    else:
        similarity = plain_score(job, photos, made.distance)
    said = {
        "pictures": list(photos.photo),
        "without_face": without_face(job, photos),
        "similarity": round(similarity, 4),
        "probability": round(probability(calibration, similarity), 4),
        "same": similarity >= threshold,
        "threshold": round(threshold, 4),
        "false_accept": asked.false_accept,
    }
    report_each("pictures show no face: their middle was compared", without_face(job, photos))
    print(json.dumps(said) if asked.json else in_words(said, calibration))


def in_words(said: Mapping[str, Any], calibration: Mapping[str, Any]) -> str:
    """What `pair` prints."""
    verdict = "same person" if said["same"] else "not the same person"
    far = f"{100 * said['false_accept']:.4g} % false accepts"
    pairs = f"{calibration['same']:,} of {calibration['pairs']:,}"
    return (
        f"similarity   {said['similarity']:.4f}\n"
        f"probability  {said['probability']:.4f} that they show the same person, where as many "
        f"pairs do as in calibration ({pairs})\n"
        f"verdict      {verdict} (at {far}: similarity of at least {said['threshold']:.4f})"
    )


# ---- the program --------------------------------------------------------------------------------


def main(arguments: Iterable[str]) -> int:
    """Scores, trains, or asks; returns the exit code, 0 for either verdict."""
    what = "Same person or not? By a protocol's pairs, and for any two pictures."
    asked = parse(list(arguments), "verify.py", Program, what).command
    if isinstance(asked, Table):
        log_to(None)
        return exit_code(lambda: print(results_table(asked.run)))
    if isinstance(asked, Pair):
        log_to(None)
        return exit_code(lambda: pair(asked))
    log_to(asked.run)

    def work() -> None:
        with only_process(asked.run / ".lock", str(asked.run)):
            score(asked) if isinstance(asked, Score) else train(asked)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
