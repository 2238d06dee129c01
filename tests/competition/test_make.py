"""A competition that is made: who is where, what names and files tell, and the same bytes again."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lookalike.competition.competition import main
from lookalike.competition.drawing import draw
from lookalike.competition.leaks import baselines, near_copies, read_facts, read_thumbnails
from lookalike.competition.package import neutral_jpeg, padded
from lookalike.competition.settings import MakeCommand
from lookalike.core.errors import UserError
from lookalike.core.readers import read_json
from lookalike.data.dataset import read_dataset
from lookalike.data.extraction import main as extract
from lookalike.data.tables import read_usage
from lookalike.evaluation.evaluate import main as evaluate
from lookalike.evaluation.scoring import read_labels
from tests.conftest import draw as draw_picture

PATTERN = r"/(?P<domain>photo|art)_"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Class folders: 12 identities with six photographs and six drawings each."""
    root = tmp_path / "faces"
    for identity in range(12):
        for number in range(12):
            kind = "photo" if number % 2 else "art"
            path = root / f"person_{identity:02}" / f"{kind}_{number}.png"
            draw_picture(path, identity, number, kind == "art")
    return root


def make(source: Path, *words: str, out: str = "friday") -> int:
    return main(["make", "--source-path", str(source), "--out", out, "--image-size", "64", *words])


def members(package: str = "friday/friday.zip") -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def test_the_package_names_nobody_and_the_solution_does(source: Path) -> None:
    assert make(source) == 0
    package, solution = members(), pd.read_csv("friday/organizer/solution.csv")
    names = pd.read_csv("friday/organizer/names.csv").set_index("name")
    test = [name for name in package if name.startswith("test/")]
    assert len(test) == len(solution) and not any("person" in name for name in test)
    trained = {name.split("/")[1] for name in package if name.startswith("training/")}
    assert not trained & set(solution.identity) and len(trained) == 8
    for name, identity in zip(solution.image, solution.identity, strict=True):
        (row,) = (its for full, its in names.iterrows() if str(full).endswith(f"/{name}"))
        assert row.path.startswith(f"{identity}/")
    labels = read_labels(Path("friday/organizer/solution.csv"))
    assert set(labels.query.values()) == set(labels.gallery.values())
    usage = read_usage(Path("friday/organizer/solution.csv"))
    assert set(usage.values()) == {"Public", "Private"}
    public = {labels.query[name] for name, use in usage.items() if use == "Public"}
    assert len(public) == 1, "whole identities, of which 30 % are public"
    assert "| query | 8 | 4 |" in package["README.md"].decode()


def test_pictures_are_pixels_and_nothing_else(source: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "Ada at home"
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (0, 0, 100, 100))
    image.save(source / "person_00" / "turned.jpg", exif=exif, comment=b"Ada")
    assert make(source) == 0
    with zipfile.ZipFile("friday/friday.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for name, raw in members().items():
        if name.endswith(".jpg"):
            picture = Image.open(io.BytesIO(raw))
            assert max(picture.size) == 64 and not picture.getexif() and b"Ada" not in raw
            assert not picture.info.pop("comment", b"").strip(b"\0"), "it fills up the bytes"
            assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    turned = Image.open(io.BytesIO(neutral_jpeg(Image.new("RGB", (100, 200)), 64)))
    assert turned.size == (32, 64)


def test_pictures_of_the_test_have_as_many_bytes_as_another(source: Path) -> None:
    assert make(source) == 0
    package = members()
    test = [raw for name, raw in package.items() if name.startswith("test/")]
    assert len({len(raw) for raw in test}) == 1
    assert len({raw.rstrip(b"\0")[-2:] for raw in test}) == 1, "the end is a JPEG's"
    plain = neutral_jpeg(Image.new("RGB", (64, 64), "red"), 64)
    for more in (4, 5, 7, 65_537, 65_538, 65_541, 200_000):
        longer = padded(plain, len(plain) + more)
        assert len(longer) == len(plain) + more
        with Image.open(io.BytesIO(longer)) as image, Image.open(io.BytesIO(plain)) as same:
            assert image.tobytes() == same.tobytes()


def test_the_same_seed_makes_the_same_bytes(source: Path) -> None:
    assert make(source, out="a/friday") == make(source, out="b/friday") == 0
    for name in ("friday.zip", "organizer/solution.csv", "organizer/leaks.md"):
        assert Path("a/friday", name).read_bytes() == Path("b/friday", name).read_bytes(), name
    assert make(source, "--seed", "1", out="c/friday") == 0
    solutions = [Path(f"{run}/friday/organizer/solution.csv").read_text() for run in "ac"]
    assert solutions[0] != solutions[1]


def test_domains_distractors_and_unknown_queries(source: Path) -> None:
    words = ["--domain-pattern", PATTERN, "--query-domain", "photo", "--identities", "3"]
    words += ["--distractors", "2", "--unknown", "1", "--queries", "4", "--gallery", "5"]
    assert make(source, *words) == 0
    names = pd.read_csv("friday/organizer/names.csv")
    part = names.name.str.split("/").str[1].where(names.name.str.startswith("test/"), "training")
    queries, gallery = names[part == "query"], names[part == "gallery"]
    assert set(queries.domain) == {"photo"} and set(gallery.domain) == {"art"}
    assert queries.identity.value_counts().tolist() == [4] * 4
    assert gallery.identity.value_counts().tolist() == [5] * 5
    assert len({*queries.identity} - {*gallery.identity}) == 1
    assert len({*gallery.identity} - {*queries.identity}) == 2
    assert names[part == "training"].identity.nunique() == 6


def test_the_sample_is_a_submission_that_evaluate_takes(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(source) == 0
    Path("sample.json").write_bytes(members()["sample_submission.json"])
    assert evaluate(["sample.json", "--labels", "friday/organizer/solution.csv"]) == 0
    printed = capsys.readouterr().out
    assert "score, Private" in printed and "score, Public" in printed


def test_a_table_is_a_source(source: Path) -> None:
    rows = [
        (f"faces/{path.relative_to(source).as_posix()}", path.parent.name, path.name[:3])
        for path in sorted(source.rglob("*.png"))
    ]
    table = pd.DataFrame(rows, columns=["image", "who", "domain"])
    table.to_csv("people.csv", index=False)
    assert make(Path("people.csv")) == 1, "which column names the identity is not known"
    words = ["--identity-column", "who", "--query-domain", "pho"]
    assert make(Path("people.csv"), *words, out="table") == 0
    assert make(source, "--domain-pattern", PATTERN, "--query-domain", "photo") == 0
    drawn = [
        pd.read_csv(f"{folder}/organizer/names.csv").set_index("name").sort_index()
        for folder in ("table", "friday")
    ]
    assert (drawn[0].path == "faces/" + drawn[1].path).all()
    assert (drawn[0].identity == drawn[1].identity).all()
    both = members("table/table.zip"), members()
    for pictures in both:
        pictures.pop("README.md")  # which names the folder
    assert both[0] == both[1]


def test_pictures_have_the_usual_size_of_the_source(source: Path) -> None:
    words = ["make", "--source-path", str(source), "--out", "friday"]
    assert main(words) == 0
    with Image.open(next(source.rglob("*.png"))) as image:
        usual = max(image.size)
    names = [name for name in members() if name.startswith("test/")]
    with zipfile.ZipFile("friday/friday.zip") as archive:
        sides = {max(Image.open(io.BytesIO(archive.read(name))).size) for name in names}
    assert sides == {usual}


def test_copies_and_damaged_pictures_are_left_out(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = source / "person_00" / "photo_1.png"
    (source / "person_00" / "again.png").write_bytes(first.read_bytes())
    (source / "person_02" / "mine_too.png").write_bytes(
        (source / "person_01" / "photo_1.png").read_bytes()
    )
    (source / "person_03" / "broken.png").write_bytes(b"no picture")
    with caplog.at_level("WARNING"):
        assert make(source) == 0
    assert "1 pictures are damaged: left out: person_03/broken.png" in caplog.text
    assert "2 pictures are of two identities: left out" in caplog.text
    assert "1 pictures are copies of another: left out" in caplog.text
    assert len(pd.read_csv("friday/organizer/names.csv")) == 12 * 12 - 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--identities", "13"], "--identities 13: only 12 have the pictures for it"),
        (["--unknown", "9"], "--unknown 9: only 8 have the pictures for it"),
        (["--distractors", "9"], "--distractors 9: only 8 have the pictures for it"),
        (["--query-domain", "oil"], "known domains are none (name --domain-pattern)"),
        (["--query-domain", "oil", "--domain-pattern", PATTERN], "known domains are art, photo"),
        (["--domain-pattern", "("], "--domain-pattern"),
        (["--public", "2"], "--public 2.0: must be at least 0 and at most 1"),
    ],
)
def test_mistakes_make_nothing(
    source: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(source, *words) == 1
    assert said in capsys.readouterr().err
    assert not Path("friday").exists()


def test_what_is_there_is_not_written_over(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("friday").mkdir()
    assert make(source) == 1
    assert "--out friday: is there already" in capsys.readouterr().err
    assert main(["leaks", "friday"]) == 1
    assert "solution.csv: no such file" in capsys.readouterr().err


def test_a_killed_one_leaves_nothing_by_the_name(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lookalike.competition.make._write_organizer", dies)
    assert make(source) == 130
    assert not Path("friday").exists()


# ---- leaks --------------------------------------------------------------------------------------


def package_of(pictures: dict[str, bytes]) -> Path:
    with zipfile.ZipFile("leaky.zip", "w") as archive:
        for name, raw in pictures.items():
            archive.writestr(name, raw)
    return Path("leaky.zip")


def noise(seed: int, size: tuple[int, int] = (40, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return neutral_jpeg(Image.fromarray(pixels), max(size))


def leaks_of(pictures: dict[str, bytes], labels: dict[str, dict[str, str]]) -> dict[str, float]:
    Path("solution.json").write_text(json.dumps(labels))
    facts = read_facts(package_of(pictures))
    found = baselines(facts, read_labels(Path("solution.json")), 0)
    return {leak.baseline: leak.score - leak.most for leak in found}


def test_a_size_that_tells_the_identity_is_found() -> None:
    pictures, labels = {}, {"query": {}, "gallery": {}}  # type: ignore[var-annotated]
    order = np.random.default_rng(0).permutation(60)
    for place, number in enumerate(order.tolist()):
        part = "query" if number < 20 else "gallery"
        name, identity = f"{part[0]}{place:03}.jpg", number % 20
        pictures[f"test/{part}/{name}"] = noise(number, (40, 30 + identity))
        labels[part][name] = str(identity)
    above = leaks_of(pictures, labels)
    assert above["width and height"] > 0
    assert above["name"] <= 0 and above["order in the zip"] <= 0 and above["metadata"] <= 0


def test_names_and_order_that_tell_the_identity_are_found() -> None:
    pictures, labels = {}, {"query": {}, "gallery": {}}  # type: ignore[var-annotated]
    for number in range(60):
        part = "query" if number % 3 == 0 else "gallery"
        name = f"{part[0]}{number:03}.jpg"
        pictures[f"test/{part}/{name}"] = noise(number)
        labels[part][name] = str(number // 3)
    above = leaks_of(pictures, labels)
    assert above["name"] > 0 and above["order in the zip"] > 0 and above["bytes"] <= 0


def test_nearly_the_same_pictures_in_two_parts_are_found() -> None:
    smooth = np.random.default_rng(3).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    large = Image.fromarray(smooth).resize((64, 64), Image.Resampling.BICUBIC)
    copy = large.resize((50, 50)).point(lambda value: min(255, value + 4))
    pictures = {
        "test/query/q1.jpg": neutral_jpeg(large, 64),
        "test/query/q2.jpg": noise(1),
        "test/gallery/g1.jpg": noise(2),
        "test/gallery/g2.jpg": neutral_jpeg(copy, 64),
        "training/ada/1.jpg": noise(1),
        "training/ada/2.jpg": noise(3),
        "README.md": b"no picture",
    }
    assert near_copies(read_thumbnails(package_of(pictures))) == [
        ("training/ada/1.jpg", "test/query/q2.jpg"),
        ("test/query/q1.jpg", "test/gallery/g2.jpg"),
    ]


def test_the_report_is_kept_and_printed_again(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(source) == 0
    report = Path("friday/organizer/leaks.md").read_text()
    assert "| by name " in report and "## Pictures of two parts that are nearly" in report
    capsys.readouterr()
    assert main(["leaks", "friday"]) == 0
    assert capsys.readouterr().out == report + "\n"


def test_settings_are_kept(source: Path) -> None:
    assert make(source, "--seed", "7") == 0
    settings = read_json(Path("friday/organizer/settings.json"), "")
    assert settings["seed"] == 7 and settings["source_path"] == str(source)


def test_too_few_pictures_for_a_pair() -> None:
    alone = pd.DataFrame({"identity": ["ada", "bo"], "path": ["1", "2"], "domain": ["", ""]})
    with pytest.raises(UserError, match="--identities 1: only 0 have the pictures for it"):
        draw(alone, MakeCommand(Path(), Path()))


def test_the_package_is_a_data_set_for_this_toolkit(source: Path) -> None:
    assert make(source) == 0
    words = ["--source", "archive", "--source-path", "friday/friday.zip", "--data", "data/friday"]
    assert extract(words) == 0
    rows = read_dataset("data/friday").catalogue
    assert rows.part.value_counts().to_dict() == {"training": 96, "gallery": 40, "query": 8}
    assert set(rows.problem) == {""}


def test_a_package_that_is_gone_or_damaged_is_a_sentence(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(source) == 0
    Path("friday").rename("monday")
    assert main(["leaks", "monday"]) == 0, "it may be renamed"
    package = Path("monday/friday.zip")
    whole = package.read_bytes()
    package.write_bytes(whole[: len(whole) // 2])
    assert main(["leaks", "monday"]) == 1
    assert "friday.zip: is no package of `competition make`" in capsys.readouterr().err
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("test/query/q00001.jpg", noise(1))
    assert main(["leaks", "monday"]) == 1
    assert "friday.zip: lacks 47 pictures, such as g00001.jpg" in capsys.readouterr().err
    package.unlink()
    assert main(["leaks", "monday"]) == 1
    assert "monday: holds 0 zips" in capsys.readouterr().err
