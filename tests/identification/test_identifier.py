"""An identifier rejects faces below its threshold; defaults agree with the detector."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.faces import detection
from lookalike.identification.identifier import Identifier, faces_table
from lookalike.identification.references import Match, References
from lookalike.identification.settings import MAX_OVERLAP, MIN_CONFIDENCE, ReferenceSettings


def identifier(threshold: float | None) -> Identifier:
    references = References(np.eye(2, dtype=np.float32), ["ada", "bob"])
    unused: Any = None
    return Identifier(unused, references, ReferenceSettings(Path("runs/none")), threshold)


@pytest.mark.parametrize(
    ("threshold", "identity"), [(None, "ada"), (0.7, "ada"), (0.71, "unknown")]
)
def test_a_face_is_unknown_below_the_threshold(threshold: float | None, identity: str) -> None:
    entry = identifier(threshold).decide([Match("ada", 0.7), Match("bob", 0.25)])
    assert entry == {
        "identity": identity,
        "nearest": "ada",
        "similarity": 0.7,
        "second": {"identity": "bob", "similarity": 0.25},
    }


def test_a_single_known_identity_has_no_second() -> None:
    assert identifier(None).decide([Match("ada", 0.7)])["second"] is None


def test_the_table_has_a_row_for_every_face_and_every_photograph_without() -> None:
    face = {"identity": "ada", "similarity": 0.7, "second": None, "confidence": 0.9}
    records: list[dict[str, Any]] = [
        {"photo": "a.jpg", "marked": "out/a.jpg", "faces": [face, face]},
        {"photo": "b.jpg", "marked": "out/b.jpg", "faces": []},
    ]
    text = faces_table(records)
    assert text.count("a.jpg") == 3 and "(no face)" in text and "out/b.jpg" in text


def test_the_defaults_are_those_of_the_detector() -> None:
    assert (MIN_CONFIDENCE, MAX_OVERLAP) == (detection.MIN_CONFIDENCE, detection.MAX_OVERLAP)
