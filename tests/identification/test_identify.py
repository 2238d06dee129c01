"""The commands: faces get the right names, unknown people none, and bad input is an error."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike import pipeline
from lookalike.core.log import log
from lookalike.core.readers import read_json
from lookalike.core.runs import open_run
from lookalike.features.extractor import FeatureExtractor, single_extractor
from lookalike.identification import annotate, identifier, identify, likeness
from lookalike.identification.settings import METHODS
from tests.conftest import FAST, ROOT, SHARED, draw, draw_competition

# ---- on drawn pictures without faces ------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the tiny competition, whose embedder sees whole pictures."""
    root = tmp_path_factory.mktemp("drawn")
    folders = ["--data", draw_competition(root / "tiny"), "--run", root / "run"]
    words = ["--stage", "split", "train", "--cache", root / "cache", "--epochs", "1", *FAST]
    assert pipeline.main([str(word) for word in (*words, *folders)]) == 0
    log.handlers.clear()
    return root / "run"


class OneFace:
    """A detector that finds a face in the left upper part of every picture."""

    name = "stand-in"
    side, has_points = 320, True

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Return one row: box, five points and confidence, in pixels."""
        height, width = pixels.shape[:2]
        box = [width / 4, height / 8, width / 2, height / 2]
        return np.array([[*box, *([width / 2, height / 3] * 5), 0.9]], np.float32)


@pytest.fixture
def one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.features.extractor.load_detector", lambda name, cache: OneFace())


def run_identify(*words: str | Path) -> int:
    return identify.main(list(map(str, words)))


def run_json(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """Return what --json prints, which must be one object and nothing else."""
    assert run_identify(*words, "--json") == 0, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out))


def test_a_photograph_without_a_face_is_not_an_error(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Start the program in this process, which has imported the libraries already."""
    draw(Path("blobs.jpg"), identity=1, picture=77)
    words = ["lookalike", "identify", "who", "blobs.jpg", "--run", str(drawn)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as done:
        runpy.run_module("lookalike", run_name="__main__")
    said = capsys.readouterr()
    assert done.value.code == 0, said.err
    assert "1 photographs show no face: written without boxes: blobs.jpg" in said.err
    assert "made for whole pictures, not for faces" in said.err
    assert "(no face)" in said.out and str(drawn / "identify" / "blobs.jpg") in said.out
    record = read_json(drawn / "identify" / "blobs.json", "")
    assert record["faces"] == [] and record["size"] == [48, 48]


def test_the_nearest_identity_of_any_picture_is_found(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("blobs.jpg"), identity=1, picture=77)
    [found] = run_json(capsys, "like", "blobs.jpg", "--run", drawn)["photos"]
    assert found["identity"] == "person_01" and len(found["nearest"]) == 5
    assert found == read_json(drawn / "like" / "blobs.json", "")
    assert Image.open(found["marked"]).width > 5 * 192


def test_boxes_are_in_pixels_of_the_upright_picture(
    drawn: Path,
    one_face: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(annotate, "LARGEST", 100)  # so that this picture is decoded at a half
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (600, 400), "grey").save("turned.jpg", exif=exif)
    assert annotate.read_photo(Path("turned.jpg")).image.size == (200, 300)
    [photo] = run_json(capsys, "who", "turned.jpg", "--run", drawn)["photos"]
    assert photo["size"] == [400, 600]
    [face] = photo["faces"]
    assert face["box"] == [100, 75, 200, 300]
    marked = np.asarray(Image.open(photo["marked"]).resize((400, 600)), int)
    red = (marked[:, :, 0] > 150) & (marked[:, :, 1] < 80)
    assert red[200:350, 98:104].any(axis=1).all() and not red[200:350, 110:290].any()


def test_a_threshold_is_stored_until_its_inputs_change(
    drawn: Path, one_face: None, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("photo.jpg"), identity=3, picture=50)
    who = ("who", "photo.jpg", "--run", drawn)
    first = run_json(capsys, *who)
    path = drawn / "identify.json"
    stored = read_json(path, "")
    assert first["threshold"] == stored["threshold"] and stored["method"] == "centroid"
    assert stored["strangers"] == "12 pictures of 2 people", "a fifth of 10 people, 6 pictures each"
    before = path.stat().st_mtime_ns
    run_json(capsys, *who)
    assert path.stat().st_mtime_ns == before
    assert run_json(capsys, *who, "--threshold", "0.5")["threshold"] == 0.5
    assert path.stat().st_mtime_ns == before, "a given threshold is not calibrated"
    run_json(capsys, *who, "--method", "knn")
    assert read_json(path, "")["method"] == "knn"
    path.write_text("broken")
    assert run_json(capsys, *who) == first
    assert read_json(path, "") == stored


def test_a_face_below_the_threshold_is_unknown(
    drawn: Path, one_face: None, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("photo.jpg"), identity=3, picture=50)
    who = ("who", "photo.jpg", "--run", drawn)
    [face] = run_json(capsys, *who, "--threshold", "1")["photos"][0]["faces"]
    assert face["identity"] == "unknown" and face["nearest"].startswith("person_")
    [named] = run_json(capsys, *who, "--threshold", "-1")["photos"][0]["faces"]
    assert named == face | {"identity": face["nearest"]}
    assert named["similarity"] >= named["second"]["similarity"]


def test_photographs_of_one_name_do_not_overwrite_each_other(
    drawn: Path, one_face: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, path in enumerate(("a.jpg", "x/a.jpg", "x/a.png", "y/a.jpg")):
        draw(Path(path), number, 0)
    before = Path("a.jpg").read_bytes()
    who = ("who", "a.jpg", "x", "y/a.jpg", "--run", drawn, "--output", ".")
    photos = run_json(capsys, *who)["photos"]
    written = {photo["photo"]: photo["marked"] for photo in photos}
    assert written == {
        "a.jpg": "a-2.jpg",
        "x/a.jpg": "a-3.jpg",
        "x/a.png": "a-4.jpg",
        "y/a.jpg": "a-5.jpg",
    }
    assert Path("a.jpg").read_bytes() == before
    assert [read_json(Path(p["marked"]).with_suffix(".json"), "") for p in photos] == photos
    assert run_json(capsys, *who)["photos"] == photos, (
        "the same photograph is written to the same path"
    )


def test_pictures_of_every_kind_are_processed(
    drawn: Path, one_face: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode, name in (("L", "grey.png"), ("P", "palette.gif"), ("RGBA", "clear.png")):
        Image.new(mode, (60, 40)).save(name)
    Image.new("RGB", (10, 10)).save("tiny.png")
    Image.new("RGB", (1, 1)).save("dot.png")
    Image.new("RGB", (900, 3)).save("strip.png")
    names = ["grey.png", "palette.gif", "clear.png", "tiny.png", "dot.png", "strip.png"]
    for command in ("who", "like"):
        photos = run_json(capsys, command, *names, "--run", drawn)["photos"]
        assert [photo["photo"] for photo in photos] == names
        assert all(Image.open(photo["marked"]).width >= 1 for photo in photos)


def test_an_unreadable_picture_does_not_affect_others(
    drawn: Path, one_face: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.jpg").write_text("no picture")
    draw(Path("good.jpg"), 1, 1)
    for command, folder in (("who", "identify"), ("like", "like")):
        assert run_identify(command, "broken.jpg", "good.jpg", "--run", drawn) == 1
        said = capsys.readouterr()
        assert "error: 1 pictures could not be read, first broken.jpg (unreadable" in said.err
        assert "good.jpg" in said.out and (drawn / folder / "good.json").is_file()


def test_references_can_come_from_a_folder(
    drawn: Path, classes: Path, one_face: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (classes / "person_00" / "broken.jpg").write_text("no picture")
    (classes / "person_02").rename(classes / "Mary Shelley")
    draw(Path("mary.jpg"), 2, 99)
    [found] = run_json(capsys, "like", "mary.jpg", "--run", drawn, "--folder", classes)["photos"]
    assert found["identity"] == "Mary Shelley"
    assert Path(found["nearest"][0]["path"]).parent == classes / "Mary Shelley"
    words = ("who", "mary.jpg", "--run", drawn, "--folder", classes, "--threshold", "-1")
    [photo] = run_json(capsys, *words)["photos"]
    assert photo["faces"][0]["identity"] in {p.name for p in classes.iterdir()}


WRONG = [
    (["who", "p.jpg", "--run", "runs/none"], "runs/none: no run there; make one with main.py"),
    (["who", "no.jpg", "--run", "RUN"], "no.jpg: no such picture or folder"),
    (["like", "no.jpg", "--run", "RUN"], "no.jpg: no such picture or folder"),
    (["who", "empty", "--run", "RUN"], "no pictures there: name at least one"),
    (["who", "--run", "RUN"], "no pictures there: name at least one"),
    (["who", "p.jpg", "--run", "RUN", "--folder", "no"], "no: no such folder"),
    (["who", "p.jpg", "--run", "RUN", "--folder", "empty"], "holds no class folders"),
    (
        ["who", "p.jpg", "--run", "RUN", "--confidence", "0.1"],
        "--confidence 0.1: must be at least 0.3 and at most 1",
    ),
    (
        ["who", "p.jpg", "--run", "RUN", "--overlap", "2"],
        "--overlap 2.0: must be at least 0 and at most 1",
    ),
    (
        ["who", "p.jpg", "--run", "RUN", "--threshold", "7"],
        "--threshold 7.0: must be at least -1 and at most 1",
    ),
    (["who", "p.jpg", "--run", "RUN", "--false-accept", "1"], "must be at least 0 and below 1"),
    (["who", "p.jpg", "--run", "RUN", "--neighbors", "0"], "--neighbors 0: must be at least 1"),
    (["like", "p.jpg", "--run", "RUN", "--nearest", "0"], "--nearest 0: must be at least 1"),
    (["like", "p.jpg", "--run", "UNTRAINED"], "has no training pictures: name a folder"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_bad_input_is_an_error_in_words(
    words: list[str], message: str, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("p.jpg"), 0, 0)
    Path("empty").mkdir()
    shutil.copytree(drawn, "untrained", ignore=shutil.ignore_patterns("identify", "like"))
    head = (drawn / "training.csv").read_text().splitlines()[0]
    Path("untrained/training.csv").write_text(head + "\n")
    Path("untrained/stages.json").unlink()
    runs = {"RUN": str(drawn), "UNTRAINED": "untrained"}
    assert run_identify(*[runs.get(word, word) for word in words]) == 1
    said = capsys.readouterr()
    assert f"error: {message}" in said.err or message in said.err
    assert "Traceback" not in said.err and not said.out


def test_an_unknown_method_is_an_error_that_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_identify("who", "p.jpg", "--run", "x", "--method", "mean")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(method in said for method in METHODS)


def test_help_answers_without_the_libraries() -> None:
    code = "import sys, lookalike.identification.identify; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "sklearn", "faiss", "pandas"} & set(done.stdout.split())


# ---- real faces ---------------------------------------------------------------------------------

LFW = SHARED / "lfw62"
PEOPLE = ("Colin_Powell", "Hans_Blix", "Hugo_Chavez", "Jack_Straw", "Laura_Bush", "Naomi_Watts")
real_faces = pytest.mark.skipif(not LFW.is_dir(), reason="needs the pictures of LFW62")


@pytest.fixture(scope="module")
def six_people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FeatureExtractor]:
    """The folder of a run with SFace on four pictures of each of six people, and its extractor,
    which takes seconds to load."""
    root = tmp_path_factory.mktemp("lfw")
    for name in PEOPLE:
        pictures = sorted((LFW / name).iterdir())
        parts = [f"training/{name}"] * 4 + ["test/query", "test/gallery"]
        for picture, part in zip(pictures[:6], parts, strict=True):
            (root / "data" / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, root / "data" / part)
    words = ["--stage", "split", "train", "--backbone", "sface", "--epochs", "0"]
    folders = [f"--{name}={root / name}" for name in ("data", "run", "cache")]
    assert pipeline.main([*words, *folders]) == 0
    log.handlers.clear()
    return root / "run", single_extractor(open_run(root / "run"))


@pytest.fixture
def faces_run(six_people: tuple[Path, FeatureExtractor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of that run. Batches are small, since even those of one picture are padded."""
    folder, extractor = six_people
    small = [replace(plan, batch=8) for plan in extractor.plans]
    monkeypatch.setattr("lookalike.features.extractor.plans", lambda mode, pictures: small)
    for module in (identifier, likeness):
        monkeypatch.setattr(module, "single_extractor", lambda run: extractor)
    return folder


def face_of(person: str, number: int = 10) -> Image.Image:
    """A picture that the run has not seen; 250×250."""
    return Image.open(sorted((LFW / person).iterdir())[number])


def names_in(photo: dict[str, Any]) -> list[str]:
    """The names from left to right, without unknown faces in the background."""
    faces = sorted(photo["faces"], key=lambda face: face["box"])
    return [face["identity"] for face in faces if face["identity"] != "unknown"]


def cache_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called once: later calls return the first result."""
    results: list[Any] = []

    def cached(*arguments: Any) -> Any:
        if not results:
            results.append(function(*arguments))
        return results[0]

    return cached


@pytest.mark.slow
@pytest.mark.data
@real_faces
def test_every_method_identifies_all_faces_of_a_group(
    faces_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = ["Laura_Bush", "Hugo_Chavez", "Hans_Blix", "Naomi_Watts"]
    sheet = Image.new("RGB", (1100, 300), "grey")
    for i, person in enumerate(group):
        side = 130 + 40 * i
        face = face_of(person).crop((50, 40, 200, 210)).resize((side, side))
        sheet.paste(face, (20 + 270 * i, 10 * i))
    sheet.save("group.jpg")
    for slow in ("find_faces", "embed_faces"):  # the same for all methods
        cached = cache_first(getattr(identifier, slow))
        monkeypatch.setattr(identifier, slow, cached)
    for method in METHODS:
        who = ("who", "group.jpg", "--run", faces_run, "--method", method)
        [photo] = run_json(capsys, *who)["photos"]
        assert names_in(photo) == group, method
        for face in photo["faces"]:
            second = face["second"] or {"similarity": -1}  # none where all neighbors agree
            assert face["similarity"] > second["similarity"], method


@pytest.mark.slow
@pytest.mark.data
@real_faces
def test_unknown_people_are_unknown_and_rotated_photographs_are_identified(
    faces_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face_of("Vladimir_Putin").save("stranger.png")
    face_of("Jack_Straw").rotate(90).save("turned.png")
    face_of("Jack_Straw").resize((10, 10)).save("tiny.png")
    words = ("who", "stranger.png", "turned.png", "tiny.png", "--run", faces_run)
    stranger, turned, tiny = run_json(capsys, *words)["photos"]
    assert stranger["faces"] and names_in(stranger) == []
    assert names_in(turned) == ["Jack_Straw"]
    assert tiny["size"] == [10, 10]


@pytest.mark.data
@real_faces
def test_the_nearest_identity_is_found_by_the_face(
    faces_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face_of("Colin_Powell").save("someone.png")
    [found] = run_json(capsys, "like", "someone.png", "--run", faces_run, "--nearest", "3")[
        "photos"
    ]
    assert found["identity"] == "Colin_Powell"
    assert [near["identity"] for near in found["nearest"]] == ["Colin_Powell"] * 3
    scores = [near["similarity"] for near in found["nearest"]]
    assert scores == sorted(scores, reverse=True)
    assert found["face"]["found"] == "at once" and found["face"]["confidence"] > 0.6


@pytest.mark.data
@real_faces
def test_a_group_in_a_rotated_photograph_is_identified(
    faces_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = Image.new("RGB", (700, 300), "grey")
    for i, person in enumerate(("Laura_Bush", "Hans_Blix")):
        sheet.paste(face_of(person).crop((50, 40, 200, 210)), (50 + 350 * i, 60))
    sheet.rotate(-90, expand=True).save("side.png")
    [photo] = run_json(capsys, "who", "side.png", "--run", faces_run)["photos"]
    assert sorted(names_in(photo)) == ["Hans_Blix", "Laura_Bush"]
