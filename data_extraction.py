"""Gets a competition into data/<name>/: training/<identity>/, test/query/, test/gallery/.

    python data_extraction.py --source demo                                # drawn by code
    python data_extraction.py --source competition --data data/celebrities  # Google Drive
    python data_extraction.py --source archive --source-path faces.zip
    python data_extraction.py --source folder --source-path lfw62 --protocol report
    python data_extraction.py --source lfw                                 # scikit-learn's cache
    python data_extraction.py --source imdb --metadata imdb.mat --source-path imdb

A layout is made in a folder of its own and moved into place when all of it is there. `layout.json`
in it says what it was made from: the same command finds it and does nothing.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

import archives
import demo
import imdb
from config import ExtractSettings, UserError, check_extract, parse
from runs import (
    Run,
    exit_code,
    files_below,
    listing,
    log,
    log_to,
    only_process,
    report_each,
    write_json,
)

DATA = Path("data")
Classes = dict[str, list[Path]]  # identity -> pictures, as paths inside its folder
Placed = dict[str, list[tuple[str, Path]]]  # part of the layout -> (identity, picture) pairs
Most = tuple[int | None, int | None]  # pictures of a person in training, in the test; None: all
# What is opened as a picture. Pillow knows more, and starts another program for some (EPS).
PICTURE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
# Where a picture of the demo's training says which domain it is from.
DEMO_DOMAINS = r"(?P<domain>[a-z]+)_\d+\.jpg$"


class Layout(NamedTuple):
    """Where the parts of a competition lie; training and validation may be missing."""

    query: Path
    gallery: Path
    training: Path | None
    validation: Path | None

    @property
    def labels(self) -> Path:
        """Where the labels of the test lie, if they are known."""
        return self.query.parent.parent / "labels.json"


def find_layout(root: Path, depth: int = 3) -> Layout | None:
    """Looks for test/query and test/gallery in `root` and up to `depth` folders below it.

    Training pictures may lie in `training` or `train`, validation in `validation` or `val`.
    None where there is no such folder.
    """
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            test = folder / "test"
            if (test / "query").is_dir() and (test / "gallery").is_dir():
                training = _first_folder(folder, "training", "train")
                validation = _first_folder(folder, "validation", "val")
                return Layout(test / "query", test / "gallery", training, validation)
        level = [sub for folder in level if folder.is_dir() for sub in visible_folders(folder)]
    return None


def _first_folder(parent: Path, *names: str) -> Path | None:
    return next((parent / name for name in names if (parent / name).is_dir()), None)


def visible_folders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted, without hidden ones."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def choose_data(data: Path | None, extract: ExtractSettings) -> Path:
    """The data set's folder: the one named, the one that --source makes, the only one in data/,
    or the built-in demo; in that last case `extract.source` is set to it.

    Raises:
        UserError: data/ holds several data sets and none was named.
    """
    if data is not None:
        return data
    if extract.source is None:
        found = [f for f in visible_folders(DATA) if find_layout(f)] if DATA.is_dir() else []
        if len(found) == 1:
            return found[0]
        if found:
            names = " or ".join(f"--data {folder}" for folder in found)
            raise UserError(f"{DATA}/ holds several data sets: choose one with {names}")
        extract.source = "demo"
    if extract.source in ("folder", "archive"):
        return DATA / Path(_source_path(extract)).resolve().name.split(".")[0]
    if extract.source == "imdb":
        return DATA / imdb.metadata_file(extract).stem
    return DATA / {"competition": "celebrities"}.get(extract.source, extract.source)


def run_extract(run: Run) -> str | None:
    """The stage: see `extract`."""
    return extract(run.data, run.settings.extract, run.seed, run.settings.general.force)


def extract(data: Path, settings: ExtractSettings, seed: int, force: bool = False) -> str | None:
    """Lays a competition out in `data`, unless it lies there already, made from the same.

    Returns a line that says what was made, None where nothing was to do.

    Raises:
        UserError: the source cannot be had or is no competition, or `data` is a folder that this
            program did not make.
    """
    if settings.source is None:
        if not data.is_dir() or find_layout(data) is None:
            raise UserError(
                f"{data}: no data set there (test/query/ and test/gallery/ are looked for). "
                "Name its folder with --data, or make one with --source"
            )
        return None
    wanted = origin(settings, seed)
    asked, data = data, data.resolve()
    with only_process(data.parent / f".{data.name}.lock", f"{asked}"):
        made_from = read_origin(data)
        if made_from == wanted and not force:
            return None
        if made_from is None and data.exists() and (data.is_file() or any(data.iterdir())):
            raise UserError(f"{data} holds what --source did not make: choose another --data")
        _make_in_place(data, settings, seed, wanted)
    return f"laid out {asked} from {settings.source}"


def _make_in_place(data: Path, settings: ExtractSettings, seed: int, wanted: Any) -> None:
    """Makes the layout beside its place and moves it there: a kill leaves the old, the new or
    none, never a part."""
    partial, old = (data.parent / f".{data.name}.{state}" for state in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        downloaded = lay_out(partial, settings, seed)
        write_json(partial / "layout.json", wanted)
        if data.exists():
            data.rename(old)
        partial.rename(data)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
    if downloaded is not None and not settings.keep_archive:
        _delete_download(downloaded)


def _delete_download(archive: Path) -> None:
    """Deletes a downloaded archive and what the downloader noted about it."""
    for path in (archive, archive.with_name(archive.name + ".json")):
        path.unlink(missing_ok=True)


def origin(settings: ExtractSettings, seed: int) -> dict[str, Any]:
    """Everything that a layout depends on, as it is kept in its layout.json."""
    made_from: dict[str, Any] = {"source": settings.source}
    if settings.source == "competition":
        return made_from | {"drive_id": settings.drive_id}
    if settings.source == "archive":
        return made_from | _state_of_file(_source_path(settings))
    if settings.source == "demo":
        return made_from | {"seed": seed, "domain_pattern": DEMO_DOMAINS}
    made_from |= {"protocol": settings.protocol, "seed": seed}
    made_from["most"] = [settings.train_per_person, settings.test_per_person]
    if settings.source == "imdb":
        metadata = _state_of_file(str(imdb.metadata_file(settings)))
        made_from |= {"metadata": metadata, "filters": imdb.filter_settings(settings)}
    if settings.source in ("folder", "imdb"):
        root = Path(_source_path(settings)).resolve()
        return made_from | {"source_path": str(root), "files": listing(root)}
    return made_from | {"lfw_home": str(settings.lfw_home) if settings.lfw_home else None}


def _source_path(settings: ExtractSettings) -> str:
    if settings.source_path is None:
        raise UserError(f"--source {settings.source} needs --source-path")
    return settings.source_path


def _state_of_file(source: str) -> dict[str, Any]:
    """A local archive counts as another one when its size or time has changed."""
    path = archives.local_path(source)
    if path is None or not path.is_file():
        return {"source_path": source}
    state = path.stat()
    return {"source_path": str(path.resolve()), "size": state.st_size, "mtime": state.st_mtime_ns}


def read_origin(data: Path) -> dict[str, Any] | None:
    """What `data` was made from; None where this program did not make it."""
    try:
        made_from = json.loads((data / "layout.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made_from if isinstance(made_from, dict) and "source" in made_from else None


def lay_out(target: Path, settings: ExtractSettings, seed: int) -> Path | None:
    """Fills the folder `target` from the source; returns an archive that it downloaded, if any."""
    if settings.source == "demo":
        demo.draw_competition(target, seed)
    elif settings.source == "folder":
        root = Path(_source_path(settings))
        lay_out_classes(root, class_folders(root), target, settings, seed)
    elif settings.source == "lfw":
        root = lfw_folder(settings.lfw_home)
        people = class_folders(root, at_least=20)
        lay_out_classes(root, people, target, settings, seed)
    elif settings.source == "imdb":
        root = Path(_source_path(settings))
        pictures = imdb.choose_pictures(root, settings)
        people = imdb.by_identity(pictures)
        copies = lay_out_classes(root, people, target, settings, seed, flat=True)
        imdb.write_table(target, pictures, root, copies)
    else:
        downloads = target.parent / ".downloads"
        if settings.source == "competition":
            archive = archives.fetch_drive(settings.drive_id, downloads)
        else:
            archive = archives.fetch(_source_path(settings), downloads)
        downloaded = archive if archive.is_relative_to(downloads) else None
        try:
            lay_out_archive(archive, target)
        except UserError:
            if downloaded is not None:
                _delete_download(downloaded)  # what is damaged is fetched anew next time
            raise
        return downloaded
    return None


def lay_out_archive(archive: Path, target: Path) -> None:
    """Unpacks an archive and moves the competition found in it to `target`.

    Raises:
        UserError: the archive is refused (see archives.unpack) or holds no competition.
    """
    unpacked = target / "unpacked"
    archives.unpack(archive, unpacked)
    layout = find_layout(unpacked)
    if layout is None:
        raise UserError(
            f"{archive}: holds no test/query/ and test/gallery/. If it is a folder of class "
            "folders, unpack it and use --source folder --source-path FOLDER"
        )
    (target / "test").mkdir()
    parts = {
        "test/query": layout.query,
        "test/gallery": layout.gallery,
        "training": layout.training,
        "validation": layout.validation,
        "labels.json": layout.labels,
    }
    for name, found in parts.items():
        if found is not None and found.exists():
            found.replace(target / name)
    shutil.rmtree(unpacked)


def class_folders(root: Path, at_least: int = 1) -> Classes:
    """The pictures of a folder with a folder per identity: {identity: paths inside its folder}.

    Files without a picture's suffix and identities with fewer than `at_least` pictures are left
    out; the files are reported, and so are folders without pictures.

    Raises:
        UserError: there is no such folder, or it holds no class folder with pictures.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold a folder of pictures per identity")
    classes: Classes = {}
    strangers = []
    for folder in visible_folders(root):
        files = files_below(folder)
        classes[folder.name] = [f.relative_to(folder) for f in files if named_as_picture(f)]
        strangers += [str(f) for f in files if not named_as_picture(f)]
    report_each("files are no pictures and are left out", strangers)
    report_each("folders hold no pictures", (name for name, found in classes.items() if not found))
    classes = {name: found for name, found in classes.items() if len(found) >= at_least}
    if not classes:
        raise UserError(f"{root}: holds no class folders with pictures (<identity>/*.jpg)")
    return classes


def named_as_picture(path: Path) -> bool:
    """Whether a file's name ends as a picture's does.

    >>> named_as_picture(Path("a.JPG")), named_as_picture(Path("Thumbs.db"))
    (True, False)
    """
    return Image.registered_extensions().get(path.suffix.lower()) in PICTURE_FORMATS


def lfw_folder(home: Path | None) -> Path:
    """The folder of Labeled Faces in the Wild: `home` or what lies in it, else scikit-learn's
    cache, which downloads the set once.

    Raises:
        UserError: it is neither there nor can be downloaded.
    """
    if home is not None:
        inside = [home / "lfw_home" / "lfw_funneled", home / "lfw_funneled", home / "lfw"]
        return next((folder for folder in inside if folder.is_dir()), home)
    from sklearn.datasets import fetch_lfw_people, get_data_home

    try:
        fetch_lfw_people(min_faces_per_person=20, resize=0.1)
    except OSError as error:
        raise UserError(
            f"Labeled Faces in the Wild cannot be downloaded ({error}). Download lfw-funneled.tgz "
            "by hand, unpack it, and name the folder with --lfw-home"
        ) from error
    return Path(get_data_home()) / "lfw_home" / "lfw_funneled"


def lay_out_classes(
    root: Path, classes: Classes, target: Path, how: ExtractSettings, seed: int, flat: bool = False
) -> dict[Path, Path]:
    """Copies pictures below `root` into a competition's layout, with its test's labels.

    flat: the paths start in `root` itself, not in a folder of the identity in it.
    Returns {place: picture}.
    """
    share = {"report": report_protocol, "disjoint": disjoint_protocol}[how.protocol]
    rng, most = np.random.default_rng(seed), (how.train_per_person, how.test_per_person)
    repeats = repeated_names(classes)
    labels: dict[str, dict[str, str]] = {"query": {}, "gallery": {}}
    copies: dict[Path, Path] = {}
    for part, pairs in share(classes, rng, most).items():
        for identity, picture in pairs:
            place = target / part / identity / picture
            if part.startswith("test/"):
                name = bare_name(identity, picture, repeats)
                labels[part.removeprefix("test/")][name] = identity
                place = target / part / name
            if place in copies:
                raise UserError(
                    f"{identity}/{picture} and {copies[place]}: both become {place.name}"
                )
            copies[place] = root / ("" if flat else identity) / picture
    if not labels["query"] or not labels["gallery"]:
        raise UserError(f"{root}: too few pictures for a test with queries and a gallery")
    copy_all(copies)
    write_json(target / "labels.json", labels)
    return copies


def repeated_names(classes: Classes) -> set[str]:
    """Bare file names that more than one picture has.

    >>> sorted(repeated_names({"ada": [Path("1.jpg")], "bo": [Path("1.jpg"), Path("2.jpg")]}))
    ['1.jpg']
    """
    counts = Counter(picture.name for pictures in classes.values() for picture in pictures)
    return {name for name, count in counts.items() if count > 1}


def bare_name(identity: str, picture: Path, repeats: set[str]) -> str:
    """The name in the test's flat folders: the picture's own unless several pictures share it.

    >>> bare_name("ada", Path("profile/1.jpg"), {"1.jpg"})
    'ada__profile__1.jpg'
    """
    return "__".join((identity, *picture.parts)) if picture.name in repeats else picture.name


def report_protocol(classes: Classes, rng: np.random.Generator, most: Most) -> Placed:
    """The report's shares of each identity's n pictures: n/2 training, n/5 validation, rest test.

    All identities are in every part (a closed set). Of the m test pictures, max(1, m/5) are
    queries and the others gallery; every share is rounded down, then cut to `most`, where
    validation may have as many as training.

    >>> classes = {"ada": [Path(str(i)) for i in range(20)]}
    >>> placed = report_protocol(classes, np.random.default_rng(0), (None, 5))
    >>> {part: len(pairs) for part, pairs in placed.items()}
    {'training': 10, 'validation': 4, 'test/query': 1, 'test/gallery': 4}
    """
    placed: Placed = {"training": [], "validation": [], "test/query": [], "test/gallery": []}
    for identity, pictures in sorted(classes.items()):
        pairs = [(identity, pictures[i]) for i in rng.permutation(len(pictures))]
        training, validation = len(pairs) // 2, len(pairs) // 5
        placed["training"] += pairs[:training][: most[0]]
        placed["validation"] += pairs[training : training + validation][: most[0]]
        _share_test(placed, pairs[training + validation :][: most[1]])
    return placed


def disjoint_protocol(classes: Classes, rng: np.random.Generator, most: Most) -> Placed:
    """30 % of the identities, whole, into the test, the others into training.

    Of the m pictures of a test identity, max(1, m/5) are queries and the others gallery; what
    training or the test gets of an identity is cut to `most`.

    >>> classes = {name: [Path(name + str(i)) for i in range(10)] for name in "abcdefghij"}
    >>> placed = disjoint_protocol(classes, np.random.default_rng(0), (None, None))
    >>> {part: len(pairs) for part, pairs in placed.items()}
    {'training': 70, 'test/query': 6, 'test/gallery': 24}
    """
    placed: Placed = {"training": [], "test/query": [], "test/gallery": []}
    names = sorted(classes)
    test = set(rng.permutation(names)[: max(1, round(0.3 * len(names)))].tolist())
    for identity in names:
        pairs = [(identity, classes[identity][i]) for i in rng.permutation(len(classes[identity]))]
        if identity in test:
            _share_test(placed, pairs[: most[1]])
        else:
            placed["training"] += pairs[: most[0]]
    return placed


def _share_test(placed: Placed, pairs: list[tuple[str, Path]]) -> None:
    queries = max(1, len(pairs) // 5)
    placed["test/query"] += pairs[:queries]
    placed["test/gallery"] += pairs[queries:]


def copy_all(copies: Mapping[Path, Path]) -> None:
    """Copies files, {place: picture}, making the folders they need."""
    for folder in {place.parent for place in copies}:
        folder.mkdir(parents=True, exist_ok=True)
    for place, picture in tqdm(copies.items(), "copying", unit=" pictures"):
        shutil.copy2(picture, place)


@dataclass
class Program:
    """Settings of this file as a program."""

    extract: ExtractSettings = field(default_factory=ExtractSettings)
    data: Path | None = None
    """Folder to lay the data out in. Default: data/<name of the source>."""
    seed: int = 0
    """Seed of the layout."""
    force: bool = False
    """Make the layout anew even if it is there."""


def main(arguments: Iterable[str]) -> int:
    """Lays one competition out; returns the exit code."""
    program = parse(
        list(arguments), "data_extraction.py", Program, "Gets a competition into data/."
    )
    log_to(None)

    def work() -> None:
        check_extract(program.extract)
        data = choose_data(program.data, program.extract)
        made = extract(data, program.extract, program.seed, program.force)
        log.info("%s", made or f"{data} is in place, made from the same: nothing to do")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
