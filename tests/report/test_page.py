"""The report as its reader sees it: the file, and the page in a real browser."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lookalike import cli, pipeline
from lookalike.core.errors import UserError
from lookalike.core.readers import read_json
from lookalike.report.page import make_page
from tests.conftest import FAST, draw_competition

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")
QUICK = ("--iterations", "250")
EVIL = '<img src=x onerror="document.title=1">&lt;'


def run_all(*words: str | Path) -> int:
    return pipeline.main(["--stage", "all", *map(str, words)])


@pytest.fixture
def own_copy(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, to change."""
    shutil.copytree(run_folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a run on the tiny competition, one of whose identities has an evil name."""
    root = tmp_path_factory.mktemp("report")
    data = draw_competition(root / "tiny")
    labels = (data / "labels.json").read_text().replace("person_12", json.dumps(EVIL)[1:-1])
    (data / "labels.json").write_text(labels)
    folders = ("--data", data, "--run", root / "run", "--cache", root / "cache")
    benchmark = ("--benchmark", root / "benchmark")
    assert run_all(*folders, *FAST, *DOMAINS, *QUICK, *benchmark) == 0
    return root / "run"


def test_every_run_ends_with_a_report_of_its_scores(run_folder: Path) -> None:
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text and "&lt;img src=x" in text
    score = read_json(run_folder / "metrics.json", "")["test"]["score"]
    assert f"{score:.1f} <small>of 1000" in text


def test_it_is_written_again_only_when_its_inputs_have_changed(
    own_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stage", "report", "--run", str(own_copy)]
    assert pipeline.main(words) == 0
    assert "report: inputs unchanged" in capsys.readouterr().err
    assert pipeline.main([*words, "--perplexity", "3"]) == 0
    assert "report: inputs unchanged" not in capsys.readouterr().err
    assert "perplexity 3)" in (own_copy / "report.html").read_text(encoding="utf-8")


def test_the_command_changes_only_the_settings_of_the_report(
    own_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(own_copy), *QUICK, "--report-queries", "3"]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (own_copy / "report.html").read_text(encoding="utf-8")
    assert "8 queries 3 are shown" in " ".join(text.split())


def test_without_labels_it_says_that_hits_are_not_known(tmp_path: Path) -> None:
    data = draw_competition(tmp_path / "tiny", labels=False)
    (data / "training").rename(tmp_path / "elsewhere")
    assert run_all("--data", data, *FAST, *QUICK) == 0
    text = Path("runs/tiny/report.html").read_text(encoding="utf-8")
    assert "which results are hits is not known" in text and "There are no scores" in text
    assert "<h2>Embedding space" not in text and "<h2>Training" not in text


def test_a_run_without_a_ranking_is_an_error_in_words(own_copy: Path) -> None:
    (own_copy / "ranking.json").unlink()
    run = pipeline.prepare(["--stage", "report", "--run", str(own_copy)])
    with pytest.raises(UserError, match=r"ranking\.json is missing: make it with --stage retrieve"):
        make_page(run)


@pytest.mark.parametrize("change", ["query", "gallery"])
def test_a_ranking_of_other_pictures_is_an_error_in_words(change: str, own_copy: Path) -> None:
    path = own_copy / "ranking.json"
    ranking = read_json(path, "")
    query = next(iter(ranking["test"]))
    if change == "query":
        ranking["test"]["strange.jpg"] = ranking["test"].pop(query)
    else:
        ranking["test"][query][3][0] = "strange.jpg"
    path.write_text(json.dumps(ranking))
    run = pipeline.prepare(["--stage", "report", "--run", str(own_copy)])
    said = r"ranking\.json: names strange\.jpg, which is no picture of the test"
    with pytest.raises(UserError, match=said):
        make_page(run)


def test_what_only_decorates_the_page_is_left_out_and_named_where_it_is_damaged(
    own_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_copy / "faces.csv").write_text("path,found\ntest/query/1.jpg,by luck\n")
    (own_copy / "versions.json").write_text('{"python": 3}')
    (own_copy / "history.csv").write_text("epoch\n")
    text, _ = make_page(pipeline.prepare(["--stage", "report", "--run", str(own_copy)]))
    assert "<h2>Training" not in text
    for name in ("faces.csv", "versions.json", "history.csv"):
        assert f"{own_copy / name}:" in caplog.text
    assert caplog.text.count("left out of the report") == 3


# ---- in a browser -------------------------------------------------------------------------------


@pytest.fixture
def page(run_folder: Path, browser: Any) -> Any:
    """The report, opened from the disk; messages of the browser fail the test."""
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((run_folder / "report.html").as_uri())
    yield page
    assert not complaints
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]


@pytest.mark.browser
def test_the_panels_show_hits_and_misses_in_the_stated_order(page: Any, run_folder: Path) -> None:
    labels = read_json(run_folder / "labels.json", "")
    ranked = read_json(run_folder / "ranking.json", "")["test"]
    assert page.locator(".panel").count() == 8
    assert page.get_by_text("by the rank of the first hit").is_visible()
    first = page.locator(".panel").first
    query = first.locator("span.faint").inner_text()
    hits = [labels["gallery"][name] == labels["query"][query] for name, _ in ranked[query]]
    shown = [item.get_attribute("class") == "hit" for item in first.locator("li").all()]
    assert shown == hits
    scores = [float(score.inner_text()) for score in first.locator("em").all()]
    assert scores == pytest.approx([score for _, score in ranked[query]], abs=6e-4)
    page.select_option("#order", "random")
    assert page.get_by_text("In random order").is_visible()
    page.select_option("#order", "best")
    assert page.locator(".panel").last.locator("span.faint").inner_text() == query


@pytest.mark.browser
def test_the_filter_shows_one_identity_and_names_stay_text(page: Any) -> None:
    page.select_option("#identity", EVIL)
    assert [name.inner_text() for name in page.locator(".query b").all()] == [EVIL, EVIL]
    assert "2 of 2 queries" in page.locator("#count").inner_text()
    page.select_option("#part", label="validation")
    assert page.locator("#identity").input_value() == ""
    assert page.locator(".panel").count() > 0 and page.title() == "run: report"


@pytest.mark.browser
def test_a_point_of_the_map_shows_its_picture(page: Any) -> None:
    assert page.locator("#map > svg path").count() == 20
    page.select_option("#map-identity", EVIL)
    assert page.locator("#map > svg path:not(.off)").count() == 5
    page.locator("#map > svg path:not(.off)").first.hover(force=True)
    tip = page.locator("#tip")
    assert tip.is_visible() and tip.locator("b").inner_text() == EVIL
    assert tip.locator("img").evaluate("image => image.complete && image.naturalWidth") == 80


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('figure text')).fill")
    dark = [sum(map(int, color[4:-1].split(","))) < 300 for color in (ground, ink)]
    assert dark == [scheme == "dark", scheme == "light"]
