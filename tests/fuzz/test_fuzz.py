"""A minute of fuzzing: damaged and hostile inputs end in a result or in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.core.errors import UserError
from lookalike.core.readers import parse_json
from lookalike.evaluation.submissions import parse_submission
from tests.fuzz.kinds import Kind
from tests.fuzz.run import KINDS, fuzz

INPUTS = 2500  # of all kinds: a minute on two cores


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_inputs_of_a_kind_end_in_a_result_or_a_sentence(kind: type[Kind], tmp_path: Path) -> None:
    _, failures = fuzz(kind, tmp_path / "work", max(5, round(INPUTS * kind.share)), seed=0)
    assert not failures, "\n".join(failures[:3])


texts = st.text(st.characters(codec=None))  # half characters, too
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(texts, part, max_size=4),
    max_leaves=12,
)
READERS: dict[str, Callable[[str], Any]] = {
    "submission": lambda text: parse_submission(text, "a.json"),
    "table": lambda text: parse_submission(text, "a.csv", as_csv=True),
    "labels": lambda text: parse_json(text, "labels.json", dict[str, dict[str, str]]),
    "any": lambda text: parse_json(text, "any.json"),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(document=documents)
def test_any_json_is_read_or_refused_with_a_sentence(
    reader: Callable[[str], Any], document: Any
) -> None:
    try:
        reader(json.dumps(document))
    except UserError as error:
        assert str(error)
