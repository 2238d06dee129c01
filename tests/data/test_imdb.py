"""IMDB-WIKI's metadata: what is read from the .mat, what each filter leaves, what is laid out."""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from lookalike import pipeline as runner
from lookalike.core.errors import UserError
from lookalike.core.log import log_to
from lookalike.core.options import parse_settings
from lookalike.core.settings import ExtractSettings
from lookalike.data.extraction import choose_data, extract
from lookalike.data.imdb import BOX, choose_pictures, read_metadata
from tests.conftest import Program, draw

BORN = 693726.0  # Fred Astaire: 10 May 1899


def row(path: str, person: int, name: str = "", **other: Any) -> dict[str, Any]:
    """One entry of the metadata: a picture with one face in it."""
    usual = {"dob": BORN, "photo_taken": 1968, "gender": 1.0, "face_location": [1, 1, 40, 40]}
    scores = {"face_score": 2.5, "second_face_score": np.nan}
    names = {"full_path": path, "celeb_id": person, "name": name or f"Person {person}"}
    return usual | scores | names | other


def cells(values: list[Any]) -> np.ndarray:
    """A row of Matlab cells."""
    array = np.empty((1, len(values)), object)
    array[0, :] = [np.array(value) if isinstance(value, list) else value for value in values]
    return array


def write_mat(path: Path, rows: list[dict[str, Any]], struct: str = "imdb") -> Path:
    """A .mat as the original is: a struct of 1 x N arrays and cells."""
    fields: dict[str, Any] = {}
    for name in rows[0]:
        values = [entry[name] for entry in rows]
        as_cells = name in ("full_path", "name", "face_location")
        fields[name] = cells(values) if as_cells else np.array([values])
    if struct == "imdb":
        persons = {entry["celeb_id"]: entry["name"] for entry in rows}
        names = [persons.get(number, "Nobody") for number in range(1, int(max(persons)) + 1)]
        fields["celeb_names"] = cells(names)
    else:
        del fields["celeb_id"]
    savemat(path, {struct: fields})
    return path


def rows_of(persons: int, pictures: int) -> list[dict[str, Any]]:
    return [
        row(f"{person:02}/nm{person}_{number}.jpg", person)
        for person in range(1, persons + 1)
        for number in range(pictures)
    ]


def collection(folder: Path, rows: list[dict[str, Any]], struct: str = "imdb") -> ExtractSettings:
    """Draws the pictures, writes the .mat; settings that use them all."""
    for number, entry in enumerate(rows):
        draw(folder / "pictures" / entry["full_path"], int(entry["celeb_id"]), number)
    metadata = write_mat(folder / f"{struct}.mat", rows, struct)
    pictures = str(folder / "pictures")
    return ExtractSettings("imdb", pictures, metadata=metadata, min_pictures=1, min_size=1)


def chosen(settings: ExtractSettings) -> list[str]:
    return choose_pictures(Path(str(settings.source_path)), settings).path.tolist()


# ---- reading ------------------------------------------------------------------------------------


def test_every_field_is_read_as_the_authors_meant_it(tmp_path: Path) -> None:
    rows = [
        row("01/a.jpg", 1, "Fred Astaire", face_location=[1, 2, 30.5, 40], face_score=3.25),
        row("02/b.jpg", 3, "Zoë 李", gender=0.0, second_face_score=1.5, photo_taken=1890),
        row("02/c.jpg", 3, "Zoë 李", gender=np.nan, dob=0.0, face_score=-np.inf),
    ]
    table = read_metadata(write_mat(tmp_path / "imdb.mat", rows))
    assert table.path.tolist() == ["01/a.jpg", "02/b.jpg", "02/c.jpg"]
    assert table.identity.tolist() == table["name"].tolist() == ["Fred Astaire", "Zoë 李", "Zoë 李"]
    assert list(map(str, table["dob"])) == ["1899-05-10", "1899-05-10", "None"]
    assert table.age.tolist() == [69, -9, pd.NA], "the mistakes of the collection are kept"
    assert table.gender.tolist() == ["male", "female", ""]
    assert table[BOX].to_numpy()[0].tolist() == [1, 2, 30.5, 40]
    assert table.face_score.tolist() == [3.25, 2.5, -np.inf]
    assert table.second_face_score.isna().tolist() == [True, False, True]


def test_wikis_persons_are_identified_by_their_names(tmp_path: Path) -> None:
    rows = [row("1/a.jpg", 0, "Ada"), row("1/b.jpg", 0, "Bo"), row("2/c.jpg", 0, "Ada")]
    table = read_metadata(write_mat(tmp_path / "wiki.mat", rows, "wiki"))
    assert table.identity.tolist() == ["Ada", "Bo", "Ada"]


def test_persons_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    rows = [row("1/a.jpg", 1, "Chris Evans"), row("2/b.jpg", 2, "chris evans"), row("3/c.jpg", 3)]
    table = read_metadata(write_mat(tmp_path / "imdb.mat", rows))
    assert table.identity.tolist() == ["Chris Evans~1", "chris evans~2", "Person 3"]


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b\\c", "..", ".hidden", "x" * 300, "a\0b\n", "李" * 99]
)
def test_a_name_becomes_one_folder_that_is_seen(name: str, tmp_path: Path) -> None:
    table = read_metadata(write_mat(tmp_path / "imdb.mat", [row("1/a.jpg", 1, name)]))
    folder = tmp_path / "new" / table.identity[0]
    folder.mkdir(parents=True)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [folder.name]
    assert not folder.name.startswith(".")


def test_a_celeb_id_without_a_name_is_nobody(tmp_path: Path) -> None:
    settings = collection(tmp_path, [row(f"1/{i}.jpg", i) for i in (1, 2, 3)])
    rows = [row(f"1/{i}.jpg", i) for i in (1, 2, 3)]
    rows[0]["celeb_id"], rows[1]["celeb_id"] = np.nan, 0
    write_mat(tmp_path / "imdb.mat", rows[::-1])
    assert chosen(settings) == ["1/3.jpg"]


# ---- files that are something else --------------------------------------------------------------


def hdf5(path: Path) -> None:
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 1 00:00:00 2024 HDF5"
    path.write_bytes(head.ljust(124) + b"\x00\x02IM" + b"\x00" * 512)


def lacks(path: Path) -> None:
    savemat(path, {"imdb": {"dob": [1.0], "full_path": cells(["a.jpg"])}})


def uneven(path: Path) -> None:
    write_mat(path, rows_of(1, 2))
    fields = {name: np.zeros((1, 2)) for name in ("dob", "gender", "face_score", "photo_taken")}
    texts = {name: cells(["a", "b"]) for name in ("full_path", "name", "face_location")}
    savemat(path, {"wiki": fields | texts | {"second_face_score": np.zeros((1, 3))}})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"\x89PNG and so on" * 50), "cannot be read as a Matlab"),
        (lambda path: path.write_bytes(b""), "cannot be read as a Matlab"),
        (hdf5, r"Matlab 7\.3"),
        (lambda path: savemat(path, {"other": 1}), "no struct `imdb` or `wiki`"),
        (lambda path: savemat(path, {"imdb": np.zeros(3)}), "no struct `imdb` or `wiki`"),
        (lacks, "lacks photo_taken, gender, name"),
        (uneven, "fields are not as IMDB-WIKI's"),
    ],
)
def test_a_file_that_is_no_metadata_is_explained(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path / "m.mat")
    with pytest.raises(UserError, match=rf"m\.mat.*{said}"):
        read_metadata(tmp_path / "m.mat")


# ---- filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoilt",
    [
        {"face_score": -np.inf},
        {"face_score": np.inf},
        {"face_score": np.nan},
        {"second_face_score": 1.0},
        {"full_path": "01/nm1_0.jpg"},
        {"full_path": "./01//nm1_0.jpg"},
    ],
)
def test_a_picture_that_is_of_no_use_is_left_out(spoilt: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(1, 2)
    settings = collection(tmp_path, [*rows, row("01/good.jpg", 1)])
    settings.metadata = write_mat(tmp_path / "m.mat", [*rows, row("01/good.jpg", 1) | spoilt])
    assert chosen(settings) == ["01/nm1_0.jpg", "01/nm1_1.jpg"]


def test_what_is_on_the_disk_is_counted_with_each_filter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    spoilt = [row(f"01/{name}.jpg", 1) for name in ("small", "missing", "broken")]
    settings = collection(tmp_path, [*rows_of(2, 4), *spoilt, row("03/rare.jpg", 3)])
    pictures = tmp_path / "pictures" / "01"
    draw(pictures / "small.jpg", 1, 1, side=47)
    (pictures / "missing.jpg").unlink()
    (pictures / "broken.jpg").write_bytes(b"no picture")
    settings.min_pictures, settings.min_size = 4, 48
    assert chosen(settings) == [entry["full_path"] for entry in rows_of(2, 4)]
    said = capsys.readouterr().err
    assert "1 pictures are listed but not there: 01/missing.jpg" in said
    for line in (r"in imdb\.mat +12 +3", r"--min-pictures\) +11 +2", r"--min-size\) +8 +2"):
        assert re.search(line, said), line


def test_persons_have_enough_pictures_only_if_those_are_of_use(tmp_path: Path) -> None:
    settings = collection(tmp_path, rows_of(3, 4))
    settings.min_pictures = 4
    draw(tmp_path / "pictures" / "02" / "nm2_0.jpg", 2, 0, side=20)
    settings.min_size = 48
    assert {Path(path).parts[0] for path in chosen(settings)} == {"01", "03"}


def test_a_face_that_is_not_alone_may_stay(tmp_path: Path) -> None:
    settings = collection(tmp_path, [row("1/a.jpg", 1), row("1/b.jpg", 1, second_face_score=1.0)])
    settings.one_face = "off"
    assert chosen(settings) == ["1/a.jpg", "1/b.jpg"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "01/../../secret.jpg",
        "/{0}/secret.jpg",
        "..\\secret.jpg",
        "",
        "01/\n.jpg",
        "x" * 9999,
    ],
)
def test_a_path_that_leads_out_of_the_folder_is_refused_and_named(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(None)
    settings = collection(tmp_path, rows_of(1, 2))
    draw(tmp_path / "secret.jpg", 9, 9)
    out = path.format(str(tmp_path).lstrip("/"))
    settings.metadata = write_mat(tmp_path / "m.mat", [*rows_of(1, 2), row(out, 1)])
    assert chosen(settings) == ["01/nm1_0.jpg", "01/nm1_1.jpg"]
    assert "1 paths lead elsewhere and are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_pictures": 5}, r"5 pictures of the person \(--min-pictures\)"),
        ({"min_size": 49}, r"49 x 49 pixels \(--min-size\)"),
        ({"source_path": "."}, r"a file below \. \(--source-path\)"),
        ({"source_path": "nowhere"}, "nowhere: no such folder"),
        ({"metadata": None}, "needs --metadata"),
    ],
)
def test_where_no_picture_is_left_the_filter_is_named(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    settings = replace(collection(tmp_path, rows_of(2, 4)), **change)
    with pytest.raises(UserError, match=said):
        chosen(settings)


# ---- the layout ---------------------------------------------------------------------------------


def parts(data: Path) -> dict[str, Counter[str]]:
    """How many pictures of each identity a part of the data set has."""
    labels = json.loads((data / "labels.json").read_text())
    found = {f"test/{part}": Counter(names.values()) for part, names in labels.items()}
    for part in ("training", "validation"):
        found[part] = Counter(
            path.relative_to(data).parts[1] for path in data.glob(f"{part}/*/*/*")
        )
    return found


def test_the_layout_is_that_of_class_folders_with_a_table(tmp_path: Path) -> None:
    settings = collection(tmp_path, rows_of(3, 10))
    extract(tmp_path / "x", settings, seed=0)
    names = {f"Person {number}" for number in (1, 2, 3)}
    assert parts(tmp_path / "x") == {
        "training": dict.fromkeys(names, 5),
        "validation": dict.fromkeys(names, 2),
        "test/query": dict.fromkeys(names, 1),
        "test/gallery": dict.fromkeys(names, 2),
    }
    table = pd.read_csv(tmp_path / "x" / "metadata.csv")
    assert set(table.path) == {
        p.relative_to(tmp_path / "x").as_posix() for p in tmp_path.glob("x/**/*.jpg")
    }
    first = table.iloc[0]
    assert (first.dob, first.age, first.gender, first.x2) == ("1899-05-10", 69, "male", 40)
    labels = json.loads((tmp_path / "x" / "labels.json").read_text())
    query = table[table.path.str.startswith("test/query/")]
    assert (
        dict(zip(query.path.map(os.path.basename), query.identity, strict=True)) == labels["query"]
    )


def test_identities_are_limited_to_so_many_pictures_by_the_seed(tmp_path: Path) -> None:
    settings = collection(tmp_path, rows_of(2, 20))
    settings.train_per_person, settings.test_per_person = 3, 5
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        extract(tmp_path / name, settings, seed)
    assert [set(count.values()) for count in parts(tmp_path / "a").values()] == [{1}, {4}, {3}, {3}]
    a, b, c = ((tmp_path / name / "metadata.csv").read_text() for name in "abc")
    assert a == b != c


def test_a_layout_is_made_anew_only_for_other_settings(tmp_path: Path) -> None:
    settings = collection(tmp_path, rows_of(3, 10))
    assert extract(tmp_path / "x", settings, seed=0)
    assert extract(tmp_path / "x", settings, seed=0) is None
    for change in ({"min_size": 20}, {"one_face": "off"}, {"test_per_person": 2}):
        assert extract(tmp_path / "x", replace(settings, **change), seed=0), change
    assert extract(tmp_path / "x", settings, seed=0), "back to the first"
    write_mat(tmp_path / "imdb.mat", rows_of(2, 10))
    assert extract(tmp_path / "x", settings, seed=0), "another metadata file"


def test_values_without_a_meaning_are_refused() -> None:
    for words in (
        "--min-pictures 0",
        "--train-per-person 0",
        "--test-per-person 1",
        "--metadata m",
    ):
        with pytest.raises(UserError, match=words.split()[0]):
            parse_settings(words.split())
    settings = ExtractSettings("imdb", metadata=Path("a/wiki.mat"))
    assert choose_data(None, settings) == (Path("data/wiki"), settings)


def test_the_program_lays_it_out(tmp_path: Path, run_program: Program) -> None:
    collection(tmp_path, rows_of(4, 10))
    words = ["--source", "imdb", "--metadata", "imdb.mat", "--source-path", "pictures"]
    words += ["--min-pictures", "10", "--min-size", "40"]
    done = run_program("data_extraction.py", *words)
    assert done.returncode == 0 and "laid out data/imdb from imdb" in done.stderr
    refused = run_program("data_extraction.py", *words, "--min-pictures", "0")
    assert refused.returncode == 1 and "--min-pictures 0: must be at least 1" in refused.stderr


def test_the_runner_takes_it_as_a_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection(tmp_path, rows_of(4, 10))
    words = ["--source", "imdb", "--metadata", "imdb.mat", "--source-path", "pictures"]
    words += ["--min-pictures", "10", "--min-size", "40", "--stage", "extract", "split"]
    assert runner.main(words) == 0 and "laid out data/imdb from imdb" in capsys.readouterr().err
    assert runner.main(["--stage", "extract", "--run", "runs/imdb"]) == 0
    assert "extract: everything is in place" in capsys.readouterr().err, "settings are remembered"
    catalogue = pd.read_csv("runs/imdb/training.csv")
    assert set(catalogue.identity) == {f"Person {number}" for number in range(1, 5)}
    assert runner.main([*words, "--data", "pictures/x"]) == 1
    assert "--data" in capsys.readouterr().err, "pictures that are only read stay apart"
