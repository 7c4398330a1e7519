"""A table from outside -> the rows of a dataset as they are stored: checked, on the grid, in one form of CSV whatever they came in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from app import formats
from app.cells import Table
from app.errors import Fault, InvalidInput, TooLarge
from app.tables import parts
from app.wine import NAMES, Wines, concatenate

MIN_ROWS = 200  # below, a holdout and a generator both mean little
_HEADER = b"".join(formats.csv_chunks([]))


@dataclass(frozen=True)
class Canonical:
    """Rows as they are stored; equal rows in the same order are equal bytes.

    ``snapped`` counts values that were moved to the grid; ``warnings`` say what a model of these rows can't learn.
    """

    content: bytes
    sha256: str
    rows: int
    snapped: int
    warnings: tuple[str, ...] = ()


def canonical(table: Table) -> Canonical:
    """The rows of this table."""
    return _of(formats.to_csv(table.wines), table)


def read(file: BinaryIO, media_type: str, *, max_bytes: int) -> Canonical:
    """The rows of an upload, in memory of a few times ``max_bytes``.

    ``InvalidInput`` as ``tables.parts`` has it, and for fewer than ``MIN_ROWS`` rows; ``TooLarge`` if they are more
    than ``max_bytes`` once they are CSV, for a binary table of a few bytes can hold any number of rows.
    """
    found: list[Table] = []
    content = bytearray(_HEADER)
    for part in parts(file, media_type):
        found.append(part)
        content += formats.to_csv(part.wines).removeprefix(_HEADER)
        if len(content) > max_bytes:
            raise TooLarge(f"expected a table of at most {max_bytes} bytes once it is CSV, found more; a deployment may raise CUVEE_MAX_UPLOAD_BYTES")
    rows = sum(len(part.wines) for part in found)
    if rows < MIN_ROWS:
        detail = f"a dataset needs at least {MIN_ROWS} rows, and this one has {rows}"
        raise InvalidInput(detail, [Fault("/body", detail, expected=f"at least {MIN_ROWS} rows", found=str(rows))])
    return _of(bytes(content), Table(concatenate([part.wines for part in found]), sum(part.snapped for part in found)))


def _of(content: bytes, table: Table) -> Canonical:
    return Canonical(content, hashlib.sha256(content).hexdigest(), len(table.wines), table.snapped, tuple(_warnings(table.wines)))


def _warnings(wines: Wines) -> list[str]:
    """Columns with one value, which a model learns and never leaves."""
    numbers = np.column_stack([wines.ticks, wines.quality, wines.red])  # (rows, 13)
    constant = [name for name, spread in zip(NAMES, np.ptp(numbers, axis=0), strict=True) if spread == 0]
    return [f"the same in all {len(wines)} rows, and so in all that a model of them pours: {', '.join(constant)}"] if constant else []
