"""Seeded mutations of valid bytes and of valid JSON values."""

import json
from collections.abc import Callable
from random import Random
from typing import Any


def _flip_bits(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 1, 4, 32))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _cut_end(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _cut_piece(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    del data[start : start + random.choice((1, 2, 16, 256))]


def _repeat_piece(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    piece = data[start : start + random.choice((1, 4, 64, 1024))]
    data[start:start] = piece * random.choice((1, 1, 20))


def _overwrite(data: bytearray, random: Random) -> None:
    start, count = random.randrange(len(data)), random.choice((1, 2, 4, 8, 64))
    byte = random.choice((0x00, 0xFF, 0x7F, 0x20, random.randrange(256)))
    data[start : start + count] = bytes([byte]) * len(data[start : start + count])


TOKENS = (
    b"\0", b"\r", b"\n", b"\r\r\n", b'"', b"'", b",", b"{", b"[", b"}", b"]", b"\\u0000",
    b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\xc2\xb2", b"\xe2\x80\xae", b"NaN", b"1e999", b"-0",
    b"null", b"true", b"9" * 30, b"[" * 3000, b"../", b"\x1b[31m", b"\xed\xa0\x80", b"%s", b"=cmd|",
)  # fmt: skip


def _insert_token(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    data[start:start] = random.choice(TOKENS)


BYTE_MUTATIONS: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip_bits,
    _cut_end,
    _cut_piece,
    _repeat_piece,
    _overwrite,
    _insert_token,
)


def mutate(data: bytes, random: Random) -> bytes:
    """Return bytes with one to three mutations."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        if changed:
            random.choice(BYTE_MUTATIONS)(changed, random)
    return bytes(changed)


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 10**30, -(10**30), 1e308, float("nan"), float("inf"), "", "²",
    "a b", "../x", "\x1b[2J", "\u202e", "é", "\udcff", [], [[]], {}, {"": []}, [None], ["a", 1],
)  # fmt: skip


def mutate_json(value: Any, random: Random) -> Any:
    """Return a copy of a JSON value in which one part is another value, gone, or there twice."""
    copy = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        keys = node.keys() if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    if isinstance(copy, dict | list):
        visit(copy)
    if not places or random.random() < 0.05:
        return random.choice(ODD_VALUES)
    node, key = random.choice(places)
    kind = random.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.insert(key, node[key])
    elif kind == 1:
        node[f"{key}{random.choice(['', ' ', '2'])}x"] = node[key]
    elif kind == 2:
        other, place = random.choice(places)
        node[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
    else:
        node[key] = random.choice(ODD_VALUES)
    return copy


def _keys(node: Any) -> Any:
    return node.keys() if isinstance(node, dict) else range(len(node))


def mutated_json(data: bytes, random: Random) -> bytes:
    """Return the bytes of a JSON file, mutated as bytes or as a value."""
    if random.random() < 0.5:
        return mutate(data, random)
    text = json.dumps(mutate_json(json.loads(data), random), ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")
