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

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike.core.checks import check_extract
from lookalike.core.errors import UserError
from lookalike.core.files import listing, only_process, write_json
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import parse
from lookalike.core.runs import Run
from lookalike.core.settings import ExtractSettings
from lookalike.data import archives, demo, imdb
from lookalike.data.layout import DATA, class_folders, find_layout, read_origin, visible_folders
from lookalike.data.protocols import lay_out_classes

# Where a picture of the demo's training says which domain it is from.
DEMO_DOMAINS = r"(?P<domain>[a-z]+)_\d+\.jpg$"


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
    named, data = data, data.resolve()
    with only_process(data.parent / f".{data.name}.lock", f"{named}"):
        made_from = read_origin(data)
        if made_from == wanted and not force:
            return None
        if made_from is None and data.exists() and (data.is_file() or any(data.iterdir())):
            raise UserError(f"{data} holds what --source did not make: choose another --data")
        _make_in_place(data, settings, seed, wanted)
    return f"laid out {named} from {settings.source}"


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
