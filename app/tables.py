"""CSV -> wines: strict about every cell, and plain about the first ones that are wrong."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

import numpy as np

from app.errors import Fault, InvalidInput
from app.wine import COLUMNS, FREE_SO2, NAMES, QUALITY_RANGE, TOTAL_SO2, TYPES, Floats, Wines, to_ticks

MAX_FAULTS = 20  # told at once; nobody reads more
_OFF_GRID = 1e-6  # ticks; a decimal read as a float is nearer than this to its tick


@dataclass(frozen=True)
class Table:
    """Wines read from a file, and how many of their values were moved to the grid (9.53333333333333 -> 9.53)."""

    wines: Wines
    snapped: int


def read_csv(data: bytes) -> Table:
    """The table in these bytes: UTF-8, a header with the 13 columns in any order, comma or semicolon between cells.

    Spaces in column names count as underscores, as in the original files. ``InvalidInput`` lists the first cells that
    are wrong by line and column, with what was expected and what was found.
    """
    rows = _rows(data)
    header = [name.strip().replace(" ", "_") for name in rows[0][1]] if rows else []
    _check_header(header)
    places = [header.index(name) for name in NAMES]
    faults: list[Fault] = []
    measurements = np.empty((len(rows) - 1, len(COLUMNS)))
    quality, red = np.empty(len(rows) - 1, dtype=np.int64), np.empty(len(rows) - 1, dtype=np.bool_)
    for i, (line, cells) in enumerate(rows[1:]):
        if len(cells) != len(NAMES):
            faults.append(_fault(line, None, f"{len(NAMES)} cells", f"{len(cells)} cells"))
        else:
            ordered = [cells[place].strip() for place in places]
            faults += _read_row(line, ordered, measurements[i])
            quality[i], red[i] = _quality(ordered[-2]) or 0, ordered[-1] == "red"
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise InvalidInput("the table has cells that are not a wine's; the first are listed", faults[:MAX_FAULTS])
    ticks = to_ticks(measurements)
    off_grid = np.abs(measurements * [c.scale for c in COLUMNS] - ticks) > _OFF_GRID
    return Table(Wines(ticks, quality, red), int(off_grid.sum()))


def _rows(data: bytes) -> list[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number in the file."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"expected CSV in UTF-8, found byte {data[error.start]:#04x} at position {error.start}") from error
    separator = ";" if ";" in text.split("\n", 1)[0] else ","
    try:
        reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InvalidInput(f"expected CSV, found a file that is not: {error}") from error


def _check_header(header: list[str]) -> None:
    if sorted(header) == sorted(NAMES):
        return
    missing, extra = [n for n in NAMES if n not in header], [n for n in header if n not in NAMES]
    twice = [n for n in NAMES if header.count(n) > 1]
    said = ", ".join(repr(n[:40]) for n in header[:20]) or "an empty file"
    detail = f"the first line must name the 13 columns; missing: {', '.join(missing) or 'none'}; unknown: {', '.join(e[:40] for e in extra[:20]) or 'none'}"
    detail += f"; more than once: {', '.join(twice)}" if twice else ""
    raise InvalidInput(detail, [Fault("/body/line/1", detail, expected=", ".join(NAMES), found=said)])


def _read_row(line: int, cells: list[str], into: Floats) -> list[Fault]:
    """Puts a row's measurements ``into`` place, (11,), and returns what is wrong with the row."""
    faults = []
    for j, column in enumerate(COLUMNS):
        value = _number(cells[j])
        if value is None or not column.low <= value <= column.high:
            faults.append(_fault(line, column.name, f"a number from {column.low} to {column.high} ({column.unit})", cells[j]))
        else:
            into[j] = value
    if not faults and into[FREE_SO2] > into[TOTAL_SO2]:
        faults.append(_fault(line, "free_sulfur_dioxide", f"at most the total, {cells[6]}", cells[5]))
    if _quality(cells[-2]) is None:
        faults.append(_fault(line, "quality", f"a whole number from {QUALITY_RANGE[0]} to {QUALITY_RANGE[1]}", cells[-2]))
    if cells[-1] not in TYPES:
        faults.append(_fault(line, "type", " or ".join(TYPES), cells[-1]))
    return faults


def _number(cell: str) -> float | None:
    if "_" in cell or not cell.isascii():  # Python reads 1_0 and other scripts' digits as numbers; nobody means them in a table
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _quality(cell: str) -> int | None:
    value = _number(cell)
    if value is None or value != int(value) or not QUALITY_RANGE[0] <= value <= QUALITY_RANGE[1]:
        return None
    return int(value)


def _fault(line: int, column: str | None, expected: str, found: str) -> Fault:
    where = f"line {line}" + (f", {column}" if column else "")
    shown = found[:40] or "an empty cell"
    pointer = f"/body/line/{line}" + (f"/{column}" if column else "")
    return Fault(pointer, f"{where}: expected {expected}, found {shown}", expected=expected, found=shown)
