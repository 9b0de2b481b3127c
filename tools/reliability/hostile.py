"""Hypothesis strategies of hostile input: damaged files, wrong values, arrays that do not fit."""

import io
import json
import random
from typing import Any

import numpy as np
import tomli_w
from hypothesis import strategies as st


def damaged(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    """Valid files with bytes overwritten, removed, inserted and repeated; and any bytes."""

    def damage(start: bytes, seed: int) -> bytes:
        # Of a seed: drawn one by one, edits would take longer to make than to read.
        rng, data = random.Random(seed), bytearray(start)
        for _ in range(rng.randint(1, 6)):
            place, content = rng.randint(0, len(data)), rng.randbytes(rng.randint(1, 8))
            kind = rng.choice(["set", "flip", "cut", "insert", "repeat", "end"])
            if kind == "set":
                data[place : place + len(content)] = content
            elif kind == "flip" and place < len(data):
                data[place] ^= 1 << rng.randint(0, 7)
            elif kind == "cut":
                del data[place : place + len(content)]
            elif kind == "insert":
                data[place:place] = content
            elif kind == "repeat":
                data[place:place] = data[max(0, place - 40) : place] * rng.randint(1, 20)
            elif kind == "end" and rng.random() < 0.2:
                del data[place:]
        return bytes(data)

    changed = st.builds(damage, st.sampled_from(valid), st.integers(0, 2**60))
    return st.one_of(changed, changed, changed, st.binary(max_size=200))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(
        ["../x", "/etc/passwd", "a\0b", "ns:name", "hf:a/b", 2**63, 2**31 - 1, -1, 0, 1e400]
    ),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def paths_in(tables: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths to all keys of nested tables."""
    found = []
    for key, value in tables.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += paths_in(value, (*prefix, key))
    return found


def with_wrong_values(tables: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The tables with some values replaced."""

    def put(changes: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
        copy = json.loads(json.dumps(tables))
        for (*path, last), value in changes:
            table = copy
            for key in path:
                table = table[key] if isinstance(table, dict) and key in table else {}
            if isinstance(table, dict):
                table[last] = value
        return copy

    change = st.tuples(st.sampled_from(paths_in(tables)), values)
    return st.builds(put, st.lists(change, min_size=1, max_size=3))


def to_toml(tables: dict[str, Any]) -> bytes:
    """TOML, or nothing where TOML has no such value."""
    try:
        return tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):
        return b""


arrays = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 255, shape).astype(dtype),
    st.sampled_from(["<f4", "<f8", "<i4", "<i8", "u1", "?", "<U3", ">f4", "<f2"]),
    st.lists(st.integers(0, 6), max_size=4).map(tuple),
    st.integers(0, 9),
)


numbers = st.builds(np.int32, st.one_of(st.integers(-1, 9), st.integers(-(2**31), 2**31 - 1)))


def requests_of(
    inputs: dict[str, dict[str, st.SearchStrategy]],
) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """A signature's name and inputs, each from its own strategy."""
    return st.sampled_from(sorted(inputs)).flatmap(
        lambda name: st.tuples(st.just(name), st.fixed_dictionaries(inputs[name]))
    )


def native(array: np.ndarray) -> np.ndarray:
    """In the byte order of this machine, which TensorFlow needs to send it."""
    return array.astype(array.dtype.newbyteorder("="))


def to_npz(members: dict[str, np.ndarray]) -> bytes:
    """An archive of arrays."""
    file = io.BytesIO()
    np.savez(file, **members)
    return file.getvalue()
