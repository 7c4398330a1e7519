"""Cells -> wines: strict about every cell, and plain about the first that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import Fault, InvalidInput
from app.wine import COLUMNS, FREE_SO2, MEASUREMENTS, NAMES, QUALITY_RANGE, TOTAL_SO2, TYPES, Floats, Ints, Wines, to_ticks

MAX_FAULTS = 20  # told at once; nobody reads more
COUNTED = 1000  # faults after which nobody goes on counting
PART = 8192  # rows read at a time
LARGEST = 1e300  # a whole number beyond it may fit no float
SHOWN = 40  # characters of a wrong cell
_OFF_GRID = 1e-6  # ticks; a decimal read as a float is nearer than this to its tick

Cells = Sequence[Any]  # of one row, in the order of NAMES: text from CSV, JSON values, numbers from Arrow
_Read = tuple[Floats, Ints, NDArray[np.bool_]]  # measurements (rows, 11), quality and whether red, both (rows,)


@dataclass(frozen=True)
class Table:
    """Wines read from a file, and how many of their values were moved to the grid (9.53333333333333 -> 9.53)."""

    wines: Wines
    snapped: int


def tables_of(rows: Iterator[tuple[int, Cells]], unit: str, numbers: Numbers) -> Iterator[Table]:
    """Rows, each with its place in the file, as tables of at most ``PART``.

    ``unit`` is what the file counts in, lines or rows. After a fault there is no further table, but the rest is read to
    count the others: ``InvalidInput`` then lists the first ``MAX_FAULTS``.
    """
    faults: list[Fault] = []
    while len(faults) < COUNTED and (part := list(islice(rows, PART))):
        found = _read_columns([cells for _, cells in part], numbers) or _read_rows(part, unit, numbers, faults)
        if faults:
            continue
        measurements, quality, red = found
        ticks = to_ticks(measurements)
        off_grid = np.abs(measurements * [c.scale for c in COLUMNS] - ticks) > _OFF_GRID
        yield Table(Wines(ticks, quality, red), int(off_grid.sum()))
    if faults:
        raise InvalidInput(_told(faults), faults[:MAX_FAULTS])


def _told(faults: list[Fault]) -> str:
    """The first fault in full, and how many there are."""
    count = f"{COUNTED} or more" if len(faults) >= COUNTED else str(len(faults))
    others = "" if len(faults) == 1 else f" (the first of {count} faults{f', of which {MAX_FAULTS} are listed' if len(faults) > MAX_FAULTS else ''})"
    return f"the table has cells that are not a wine's: {faults[0].detail}{others}"


def _read_columns(rows: Sequence[Cells], numbers: Numbers) -> _Read | None:
    """All of it at once; None where any cell may be wrong, and somebody must look at each."""
    try:
        *columns, types = zip(*rows, strict=True)
        values = np.stack([numbers.many(column) for column in columns], axis=1)
    except (ValueError, TypeError, OverflowError):
        return None
    if values.shape[1] != len(NAMES) - 1 or not set(types) <= set(TYPES):
        return None
    measurements, quality = values[:, :-1], values[:, -1]
    within = (measurements >= [c.low for c in COLUMNS]) & (measurements <= [c.high for c in COLUMNS])  # a NaN is not
    whole = (quality == np.rint(quality)) & (quality >= QUALITY_RANGE[0]) & (quality <= QUALITY_RANGE[1])
    if not within.all() or not whole.all() or (measurements[:, FREE_SO2] > measurements[:, TOTAL_SO2]).any():
        return None
    return measurements, quality.astype(np.int64), np.array(types) == "red"


def _read_rows(part: Sequence[tuple[int, Cells]], unit: str, numbers: Numbers, faults: list[Fault]) -> _Read:
    """Row by row; what is wrong goes to the ``faults``, until they are enough."""
    measurements = np.empty((len(part), len(COLUMNS)))
    quality, red = np.empty(len(part), dtype=np.int64), np.empty(len(part), dtype=np.bool_)
    for i, (place, cells) in enumerate(part):
        if len(cells) != len(NAMES):
            faults.append(_fault(unit, place, None, f"{len(NAMES)} cells", f"{len(cells)} cells"))
        else:
            faults += _read_row(unit, place, cells, numbers.one, measurements[i])
            quality[i], red[i] = _quality(numbers.one(cells[-2])) or 0, cells[-1] == "red"
        if len(faults) >= COUNTED:
            break
    return measurements, quality, red


def _read_row(unit: str, place: int, cells: Cells, number: Callable[[Any], float | None], into: Floats) -> list[Fault]:
    """Puts a row's measurements ``into`` place, (11,), and returns what is wrong with the row."""
    faults = []
    for j, column in enumerate(COLUMNS):
        value = number(cells[j])
        if value is None or not column.low <= value <= column.high:
            faults.append(_fault(unit, place, column.name, f"a number from {column.low} to {column.high} ({column.unit})", cells[j]))
        else:
            into[j] = value
    if not faults and into[FREE_SO2] > into[TOTAL_SO2]:
        faults.append(_fault(unit, place, MEASUREMENTS[FREE_SO2], f"at most the total, {str(cells[TOTAL_SO2])[:SHOWN]}", cells[FREE_SO2]))
    if _quality(number(cells[-2])) is None:
        faults.append(_fault(unit, place, "quality", f"a whole number from {QUALITY_RANGE[0]} to {QUALITY_RANGE[1]}", cells[-2]))
    if cells[-1] not in TYPES:
        faults.append(_fault(unit, place, "type", " or ".join(TYPES), cells[-1]))
    return faults


def _number(cell: str) -> float | None:
    """A number written in a cell of text."""
    if "_" in cell or not cell.isascii():  # Python reads 1_0 and other scripts' digits as numbers; nobody means them in a table
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _json_number(cell: object) -> float | None:
    """A number that is one already."""
    if not isinstance(cell, int | float) or isinstance(cell, bool) or abs(cell) > LARGEST:
        return None
    return float(cell) if math.isfinite(cell) else None


def _numbers(cells: Sequence[str]) -> Floats:
    """What ``_number`` makes of each, (rows,); ``ValueError`` where it would make nothing, but NaN and infinity pass."""
    text = "".join(cells)
    if "_" in text or not text.isascii():
        raise ValueError("expected digits")
    return np.array(cells, dtype=np.object_).astype(np.float64)


def _json_numbers(cells: Sequence[object]) -> Floats:
    """What ``_json_number`` makes of each, (rows,); ``ValueError`` or ``OverflowError`` where it would make nothing, but NaN and infinity pass."""
    if not set(map(type, cells)) <= {int, float}:
        raise ValueError("expected numbers")
    return np.array(cells, dtype=np.float64)


@dataclass(frozen=True)
class Numbers:
    """How cells become numbers: ``one`` with None for what is none, ``many`` all or nothing."""

    one: Callable[[Any], float | None]
    many: Callable[[Sequence[Any]], Floats]


TEXT = Numbers(_number, _numbers)  # of CSV
TYPED = Numbers(_json_number, _json_numbers)  # of formats that know numbers


def _quality(value: float | None) -> int | None:
    if value is None or value != int(value) or not QUALITY_RANGE[0] <= value <= QUALITY_RANGE[1]:
        return None
    return int(value)


def _fault(unit: str, place: int, column: str | None, expected: str, found: object) -> Fault:
    where = f"{unit} {place}" + (f", {column}" if column else "")
    shown = "null" if found is None else str(found)[:SHOWN] or "an empty cell"
    pointer = f"/body/{unit}/{place}" + (f"/{column}" if column else "")
    return Fault(pointer, f"{where}: expected {expected}, found {shown}", expected=expected, found=shown)
