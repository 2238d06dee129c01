"""Lay a competition out in data/<name>/: training/<identity>/, test/query/, test/gallery/.

    python data_extraction.py --source demo                                # drawn by code
    python data_extraction.py --source competition --data data/celebrities  # Google Drive
    python data_extraction.py --source archive --source-path faces.zip
    python data_extraction.py --source folder --source-path lfw62 --protocol report
    python data_extraction.py --source lfw                                 # scikit-learn's cache
    python data_extraction.py --source imdb --metadata imdb.mat --source-path imdb

A layout is made in a temporary folder and moved into place when it is complete. Its `layout.json`
says what it was made from: the same command finds it and does nothing.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lookalike.core.checks import check_bounds, check_extract
from lookalike.core.errors import UserError
from lookalike.core.files import file_state, listing, only_process, write_json
from lookalike.core.log import exit_code, log, log_to
from lookalike.core.options import parse
from lookalike.core.runs import Run
from lookalike.core.settings import ExtractSettings, Seed
from lookalike.data import archives, demo, downloads, imdb
from lookalike.data.layout import DATA, class_folders, find_layout, read_origin, visible_folders
from lookalike.data.listing import is_dataset
from lookalike.data.protocols import lay_out_classes
from lookalike.data.tables import refuse_table

# The domain pattern of the demo's training pictures.
DEMO_DOMAINS = r"(?P<domain>[a-z]+)_\d+\.jpg$"


def choose_data(data: Path | None, extract: ExtractSettings) -> tuple[Path, ExtractSettings]:
    """Choose the data set's folder where none is named.

    It is the one that --source makes, the only one in data/, or the built-in demo.

    Args:
        data: The folder that was named, which is then chosen.
        extract: Where the data set comes from.

    Returns:
        The folder, and the settings of extract; their source is `demo` where nothing else is there.

    Raises:
        UserError: data/ holds several data sets and none was named.
    """
    if data is not None:
        return data, extract
    if extract.source is None:
        found = [f for f in visible_folders(DATA) if is_dataset(f)] if DATA.is_dir() else []
        if len(found) == 1:
            return found[0], extract
        if found:
            names = " or ".join(f"--data {folder}" for folder in found)
            raise UserError(f"{DATA}/ holds several data sets: choose one with {names}")
        log.info("no data set named and none in data/: the built-in demo competition is used")
        extract = replace(extract, source="demo")
    return DATA / _name_of_source(extract), extract


def _name_of_source(extract: ExtractSettings) -> str:
    """Return the name of the data set that a source becomes."""
    if extract.source in ("folder", "archive"):
        return Path(_source_path(extract)).resolve().name.split(".")[0]
    if extract.source == "imdb":
        return imdb.metadata_file(extract).stem
    return "celebrities" if extract.source == "competition" else str(extract.source)


def run_extract(run: Run) -> str | None:
    """Run the stage: lay out the run's data set, see `extract`."""
    return extract(run.data, run.settings.extract, run.seed, run.settings.general.force)


def extract(data: Path, settings: ExtractSettings, seed: int, force: bool = False) -> str | None:
    """Lay a competition out in a folder, unless it is there already, made from the same.

    Args:
        data: The data set's folder.
        settings: The source, and how it is divided. Without a source, the folder has to be there.
        seed: Of the demo, and of the division of class folders.
        force: Whether to make the layout anew even if it is there.

    Returns:
        A line that says what was made, or None where there was nothing to do.

    Raises:
        UserError: The source is missing, cannot be downloaded or is no competition, or `data` is a
            folder that was not made by this function, or from another source without `force`.
    """
    if settings.source is None:
        if not data.is_dir():
            raise UserError(
                f"{data}: no data set there. Name its folder with --data, or make one with --source"
            )
        return None
    new = origin(settings, seed)
    named, data = data, data.resolve()
    with only_process(data.parent / f".{data.name}.lock", f"{named}"):
        old = read_origin(data)
        if old == new and not force:
            return None
        if old is None and data.exists() and (data.is_file() or any(data.iterdir())):
            raise UserError(f"{data} was not made by --source: choose another --data")
        if old is not None and not force and _place(old) != _place(new):
            raise UserError(
                f"{named} was made from {_place(old)}: choose another --data, or replace it by "
                f"what is made from {_place(new)} with --force"
            )
        _make_in_place(data, settings, seed, new)
    return f"laid out {named} from {settings.source}"


def _make_in_place(
    data: Path, settings: ExtractSettings, seed: int, new_origin: dict[str, Any]
) -> None:
    """Make the layout in a temporary folder and move it: a kill leaves the old, the new or none."""
    partial, old = (data.parent / f".{data.name}.{state}" for state in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        downloaded = lay_out(partial, settings, seed)
        write_json(partial / "layout.json", new_origin)
        if data.exists():
            data.rename(old)
        partial.rename(data)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
    if downloaded is not None and not settings.keep_archive:
        _delete_download(downloaded)


def _delete_download(archive: Path) -> None:
    """Delete a downloaded archive and what the downloader noted about it."""
    for path in (archive, archive.with_name(archive.name + ".json")):
        path.unlink(missing_ok=True)


def origin(settings: ExtractSettings, seed: int) -> dict[str, Any]:
    """Return everything that a layout depends on, as its layout.json holds it.

    Raises:
        UserError: A setting that the source needs is missing.
    """
    table: dict[str, Any] = {"source": settings.source}
    if settings.source == "competition":
        return table | {"drive_id": settings.drive_id}
    if settings.source == "archive":
        return table | _state_of_file(_source_path(settings))
    if settings.source == "demo":
        return table | {"seed": seed, "domain_pattern": DEMO_DOMAINS}
    table |= {"protocol": settings.protocol, "seed": seed}
    table["most"] = [settings.train_per_person, settings.test_per_person]
    if settings.source == "imdb":
        metadata = _state_of_file(str(imdb.metadata_file(settings)))
        table |= {"metadata": metadata, "filters": imdb.filter_settings(settings)}
    if settings.source in ("folder", "imdb"):
        root = Path(_source_path(settings)).resolve()
        return table | {"source_path": str(root), "files": listing(root)}
    return table | {"lfw_home": str(settings.lfw_home) if settings.lfw_home else None}


def _place(origin: dict[str, Any]) -> str:
    """Return where a data set comes from, of all that its layout depends on.

    >>> _place({"source": "folder", "source_path": "/faces", "seed": 1})
    'folder /faces'
    """
    names = ("source", "source_path", "drive_id", "lfw_home")
    return " ".join(str(origin[name]) for name in names if origin.get(name))


def _source_path(settings: ExtractSettings) -> str:
    if settings.source_path is None:
        raise UserError(f"--source {settings.source} needs --source-path")
    return settings.source_path


def _state_of_file(source: str) -> dict[str, Any]:
    """Return what tells one version of a local file from another."""
    path = downloads.local_path(source)
    if path is None or not path.is_file():
        return {"source_path": source}
    return {"source_path": str(path.resolve()), "state": file_state(path)}


def lay_out(target: Path, settings: ExtractSettings, seed: int) -> Path | None:
    """Fill a folder from the source.

    Args:
        target: The folder.
        settings: The source, and how it is divided.
        seed: Of the demo, and of the division of class folders.

    Returns:
        The archive that was downloaded, if any.

    Raises:
        UserError: The source is missing, cannot be downloaded or is no competition.
    """
    if settings.source in ("competition", "archive"):
        return _fetch_and_lay_out(target, settings)
    if settings.source == "demo":
        demo.draw_competition(target, seed)
    elif settings.source == "folder":
        root = Path(_source_path(settings))
        refuse_table(root)
        lay_out_classes(root, class_folders(root), target, settings, seed)
    elif settings.source == "lfw":
        root = lfw_folder(settings.lfw_home)
        lay_out_classes(root, class_folders(root, at_least=20), target, settings, seed)
    elif settings.source == "imdb":
        root = Path(_source_path(settings))
        pictures = imdb.choose_pictures(root, settings)
        classes = imdb.by_identity(pictures)
        copies = lay_out_classes(root, classes, target, settings, seed, flat=True)
        imdb.write_metadata(target, pictures, root, copies)
    return None


def _fetch_and_lay_out(target: Path, settings: ExtractSettings) -> Path | None:
    """Fill a folder from an archive; return the archive if it was downloaded."""
    folder = target.parent / ".downloads"
    if settings.source == "competition":
        archive = downloads.fetch_drive(settings.drive_id, folder)
    else:
        archive = downloads.fetch(_source_path(settings), folder)
    downloaded = archive if archive.is_relative_to(folder) else None
    try:
        lay_out_archive(archive, target)
    except UserError:
        if downloaded is not None:
            _delete_download(downloaded)  # a damaged one is downloaded anew next time
        raise
    return downloaded


def lay_out_archive(archive: Path, target: Path) -> None:
    """Unpack an archive and move the competition in it, in folders or tables, to a folder.

    Args:
        archive: A zip or tar file.
        target: The folder that the parts of the competition are moved to.

    Raises:
        UserError: The archive is refused, see `archives.unpack`, or holds no competition.
    """
    unpacked = target / "unpacked"
    archives.unpack(archive, unpacked)
    archives.unpack_inner(unpacked)
    layout = find_layout(unpacked)
    tables = _folder_of_tables(unpacked) if layout is None else None
    if tables is not None:
        for entry in sorted(tables.iterdir()):
            entry.replace(target / entry.name)
        shutil.rmtree(unpacked)
        return
    if layout is None:
        raise UserError(
            f"{archive}: holds no test/query/ and test/gallery/, nor query/ and gallery/. If it is "
            "a folder of class folders, unpack it and use --source folder --source-path FOLDER"
        )
    parts = {
        "test/query": layout.query,
        "test/gallery": layout.gallery,
        "test": layout.test,
        "training": layout.training,
        "validation": layout.validation,
        "labels.json": layout.labels,
    }
    for name, found in parts.items():
        if found is not None and found.exists():
            (target / name).parent.mkdir(exist_ok=True)
            found.replace(target / name)
    shutil.rmtree(unpacked)


def _folder_of_tables(unpacked: Path) -> Path | None:
    """Return the folder in an archive that holds a data set's tables; None where there is none."""
    inside = [unpacked]
    while len(inside) == 1 and not is_dataset(inside[0]):
        inside = visible_folders(inside[0])
    return inside[0] if len(inside) == 1 else None


def lfw_folder(home: Path | None) -> Path:
    """Return the folder of Labeled Faces in the Wild.

    Args:
        home: The folder, or one that holds it. Default: scikit-learn's cache, which downloads the
            data set once.

    Raises:
        UserError: It is neither there nor can be downloaded.
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
class ExtractCommand:
    """Options of data_extraction.py, which is also `lookalike extract`."""

    extract: ExtractSettings = field(default_factory=ExtractSettings)
    data: Path | None = None
    """Folder to lay the data out in. Default: data/<name of the source>."""
    seed: Seed = 0
    """Seed of the layout."""
    force: bool = False
    """Make the layout anew even if it is there."""


def main(arguments: Iterable[str]) -> int:
    """Lay a competition out.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, 1 for a mistake or bad input, 130 for Ctrl-C.
    """
    about = "Lay a competition out in data/."
    command: ExtractCommand = parse(list(arguments), "data_extraction.py", ExtractCommand, about)
    log_to(None)

    def work() -> None:
        check_bounds(command)
        check_extract(command.extract)
        data, settings = choose_data(command.data, command.extract)
        result = extract(data, settings, command.seed, command.force)
        log.info("%s", result or f"{data} is in place, made from the same: nothing to do")

    return exit_code(work)
