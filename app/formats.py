"""Blocks of wines -> JSON and CSV, piece by piece. Wine lives on a grid, so every value's text is made once and then looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from app.wine import COLUMNS, HIGH_TICKS, LOW_TICKS, NAMES, QUALITY_RANGE, TYPES, Wines

Tokens = list[NDArray[np.object_]]  # for each of the 13 columns, the text of each value from its lowest up

JSON = "application/json"
CSV = "text/csv"


def json_chunks(blocks: Iterable[Wines]) -> Iterator[bytes]:
    """One JSON array of row objects, a piece for each block."""
    before = "["
    for block in filter(len, blocks):  # an empty one would leave a lone comma
        yield (before + _text(block, _json_tokens()).removesuffix(",")).encode()
        before = ","
    yield b"[]" if before == "[" else b"]"


def csv_chunks(blocks: Iterable[Wines]) -> Iterator[bytes]:
    """A header line, then a line for each row (RFC 4180 but for LF line ends)."""
    yield (",".join(NAMES) + "\n").encode()
    for block in blocks:
        yield _text(block, _csv_tokens()).encode()


CHUNKS = {JSON: json_chunks, CSV: csv_chunks}


def _text(block: Wines, tokens: Tokens) -> str:
    parts = np.empty((len(block), len(NAMES)), dtype=object)
    for j in range(len(COLUMNS)):
        parts[:, j] = tokens[j].take(block.ticks[:, j] - LOW_TICKS[j])
    parts[:, -2] = tokens[-2].take(block.quality - QUALITY_RANGE[0])
    parts[:, -1] = tokens[-1].take(block.red.astype(np.int64))
    return "".join(parts.reshape(-1).tolist())


@cache
def _values() -> list[list[str]]:
    """The text of every value that each column can have; a float's shortest form, as JSON and CSV readers expect it."""
    numbers = [
        [repr(tick / column.scale) for tick in range(low, high + 1)] for column, low, high in zip(COLUMNS, LOW_TICKS.tolist(), HIGH_TICKS.tolist(), strict=True)
    ]
    return [*numbers, [str(q) for q in range(QUALITY_RANGE[0], QUALITY_RANGE[1] + 1)], list(TYPES)]


@cache
def _json_tokens() -> Tokens:
    quoted = [*_values()[:-1], [f'"{t}"' for t in TYPES]]
    before = ["{", *[","] * (len(NAMES) - 1)]
    after = [*[""] * (len(NAMES) - 1), "},"]
    return [_array(f'{b}"{name}":', values, a) for b, name, values, a in zip(before, NAMES, quoted, after, strict=True)]


@cache
def _csv_tokens() -> Tokens:
    after = [*[","] * (len(NAMES) - 1), "\n"]
    return [_array("", values, a) for values, a in zip(_values(), after, strict=True)]


def _array(before: str, values: list[str], after: str) -> NDArray[np.object_]:
    return np.array([f"{before}{value}{after}" for value in values], dtype=object)
