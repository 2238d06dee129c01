"""`lookalike verify fill`: write the similarity of each pair into a sample submission.

    fill_sample(FillCommand(Path("sample_submission.csv"), Path("test"), EmbedSettings("sface")))

The pictures of a pair stand in two columns, or in one, joined by a sign (`a.jpg-b.jpg`). Which
column takes the similarity is told by its name, or by being the only one left.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from lookalike.core.checks import check_bounds, check_scales
from lookalike.core.errors import UserError
from lookalike.core.files import write_text
from lookalike.core.log import log, report_each
from lookalike.core.readers import read_outside_table
from lookalike.data.catalogue import outside_pictures, readable
from lookalike.data.tables import PictureFiles
from lookalike.evaluation.samples import usual_or_only
from lookalike.features.embedding import embed
from lookalike.features.extractor import make_extractors
from lookalike.verification.settings import FillCommand

JOINTS = ("-", ",", " ", "|", "__")  # between the pictures of a pair in one column
# The usual names of the column of similarities.
USUAL = (
    "similarity",
    "score",
    "is_related",
    "same",
    "prediction",
    "probability",
    "target",
    "label",
)


def fill_sample(command: FillCommand) -> None:
    """Write a sample's rows with the similarity of their pictures, from 0 to 1.

    It is (1 + cosine) / 2 of the embeddings. A pair with a picture that cannot be read gets the
    mean of the others, and is reported.

    Raises:
        UserError: The settings cannot be used; or the sample is damaged, names pictures that are
            missing, or does not tell which column takes the similarity.
    """
    check_bounds(command)
    check_scales(command.embed.scales)
    table = read_outside_table(command.sample)
    pairs, pair_columns = find_pairs(command.sample, table, PictureFiles(command.data))
    column = _value_column(command.sample, [c for c in table.columns if c not in pair_columns])
    names = sorted({name for pair in pairs for name in pair})
    rows = outside_pictures([command.data / name for name in names]).assign(name=names)
    good = rows[readable(rows)].reset_index(drop=True)
    report_each("pictures cannot be read: their pairs get the mean", rows.name[~readable(rows)])
    if good.empty:
        raise UserError(f"{command.data}: no picture of {command.sample} can be read")
    extractor = make_extractors(command.embed, Path(), command.cache, len(good))
    vectors = dict(zip(good.name, embed(extractor, good).astype(float), strict=True))
    values = np.array(
        [
            (1 + vectors[a] @ vectors[b]) / 2 if a in vectors and b in vectors else np.nan
            for a, b in pairs
        ]
    )
    unknown = np.isnan(values)
    values[unknown] = 0.5 if unknown.all() else values[~unknown].mean()
    table[column] = [f"{value:.6f}" for value in np.clip(values, 0, 1)]
    separator = "\t" if command.sample.suffix.lower() == ".tsv" else ","
    text = io.StringIO()
    table.to_csv(text, index=False, sep=separator, lineterminator="\n")
    write_text(command.output, text.getvalue())
    log.info("%d pairs of %d pictures -> %s", len(pairs), len(names), command.output)


def find_pairs(
    path: Path, table: pd.DataFrame, files: PictureFiles
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pictures of each row, as paths in their folder, and the columns that name them.

    Args:
        path: Of the sample, for errors.
        table: The sample.
        files: The pictures.

    Raises:
        UserError: No two columns, and no column of joined names, hold pictures of the folder.
    """
    if table.empty:
        raise UserError(f"{path}: has no rows")
    named = [
        column
        for column in table.columns
        if all(files.find(value) is not None for value in table[column])
    ]
    if len(named) == 2:
        first, second = ([files.find(value) or "" for value in table[c]] for c in named)
        return list(zip(first, second, strict=True)), named
    for column in table.columns:
        pairs = [_parted(value, files) for value in table[column]]
        if all(pair is not None for pair in pairs):
            return [pair for pair in pairs if pair is not None], [column]
    raise UserError(
        f"{path}: two columns, or one of names joined by -, have to name pictures below "
        f"{files.root}; {len(named)} of {', '.join(map(str, table.columns))} do"
    )


def _parted(value: str, files: PictureFiles) -> tuple[str, str] | None:
    """Return the two pictures that a joined name is of, None where it is none."""
    for joint in JOINTS:
        parts = value.split(joint)
        for end in range(1, len(parts)):
            a, b = (files.find(joint.join(side)) for side in (parts[:end], parts[end:]))
            if a is not None and b is not None:
                return a, b
    return None


def _value_column(path: Path, columns: list[str]) -> str:
    """Return the column that takes the similarity."""
    found = usual_or_only({column: column for column in columns}, USUAL)
    if found is not None:
        return found
    raise UserError(
        f"{path}: which column takes the similarity? {', '.join(columns) or 'None'} could; it "
        f"should be called {', '.join(USUAL)}"
    )
