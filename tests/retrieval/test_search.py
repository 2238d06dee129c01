"""The search within a time limit: a recipe, a timeline, the same submission again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lookalike import pipeline as runner
from lookalike.core.readers import read_json
from lookalike.retrieval import search
from lookalike.retrieval.prior import difference_of_domains
from tests.conftest import BACKBONE, FAST

DOMAINS = ("--domain-pattern", "(?P<domain>photo|drawing)_")


def run_all(*words: str | Path) -> int:
    return runner.main(["--stage", "all", *map(str, words)])


def bytes_of(folder: str) -> bytes:
    return Path(folder, "submission.json").read_bytes()


def test_the_recipe_gives_the_same_submission_and_the_run_is_kept(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", competition, *BACKBONE, *DOMAINS)
    assert run_all(*words) == 0
    output = capsys.readouterr().err
    assert "choice 3 of 3: " in output and " min left" in output
    run = Path("runs/tiny")
    timeline = pd.read_csv(run / "timeline.csv")
    assert timeline.minutes.is_monotonic_increasing
    assert {"resolutions 1 1.4", "flip on"} <= set(timeline.choice)
    assert timeline.choice.iloc[-1] == "chosen on one half, scored on the other"
    proved = timeline.kept & ~timeline.choice.str.startswith("local features")  # which are trusted
    assert (timeline.chance_of_none[proved] < 0.05).all()
    unseen = read_json(run / "unseen.json", "")
    assert f"not chosen on {unseen['after']:.1f}" in output
    chosen = json.loads((run / "recipe.json").read_text())
    assert chosen["backbone"] == BACKBONE[1] and chosen["time_limit"] == 0
    assert read_json(run / "config.json", "")["center"] == chosen["center"]
    forecast = read_json(run / "metrics.json", "")["forecast"]
    low, high = forecast["ci95"]["score"]
    assert 0 <= low <= forecast["score"] <= high <= 1000
    assert run_all("--config", run / "recipe.json", "--run", "runs/again") == 0
    assert bytes_of("runs/tiny") == bytes_of("runs/again")
    capsys.readouterr()
    assert run_all(*words) == 0
    assert "auto: inputs unchanged" in capsys.readouterr().err


def test_a_search_that_was_killed_goes_on_and_ends_the_same(
    competition: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--data", competition, *BACKBONE, *DOMAINS)
    assert run_all(*words, "--run", "whole") == 0
    whole, count = search.Search._choose_steps, 0

    def dies(self: search.Search, labeled: search.Labeled) -> None:
        nonlocal count
        count += 1
        whole(self, labeled)
        raise KeyboardInterrupt

    monkeypatch.setattr(search.Search, "_choose_steps", dies)
    assert run_all(*words, "--run", "killed") == 130
    assert count == 1 and json.loads(bytes_of("killed"))
    monkeypatch.setattr(search.Search, "_choose_steps", whole)
    before = read_json(Path("killed/search.json"), "")
    assert run_all(*words, "--run", "killed") == 0
    assert read_json(Path("killed/search.json"), "")["seconds"] > before["seconds"]
    assert bytes_of("killed") == bytes_of("whole")


def test_without_labeled_identities_the_prior_recipe_stands(
    competition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (competition / "training").rename(tmp_path / "elsewhere")
    assert run_all("--data", competition, *BACKBONE) == 0
    output = capsys.readouterr().err
    assert "faces in 0% of the queries and 0% of the gallery" in output
    assert "told apart at an AUC of" in output
    assert "too few labeled identities to forecast" in output
    assert "forecast" not in read_json(Path("runs/tiny/metrics.json"), "")


def test_settings_named_for_a_run_stay_until_reset(
    competition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", competition, "--run", "r")
    assert run_all(*words, *FAST, "--center") == 0
    assert run_all(*words) == 0
    config = read_json(Path("r/config.json"), "")
    assert config["backbone"] == FAST[1] and config["center"] is True
    capsys.readouterr()
    assert run_all(*words, "--no-center") == 0
    assert "center: True → False" in capsys.readouterr().err
    assert read_json(Path("r/named.json"), "")["center"] is False
    assert run_all(*words, *FAST, "--reset") == 0
    assert "center" not in read_json(Path("r/named.json"), "")


def test_domains_that_a_linear_classifier_tells_apart_differ() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 60, 8))
    assert difference_of_domains(one, other) < 0.7
    assert difference_of_domains(one, other + 2) > 0.95
    assert difference_of_domains(one[:3], other) == 0.5
