"""The table of benchmarks/run.py says what was measured; its programs get the same inputs."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import memory, run, scoring
from benchmarks.rows import BenchmarkSettings, Row, in_turns, table
from lookalike.data.images import read_picture
from tests.conftest import Program

ROW = Row("a row", "ours", "theirs 1.0", "s", 2, [1.0, 2.0, 3.0], [8.0, 2.0, 4.0], "no remark")


def test_the_ratio_says_how_many_times_better_ours_is() -> None:
    assert ROW.ratio == 2.0
    faster = Row("pictures", "ours", "theirs", "pictures/s", 2, [90.0], [30.0])
    assert faster.ratio == 3.0


def test_the_table_shows_medians_spreads_and_what_falls_short() -> None:
    short = Row("another", "ours", "theirs", "s", 2.5, [2.0], [4.0], "the reason")
    first, second = table([ROW, short]).splitlines()[2:]
    assert "2 s (1 to 3, n = 3)" in first and "4 s (2 to 8, n = 3)" in first and "| yes" in first
    assert "| no" in second and "the reason" in second


def test_programs_run_in_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def program(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = in_turns((lambda: program("a"), lambda: program("b")), repeats=2, warm=1)
    assert order == ["a", "b"] * 3 and figures == [[3.0, 5.0], [4.0, 6.0]]


def settings_for(folder: Path, repeats: int = 1) -> BenchmarkSettings:
    return BenchmarkSettings(folder, folder, repeats, None, 100, 100)


def test_a_finished_row_is_measured_again_only_for_other_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full_ranking(settings: BenchmarkSettings) -> list[Row]:
        calls.append(settings.repeats)
        return [ROW]

    monkeypatch.setattr(scoring, "full_ranking", full_ranking)
    for repeats in (1, 1, 2, 2):
        assert run.measured("precision", settings_for(tmp_path, repeats), again=False) == [ROW]
    run.measured("precision", settings_for(tmp_path, 2), again=True)
    assert calls == [1, 2, 2]


def test_scorers_get_the_same_inputs_and_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("QUERIES", 40), ("GALLERY", 200), ("IDENTITIES", 20), ("LENGTH", 30)):
        monkeypatch.setattr(scoring, name, value)
    files = scoring.write_test(tmp_path)
    ours = scoring.our_means(*files)
    theirs = scoring.trec_means(*scoring.read_as_trec(*files))
    assert ours == pytest.approx(theirs[:4], abs=1e-9)
    assert 0 < ours[0] < 1
    ranked = json.loads(files[0].read_text())
    assert len(ranked) == 40 and {len(names) for names in ranked.values()} == {30}


def test_generated_pictures_are_distinct(tmp_path: Path) -> None:
    memory.write_pictures(tmp_path, 12)
    catalogue = memory.catalogue_of(tmp_path)
    assert catalogue.content.nunique() == 12
    pixels = np.asarray(read_picture((tmp_path / catalogue.path[0]).read_bytes(), memory.SIDE))
    assert pixels.shape == (memory.SIDE, memory.SIDE, 3)


def test_an_unknown_row_is_named(run_program: Program) -> None:
    done = run_program("benchmarks/run.py", "--rows", "speed")
    assert done.returncode == 2 and "--rows speed: must be among whole" in done.stderr
