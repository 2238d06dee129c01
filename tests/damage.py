"""Seeded damage to files: bytes turned, lost, doubled and cut off; JSON values of other types."""

import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    "",
    "é",
    "0.5",
    [],
    [[]],
    {},
    {"a": {"b": 1}},
]


def damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` damaged versions of a file's content; JSON is changed as JSON half the time."""
    rng = random.Random(seed)
    for number in range(count):
        try:
            value = json.loads(content) if number % 2 else None
        except ValueError:
            value = None
        if value is not None:
            yield json.dumps(_with_another_value(value, rng)).encode()
        else:
            yield _with_other_bytes(bytearray(content), rng)


def _with_other_bytes(content: bytearray, rng: random.Random) -> bytes:
    """Turn bits, or remove, double or cut off a part."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([1, 1, 2, 10, 100]))
    kind = rng.choice(["bit", "byte", "remove", "double", "cut"])
    if kind == "bit":
        content[start] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[start] = rng.randrange(256)
    elif kind == "remove":
        del content[start:end]
    elif kind == "double":
        content[start:start] = content[start:end]
    else:
        del content[start:]
    return bytes(content)


def _with_another_value(value: Any, rng: random.Random) -> Any:
    """Walk down a random way; put another value there, or remove it, or add one."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(VALUES)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    change = rng.random()
    if change < 0.1:
        del value[key]
    elif change < 0.2 and isinstance(value, dict):
        value[f"{key}+"] = value.pop(key)
    else:
        value[key] = _with_another_value(value[key], rng)
    return value
