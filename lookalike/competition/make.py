"""Make a competition: the participants' package, and what the organizer keeps.

lookalike competition make --source-path faces --out friday

friday/friday.zip is for the participants; friday/organizer/ never leaves: solution.csv (for
`evaluate.py --labels` and `lookalike submit serve`), names.csv (which picture became which),
settings.json and leaks.md.
"""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from tabulate import tabulate

from lookalike.competition.drawing import draw
from lookalike.competition.leaks import Leak, baselines, near_copies, read_facts, read_thumbnails
from lookalike.competition.package import write_package
from lookalike.competition.settings import LeaksCommand, MakeCommand
from lookalike.core.checks import check_bounds
from lookalike.core.errors import UserError
from lookalike.core.files import write_json, write_table, write_text
from lookalike.core.log import log, report_each
from lookalike.core.readers import read_bytes
from lookalike.core.settings import ListingSettings
from lookalike.data.catalogue import outside_pictures
from lookalike.data.domains import find_domains
from lookalike.data.images import map_images, upright_size
from lookalike.data.layout import class_folders
from lookalike.data.tables import list_tables
from lookalike.evaluation.metrics import TOP
from lookalike.evaluation.scoring import read_labels

SMALLEST, LARGEST = 32, 512  # longer side of the pictures, where none is named
README = """# {name}

For every picture in `test/query/`, rank the pictures in `test/gallery/`: those of the same identity
first. No identity of the test is in `training/`, which has a folder for each of its own.

| part | pictures | identities |
|---|---|---|
{counts}

A submission is a JSON file: for every query the ten best names of the gallery, best first, none
twice; `sample_submission.json` has the form. The score is 600 × Recall@1 + 300 × Recall@5 + 100 ×
Recall@10, from 0 to 1000: whether a picture of the identity is among the first 1, 5 and 10.

Names, sizes and dates of the files say nothing. Labeling the test by hand is not allowed.

```bash
python main.py --stage all --data {name} --run runs/{name}        # a submission by lookalike
python -m lookalike submit send --run runs/{name} --url URL --token TOKEN
```

The organizer tells you the address of the leaderboard, and a join code or a token.
"""


def make_competition(command: MakeCommand) -> None:
    """Write the package and the organizer's folder, and print what is in them.

    Raises:
        UserError: The folder is there already, or the pictures do not suffice.
    """
    check_bounds(command)
    if command.out.exists():
        raise UserError(f"--out {command.out}: is there already; name a new folder")
    drawn = draw(_pictures(command), command)
    name = command.out.resolve().name
    beside = command.out.with_name(f".{name}.partial")  # nothing half made has the name
    shutil.rmtree(beside, ignore_errors=True)
    package, organizer = beside / f"{name}.zip", beside / "organizer"
    organizer.mkdir(parents=True)
    root = _folder_of(command.source_path)
    side = command.image_size or _usual_side(drawn, root)
    write_package(package, drawn, root, side, _texts(name, drawn))
    _write_organizer(organizer, drawn, command)
    beside.rename(command.out)
    print(tabulate(_counts(drawn), ["part", "pictures", "identities"]) + "\n")
    show_leaks(LeaksCommand(command.out, command.seed))
    out = command.out
    log.info("%s for the participants, %s for you", out / package.name, out / organizer.name)


def show_leaks(command: LeaksCommand) -> None:
    """Write leaks.md of a competition that was made, and print it.

    Raises:
        UserError: The folder holds no competition.
    """
    folder = command.folder
    labels = read_labels(folder / "organizer" / "solution.csv")
    packages = sorted(folder.glob("*.zip"))
    if len(packages) != 1:
        raise UserError(f"{folder}: holds {len(packages)} zips instead of one, the package")
    facts = read_facts(packages[0])
    if unknown := {*labels.query, *labels.gallery} - {Path(name).name for name in facts}:
        raise UserError(f"{packages[0]}: lacks {len(unknown)} pictures, such as {min(unknown)}")
    report = leak_report(
        baselines(facts, labels, command.seed), near_copies(read_thumbnails(packages[0]))
    )
    write_text(folder / "organizer" / "leaks.md", report)
    print(report)


def _texts(name: str, drawn: pd.DataFrame) -> dict[str, str]:
    """Return the texts in the package."""
    counts = "\n".join(f"| {part} | {n:,} | {who} |" for part, n, who in _counts(drawn))
    return {
        "README.md": README.format(name=name, counts=counts),
        "sample_submission.json": json.dumps(_sample(drawn), indent=0) + "\n",
    }


def _folder_of(source: Path) -> Path:
    """Return the folder of the pictures: the source, or that of a table."""
    return source.parent if source.is_file() else source


def _usual_side(drawn: pd.DataFrame, root: Path) -> int:
    """Return the median of the longer sides of pictures, within what --image-size may be."""
    paths = [root / path for path in drawn.path]
    sides = [*map_images(lambda path: max(upright_size(read_bytes(path))), paths, "measuring")]
    return max(SMALLEST, min(LARGEST, int(np.median(sides))))


def _listed(command: MakeCommand) -> pd.DataFrame:
    """Return all pictures of the source: identity, path and domain."""
    if command.source_path.is_file():
        root, source = command.source_path.parent, {"training": command.source_path}
        named = ListingSettings(
            image_column=command.image_column, identity_column=command.identity_column
        )
        table = list_tables(root, source, named)[["identity", "path", "domain"]]
    else:
        classes = class_folders(command.source_path)
        rows = [
            (name, f"{name}/{path.as_posix()}", "")
            for name, paths in sorted(classes.items())
            for path in sorted(paths)
        ]
        table = pd.DataFrame(rows, columns=["identity", "path", "domain"], dtype=str)
    if command.domain_pattern is not None:
        return table.assign(domain=find_domains(table.path.tolist(), command.domain_pattern))
    return table


def _pictures(command: MakeCommand) -> pd.DataFrame:
    """Return the pictures that can be used: identity, path, content and domain."""
    table, root = _listed(command), _folder_of(command.source_path)
    checked = outside_pictures([root / path for path in table.path])
    table = table.assign(content=checked.content, problem=checked.problem)
    broken = table.problem != ""
    report_each("pictures are damaged: left out", table.path[broken])
    table = table[~broken]
    owners = table.groupby("content").identity.transform("nunique")
    report_each("pictures are of two identities: left out", table.path[owners > 1])
    table = table[owners == 1]
    again = table.content.duplicated()
    report_each("pictures are copies of another: left out", table.path[again])
    return table[~again].reset_index(drop=True).drop(columns="problem")


def _counts(drawn: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Return the number of pictures and of identities of each part."""
    return [
        (part, len(rows), rows.identity.nunique())
        for part in ("training", "query", "gallery")
        for rows in [drawn[drawn.part == part]]
    ]


def _sample(drawn: pd.DataFrame) -> dict[str, list[str]]:
    """Return a submission that knows nothing: the first ten gallery pictures for every query."""
    names = {p: [Path(n).name for n in drawn.name[drawn.part == p]] for p in ("query", "gallery")}
    return dict.fromkeys(names["query"], names["gallery"][:TOP])


def _write_organizer(folder: Path, drawn: pd.DataFrame, command: MakeCommand) -> None:
    """Write solution.csv, names.csv and settings.json."""
    test = drawn[drawn.part != "training"]
    solution = {
        "image": [Path(name).name for name in test.name],
        "identity": test.identity,
        "split": test.part,
        "Usage": test.usage,
    }
    write_table(folder / "solution.csv", pd.DataFrame(solution))
    write_table(folder / "names.csv", drawn[["name", "path", "identity", "domain"]])
    write_json(folder / "settings.json", msgspec.to_builtins(command, enc_hook=str))


def leak_table(leaks: list[Leak]) -> str:
    """Return what each baseline scores beside chance, as a text table."""
    rows = [
        [
            f"by {leak.baseline}",
            f"{leak.score:.1f}",
            f"{leak.chance:.1f}",
            f"{leak.most:.1f}",
            _verdict(leak),
        ]
        for leak in leaks
    ]
    heads = ["a ranking without looking", "score", "by chance", "at most", ""]
    return tabulate(rows, heads, disable_numparse=True, tablefmt="github")


def _verdict(leak: Leak) -> str:
    """Return whether a baseline knows something."""
    return "at chance" if leak.score <= leak.most else "more than chance"


def leak_report(leaks: list[Leak], copies: list[tuple[str, str]]) -> str:
    """Return leaks.md.

    Args:
        leaks: What baselines score.
        copies: Pictures of two parts that are nearly the same.
    """
    lines = [f"- {one} and {other}" for one, other in copies] or ["None."]
    return "\n".join(
        [
            "# What the package gives away",
            "",
            leak_table(leaks),
            "",
            "## Pictures of two parts that are nearly the same",
            "",
            *lines,
            "",
        ]
    )
