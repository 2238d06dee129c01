"""The catalogue of a data set's pictures, its splits, and how a picture is read.

The catalogue is a pandas DataFrame of strings, a row a picture:

    path       relative to the data set's folder, with forward slashes: what a picture is known by
    identity   who it shows; empty in the test
    domain     photo, caricature, ...; empty where unknown; `query` or `gallery` in the test
    part       training, validation, query or gallery
    content    hash of the file's bytes
    problem    empty, or why the picture is damaged or cannot be read

A data set is only read, never written. What is wrong with it is counted and named in the log.
"""

import hashlib
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageFile, ImageOps
from tqdm import tqdm

from config import UserError
from data_extraction import (
    PICTURE_FORMATS,
    Layout,
    find_layout,
    named_as_picture,
    read_origin,
    visible_folders,
)
from runs import Run, files_below, log, read_json, report_each, whole_file, write_json

COLUMNS = ["path", "identity", "domain", "part", "content", "problem"]
TRUNCATED = "truncated"
TRAITS = ("CMYK", "palette", "transparent", "16-bit", "huge", "rotated")
ORIENTATION = 0x0112  # the EXIF tag
JPEG_END = b"\xff\xd9"
# OpenCV's ways to decode a JPEG, by what its sides are divided by.
DECODE_AT = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
WORKERS = min(8, os.cpu_count() or 1)

# A phone's 200-megapixel photograph is a picture. Pillow refuses twice this number as a bomb, and
# warns of what is over it, which the catalogue counts as huge.
Image.MAX_IMAGE_PIXELS = 110_000_000
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
HUGE = 50_000_000  # pixels
Image.init()
FORMATS = [name for name in PICTURE_FORMATS if name in Image.OPEN]

Pictures = dict[str, str]  # path -> identity
Read = TypeVar("Read", Image.Image, np.ndarray)


# ---- reading pictures ---------------------------------------------------------------------------


def content_hash(raw: bytes) -> str:
    """What a picture's content is known by: 32 hexadecimal digits."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def read_picture(raw: bytes, least: int) -> Image.Image:
    """A file's picture as RGB, upright, transparent parts on white.

    least: side in pixels that is needed. A JPEG of more than twice that is decoded at a half, a
        quarter or an eighth of its size, which is many times faster.

    Raises:
        OSError, ValueError, SyntaxError: the bytes hold no picture.
    """
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    image.draft("RGB", (2 * least, 2 * least))
    return to_rgb(upright(image))


def read_pixels(raw: bytes, least: int) -> np.ndarray:
    """The same as (height, width, 3) uint8: a JPEG in less than half of the time. Raises: as there.

    The pixels are those of `read_picture` to the byte, since OpenCV decodes by the same library.
    What has to be converted or turned, or ends too early, is left to Pillow.
    """
    pixels = _decode_jpeg(raw, least)
    return np.array(read_picture(raw, least)) if pixels is None else pixels


def _decode_jpeg(raw: bytes, least: int) -> np.ndarray | None:
    """What OpenCV makes of a JPEG; None where that might not be what Pillow does."""
    image = Image.open(io.BytesIO(raw), formats=FORMATS)
    plain = image.format == "JPEG" and image.mode == "RGB" and raw.endswith(JPEG_END)
    if not plain or orientation(image) != 1:
        return None
    width = image.width
    image.draft("RGB", (2 * least, 2 * least))
    how = DECODE_AT[round(width / image.width)] | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(raw, np.uint8), how)


def read_known_picture(path: Path, content: str, least: int) -> Image.Image:
    """Reads a picture of the catalogue; see read_picture.

    Raises:
        UserError: it cannot be decoded, or the file is not the one that the catalogue knows.
    """
    return _read_known(read_picture, path, content, least)


def read_known_pixels(path: Path, content: str, least: int) -> np.ndarray:
    """The same as pixels; see read_pixels. Raises: as there."""
    return _read_known(read_pixels, path, content, least)


def _read_known(read: Callable[[bytes, int], Read], path: Path, content: str, least: int) -> Read:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} has gone since --stage split: run it again") from error
    if content_hash(raw) != content:
        raise UserError(f"{path} has changed since --stage split: run it again")
    try:
        return read(raw, least)
    except Exception as error:  # what Pillow raises for a damaged file is not documented
        raise UserError(f"{path} cannot be decoded ({error}): take it out of the data") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF block says; as it is where that block is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return image


def orientation(image: Image.Image) -> int:
    """How the EXIF block says that a picture lies: 1 for upright, also where it is damaged."""
    with suppress(Exception):  # a damaged block can make Pillow raise nearly anything
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB; palette and alpha are laid on white, 16 bits are scaled to 8.

    >>> to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def truncated_pictures(allowed: bool) -> Iterator[None]:
    """Whether Pillow decodes a file that ends too early (a setting of the whole process)."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = allowed
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


class Checked(NamedTuple):
    """What a look at a file finds: its content's hash, a problem or "", and traits of note."""

    content: str
    problem: str
    traits: str = ""


def check_picture(path: Path) -> Checked:
    """Reads a file as a picture, a JPEG at an eighth of its size: that shows if all is there."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return Checked("", f"unreadable: {error.strerror}")
    content = content_hash(raw)
    try:
        traits = " ".join(_traits(Image.open(io.BytesIO(raw), formats=FORMATS)))
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        return Checked(content, f"unreadable: {_first_line(error)}")
    try:
        read_picture(raw, 1)
    except Exception as error:
        if isinstance(error, OSError) and "truncated" in str(error):
            return Checked(content, TRUNCATED, traits)
        return Checked(content, f"unreadable: {_first_line(error)}")
    return Checked(content, "", traits)


def _traits(image: Image.Image) -> Iterator[str]:
    """What is unusual about a picture, from its header."""
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode in ("P", "PA"):
        yield "palette"
    if image.has_transparency_data:
        yield "transparent"
    if image.mode.startswith("I"):
        yield "16-bit"
    if image.width * image.height >= HUGE:
        yield "huge"
    if orientation(image) != 1:
        yield "rotated"


def _first_line(error: Exception) -> str:
    """An error's message without the buffer's address, which is another in every run."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"cannot identify image file .*", "not a picture", text)


# ---- the catalogue ------------------------------------------------------------------------------


def list_pictures(root: Path) -> pd.DataFrame:
    """The catalogue's path, identity and part of every file in a data set, sorted by path.

    Raises:
        UserError: `root` is no competition, or a part of its test is empty.
    """
    layout = find_layout(root)
    if layout is None:
        raise UserError(f"{root}: holds no test/query/ and test/gallery/")
    rows = [row for part in Layout._fields for row in _list_part(root, layout, part)]
    catalogue = pd.DataFrame(rows, columns=["path", "identity", "part"], dtype=str)
    for part in ("query", "gallery"):
        if not (catalogue.part == part).any():
            raise UserError(f"{getattr(layout, part)}: holds no pictures")
    return catalogue.sort_values("path", ignore_index=True)


def _list_part(root: Path, layout: Layout, part: str) -> list[tuple[str, str, str]]:
    folder: Path | None = getattr(layout, part)
    if folder is None:
        return []
    classed = part in ("training", "validation")
    files = _usable_names(files_below(folder))
    if part == "query":
        # A broken picture keeps its place among the queries; what is no picture never had one.
        clutter = [file for file in files if not named_as_picture(file)]
        clutter = [file for file in clutter if check_picture(file).problem]
        report_each("files among the queries are no pictures: left out", map(str, clutter))
        files = sorted(set(files) - set(clutter))
    if classed:
        full = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
        empty = [f.name for f in visible_folders(folder) if f.name not in full]
        report_each(f"folders in {folder} hold no files", empty)
        loose = [file for file in files if file.parent == folder]
        report_each("files lie outside of an identity's folder: left out", map(str, loose))
        files = [file for file in files if file.parent != folder]
    return [
        (
            file.relative_to(root).as_posix(),
            file.relative_to(folder).parts[0] if classed else "",
            part,
        )
        for file in files
    ]


def _usable_names(files: list[Path]) -> list[Path]:
    """Leaves out names that are not UTF-8: neither a catalogue nor a submission can hold them."""

    def usable(path: Path) -> bool:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return False
        return True

    refused = [ascii(str(file)) for file in files if not usable(file)]
    report_each("files have names that are not UTF-8: left out", refused)
    return [file for file in files if usable(file)]


def read_catalogue(root: Path, domain_pattern: str | None = None) -> pd.DataFrame:
    """The whole catalogue of a data set: every file opened, hashed and checked.

    domain_pattern: regular expression with a group named `domain`, searched in the path.

    Raises:
        UserError: no competition there, a bad pattern, or repeated names in the test.
    """
    catalogue = list_pictures(root)
    catalogue["domain"] = _domains(catalogue, domain_pattern)
    with ThreadPoolExecutor(WORKERS) as pool, truncated_pictures(False):
        checks = pool.map(check_picture, [root / path for path in catalogue.path])
        checked = list(tqdm(checks, "checking", len(catalogue), unit=" pictures"))
    catalogue = catalogue.assign(**pd.DataFrame(checked, columns=Checked._fields, dtype=str))
    _refuse_repeats(catalogue)
    _report_problems(catalogue)
    _report_traits(catalogue)
    return catalogue[COLUMNS]


def _domains(catalogue: pd.DataFrame, pattern: str | None) -> pd.Series:
    in_test = catalogue.part.isin(["query", "gallery"])
    domains = catalogue.part.where(in_test, "")
    if pattern is None:
        return domains
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--domain-pattern {pattern!r} is no regular expression: {error}"
        ) from error
    if "domain" not in compiled.groupindex:
        raise UserError(f"--domain-pattern {pattern!r} has no group (?P<domain>...)")
    found = catalogue.path[~in_test].map(compiled.search)
    report_each(
        "training pictures do not fit --domain-pattern: their domain is unknown",
        catalogue.path[~in_test][[match is None for match in found]],
    )
    domains[~in_test] = [match.group("domain") or "" if match else "" for match in found]
    return domains


def _refuse_repeats(catalogue: pd.DataFrame) -> None:
    """A submission holds bare names: in one folder of the test each may stand for one picture."""
    for part in ("query", "gallery"):
        paths = catalogue.path[catalogue.part == part]
        repeated = paths[bare_names(paths).duplicated(keep=False).to_numpy()]
        if len(repeated):
            pair = " and ".join(repeated.iloc[:2])
            raise UserError(f"{len(repeated)} pictures of the {part} share their name: {pair}")


def bare_names(paths: Iterable[str]) -> pd.Series:
    """The file names that the leaderboard knows.

    >>> bare_names(["test/query/ada.jpg"]).tolist()
    ['ada.jpg']
    """
    return pd.Series([path.rpartition("/")[2] for path in paths], dtype=str)


def _report_problems(catalogue: pd.DataFrame) -> None:
    broken = ~readable(catalogue)
    truncated = catalogue.problem == TRUNCATED
    query = catalogue.part == "query"
    report_each("truncated pictures: used as far as they go", catalogue.path[truncated])
    named = catalogue.path + " (" + catalogue.problem + ")"
    report_each("files cannot be read as pictures: left out", named[broken & ~query])
    report_each("queries cannot be read: their ten are a guess", named[broken & query])


def _report_traits(catalogue: pd.DataFrame) -> None:
    for trait in TRAITS:
        names = catalogue.path[catalogue.traits.str.contains(trait, regex=False)]
        report_each(f"pictures are {trait}: read as upright RGB", names, logging.INFO)
    training = catalogue[(catalogue.part == "training") & readable(catalogue)]
    counts = training.identity.value_counts()
    alone = counts.index[counts == 1]
    report_each("identities have a single training picture", sorted(alone), logging.INFO)


def readable(catalogue: pd.DataFrame) -> pd.Series:
    """Which rows can be embedded: truncated pictures too, as far as they go."""
    return catalogue.problem.isin(["", TRUNCATED])


def rows_of(catalogue: pd.DataFrame, paths: Iterable[str]) -> pd.DataFrame:
    """The rows of these pictures, in their order."""
    return catalogue.set_index("path", drop=False).loc[list(paths)].reset_index(drop=True)


def write_catalogue(path: Path, catalogue: pd.DataFrame) -> None:
    """Writes a catalogue as CSV."""
    with whole_file(path) as beside:
        catalogue.to_csv(beside, index=False)


def load_catalogue(path: Path) -> pd.DataFrame:
    """Reads a catalogue back, every value as text.

    Raises:
        UserError: it is not there.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: make it with --stage split")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def count_pictures(run: Run) -> int:
    """Number of files in the run's catalogue."""
    return sum(len(load_catalogue(run.path(name))) for name in ("training.csv", "test.csv"))


# ---- splits -------------------------------------------------------------------------------------


def make_split(catalogue: pd.DataFrame, kind: str, query_domain: str, seed: int) -> dict[str, Any]:
    """Divides the labelled pictures of a catalogue.

    kind: auto, folder, disjoint or stratified (see config.SplitSettings).

    Returns {"kind", "closed_set", "train", "holdout", "validation": {"query", "gallery"}}, each
    part a map from path to identity. `holdout` judges the training of a classifier, so its
    identities are those of `train`; `validation` is a small retrieval task of its own.

    Raises:
        UserError: kind `folder` without a validation folder, or no picture of the query domain.
    """
    labelled = catalogue[catalogue.part.isin(["training", "validation"]) & readable(catalogue)]
    training = _by_identity(labelled[labelled.part == "training"])
    in_folder = _by_identity(labelled[labelled.part == "validation"])
    if kind == "auto":
        kind = "folder" if in_folder else "disjoint"
    if kind == "folder":
        if not in_folder:
            raise UserError("--split folder: the data set has no validation/ with pictures")
        train, validation = training, in_folder
    else:
        pooled = _by_identity(labelled)
        divide = {"disjoint": _split_disjoint, "stratified": _hold_out}[kind]
        train, validation = divide(pooled, np.random.default_rng([seed, 1]))
    closed = bool(validation) and set(validation) <= set(train)
    holdout = validation
    if not closed:
        train, holdout = _hold_out(train, np.random.default_rng([seed, 2]))
    domains = dict(zip(labelled.path, labelled.domain, strict=True))
    return {
        "kind": kind,
        "closed_set": closed,
        "train": _flatten(train),
        "holdout": _flatten(holdout),
        "validation": retrieval_task(validation, domains, query_domain, seed),
    }


Grouped = dict[str, list[str]]  # identity -> paths


def group(pictures: Pictures) -> Grouped:
    """{path: identity} -> {identity: sorted paths}."""
    groups: Grouped = {}
    for path, identity in sorted(pictures.items()):
        groups.setdefault(identity, []).append(path)
    return groups


def _by_identity(rows: pd.DataFrame) -> Grouped:
    return group(dict(zip(rows.path, rows.identity, strict=True)))


def _flatten(groups: Grouped) -> Pictures:
    return {path: identity for identity, paths in groups.items() for path in paths}


def _shuffled(paths: list[str], rng: np.random.Generator) -> list[str]:
    return [paths[i] for i in rng.permutation(len(paths))]


def _split_disjoint(groups: Grouped, rng: np.random.Generator) -> tuple[Grouped, Grouped]:
    """A fifth of the identities, whole, for validation: people whom training never sees."""
    names = sorted(groups)
    fifth = max(1, round(0.2 * len(names))) if len(names) > 1 else 0
    chosen = set(_shuffled(names, rng)[:fifth])
    return (
        {name: groups[name] for name in names if name not in chosen},
        {name: groups[name] for name in names if name in chosen},
    )


def _hold_out(groups: Grouped, rng: np.random.Generator) -> tuple[Grouped, Grouped]:
    """A fifth of each identity's pictures; an identity with one picture keeps it."""
    kept: Grouped = {}
    held: Grouped = {}
    for name, paths in sorted(groups.items()):
        paths = _shuffled(paths, rng)
        out = min(max(1, len(paths) // 5), len(paths) - 1)
        kept[name] = sorted(paths[out:])
        if out:
            held[name] = sorted(paths[:out])
    return kept, held


def retrieval_task(
    groups: Grouped, domains: dict[str, str], query_domain: str, seed: int
) -> dict[str, Pictures]:
    """Queries and gallery: by domain where domains are known, else a fifth of each identity."""
    pictures = _flatten(groups)
    known = {domains[path] for path in pictures} - {""}
    if known and query_domain not in known:
        found = ", ".join(sorted(known))
        raise UserError(f"--query-domain {query_domain}: validation has only the domains {found}")
    if known:
        query = {path for path in pictures if domains[path] == query_domain}
    else:
        rng = np.random.default_rng([seed, 3])
        shuffled = [_shuffled(paths, rng) for _, paths in sorted(groups.items())]
        query = {path for paths in shuffled for path in paths[: max(1, len(paths) // 5)]}
    return {
        "query": {path: name for path, name in pictures.items() if path in query},
        "gallery": {path: name for path, name in pictures.items() if path not in query},
    }


# ---- the stage ----------------------------------------------------------------------------------


def run_split(run: Run) -> str:
    """The stage: training.csv, test.csv (the catalogue in two parts) and split.json."""
    catalogue = read_catalogue(run.data, domain_pattern(run))
    settings = run.settings.split
    split = make_split(catalogue, settings.split, settings.query_domain, run.seed)
    in_test = catalogue.part.isin(["query", "gallery"])
    write_catalogue(run.path("test.csv"), catalogue[in_test])
    write_catalogue(run.path("training.csv"), catalogue[~in_test])
    write_json(run.path("split.json"), split)
    return _describe(catalogue, split)


def domain_pattern(run: Run) -> str | None:
    """--domain-pattern, or what the data set's own layout.json says."""
    given = run.settings.split.domain_pattern
    return given or (read_origin(run.data) or {}).get("domain_pattern")


def load_split(run: Run) -> dict[str, Any]:
    """What run_split wrote to split.json."""
    split: dict[str, Any] = read_json(run.path("split.json"), "--stage split")
    if not {"train", "holdout", "validation"} <= split.keys():
        raise UserError(f"{run.path('split.json')} is damaged: --stage split makes it anew")
    return split


def all_labelled(split: Mapping[str, Any]) -> Pictures:
    """Every labelled picture of a split, {path: identity}."""
    validation = split["validation"]
    return split["train"] | split["holdout"] | validation["query"] | validation["gallery"]


def unseen_split(run: Run) -> dict[str, Any]:
    """The split as what comes after training has to see it: with --refit every labelled picture has
    been trained on, and none is held out or left for the validation."""
    split = load_split(run)
    if not run.settings.train.all_seen:
        return split
    nobody: dict[str, Pictures] = {"query": {}, "gallery": {}}
    return {**split, "train": all_labelled(split), "holdout": {}, "validation": nobody}


def _describe(catalogue: pd.DataFrame, split: dict[str, Any]) -> str:
    people = len(set(split["train"].values()))
    if not people:
        log.warning("warning: no training pictures: the backbone is used untrained")
        return f"{len(catalogue)} pictures, none for training"
    query, gallery = (len(split["validation"][part]) for part in ("query", "gallery"))
    return (
        f"{split['kind']}: {len(split['train'])} pictures of {people} people for training, "
        f"{len(split['holdout'])} held out; validation {query} queries, {gallery} gallery pictures"
    )
