"""Blocks of wines -> JSON, NDJSON, CSV, Parquet and Arrow, piece by piece, in memory that does not grow with the rows.

Wine lives on a grid, so for the text formats every value's text is made once and then looked up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from app.wine import COLUMNS, HIGH_TICKS, LOW_TICKS, MEASUREMENTS, NAMES, QUALITY_RANGE, TYPES, Wines

if TYPE_CHECKING:
    import pyarrow as pa

Tokens = list[NDArray[np.object_]]  # for each of the 13 columns, the text of each value from its lowest up
TextFormat = Literal["json", "ndjson", "csv"]
Extra = Mapping[str, NDArray[Any]]  # further columns, each (rows,), of integers, floats, or objects (text, floats, None)

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.stream"

BATCH = 16_384  # rows of an Arrow batch or a Parquet row group
DECIMALS = 6  # of further columns that are no whole numbers: more than any judge means
_END = {"json": "},", "ndjson": "}\n", "csv": "\n"}


@dataclass(frozen=True)
class Sheet:
    """Wines, and further columns beside them."""

    wines: Wines
    extra: Extra = field(default_factory=dict)


def json_chunks(sheets: Iterable[Sheet], names: Sequence[str] = ()) -> Iterator[bytes]:
    """One JSON array of row objects, a piece for each sheet; ``names`` are those of all further columns."""
    before = "["
    for sheet in sheets:
        if not len(sheet.wines):
            yield b""  # a step that made nothing yet
            continue
        yield (before + _text(sheet, "json").removesuffix(",")).encode()
        before = ","
    yield b"[]" if before == "[" else b"]"


def ndjson_chunks(sheets: Iterable[Sheet], names: Sequence[str] = ()) -> Iterator[bytes]:
    """A JSON object on a line for each row, a piece for each sheet."""
    for sheet in sheets:
        yield _text(sheet, "ndjson").encode()


def csv_chunks(sheets: Iterable[Sheet], names: Sequence[str] = ()) -> Iterator[bytes]:
    """A header line, then a line for each row (RFC 4180 but for LF line ends)."""
    yield (",".join((*NAMES, *names)) + "\n").encode()
    for sheet in sheets:
        yield _text(sheet, "csv").encode()


def arrow_chunks(sheets: Iterable[Sheet], names: Sequence[str] = ()) -> Iterator[bytes]:
    """An Arrow IPC stream, a piece for each batch of about ``BATCH`` rows."""
    import pyarrow as pa

    return _written(sheets, names, pa.ipc.new_stream)


def parquet_chunks(sheets: Iterable[Sheet], names: Sequence[str] = ()) -> Iterator[bytes]:
    """A Parquet file, a piece for each row group of about ``BATCH`` rows."""
    import pyarrow.parquet as pq

    return _written(sheets, names, pq.ParquetWriter)


CHUNKS: dict[str, Callable[[Iterable[Sheet], Sequence[str]], Iterator[bytes]]] = {
    JSON: json_chunks,
    NDJSON: ndjson_chunks,
    CSV: csv_chunks,
    PARQUET: parquet_chunks,
    ARROW: arrow_chunks,
}
BINARY = (PARQUET, ARROW)


def writer(media_type: str, names: Sequence[str]) -> str:
    """What the bytes of a format with these further columns depend on beside the rows: whose code writes them, where it is not ours alone."""
    if media_type in BINARY:
        import pyarrow as pa

        return f"pyarrow {pa.__version__}"
    return f"pydantic-core {pydantic_core.__version__}" if names else ""


def to_csv(wines: Wines) -> bytes:
    """All of it at once."""
    return b"".join(csv_chunks([Sheet(wines)]))


def _text(sheet: Sheet, style: TextFormat) -> str:
    wines, extra = sheet.wines, sheet.extra
    tokens = _tokens(style, closed=not extra)
    columns: list[Any] = [tokens[j].take(wines.ticks[:, j] - LOW_TICKS[j]) for j in range(len(COLUMNS))]
    columns += [tokens[-2].take(wines.quality - QUALITY_RANGE[0]), tokens[-1].take(wines.red.astype(np.int64))]
    for name, values in extra.items():
        columns += ["," if style == "csv" else f',"{name}":', _texts(values, style)]
    if extra:
        columns.append(_END[style])
    parts = np.empty((len(wines), len(columns)), dtype=object)
    for j, column in enumerate(columns):
        parts[:, j] = column
    return "".join(parts.reshape(-1).tolist())


def _texts(values: NDArray[Any], style: TextFormat) -> list[str]:
    plain: list[Any] = _rounded(values).tolist()
    if values.dtype != object:
        return pydantic_core.to_json(plain).decode()[1:-1].split(",") if plain else []  # a third of the time of as many calls of repr
    if style == "csv":
        return ["" if value is None else str(value) for value in plain]
    return [json.dumps(value) for value in plain]


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    return np.round(values, DECIMALS) if values.dtype.kind == "f" else values


@cache
def _values() -> list[list[str]]:
    """The text of every value that each column can have; a float's shortest form, as JSON and CSV readers expect it."""
    numbers = [
        [repr(tick / column.scale) for tick in range(low, high + 1)] for column, low, high in zip(COLUMNS, LOW_TICKS.tolist(), HIGH_TICKS.tolist(), strict=True)
    ]
    return [*numbers, [str(q) for q in range(QUALITY_RANGE[0], QUALITY_RANGE[1] + 1)], list(TYPES)]


@cache
def _tokens(style: TextFormat, *, closed: bool) -> Tokens:
    """Every value with what stands before it, and with the end of the row where ``closed``."""
    if style == "csv":
        values, before = _values(), ["", *[","] * (len(NAMES) - 1)]
    else:
        values = [*_values()[:-1], [f'"{t}"' for t in TYPES]]
        before = [f'{mark}"{name}":' for mark, name in zip(["{", *[","] * (len(NAMES) - 1)], NAMES, strict=True)]
    after = [*[""] * (len(NAMES) - 1), _END[style] if closed else ""]
    return [np.array([f"{b}{value}{a}" for value in column], dtype=object) for b, column, a in zip(before, values, after, strict=True)]


class _Taken:
    """A file that hands out what was written to it since it was last asked."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _written(sheets: Iterable[Sheet], names: Sequence[str], opened: Callable[[Any, Any], Any]) -> Iterator[bytes]:
    sink = _Taken()
    with opened(sink, _schema(names)) as file:
        for batch in _batches(sheets, names):
            if batch is not None:
                file.write_batch(batch)
            yield sink.take()
    yield sink.take()


def _batches(sheets: Iterable[Sheet], names: Sequence[str]) -> Iterator[pa.RecordBatch | None]:
    """Batches of about ``BATCH`` rows, and None while one is gathered."""
    gathered: list[Sheet] = []
    rows = 0
    for sheet in sheets:
        gathered.append(sheet)
        rows += len(sheet.wines)
        if rows >= BATCH:
            yield _batch(gathered, names)
            gathered, rows = [], 0
        else:
            yield None
    if rows:
        yield _batch(gathered, names)


def _schema(names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    kinds = {"row": pa.int64(), "predicted_quality": pa.int64(), "reason": pa.string()}
    fields = [(name, pa.float64()) for name in MEASUREMENTS] + [("quality", pa.int64()), ("type", pa.string())]
    return pa.schema(fields + [(name, kinds.get(name, pa.float64())) for name in names])


def _batch(sheets: list[Sheet], names: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    ticks = np.concatenate([s.wines.ticks for s in sheets])
    red = np.concatenate([s.wines.red for s in sheets]).astype(np.int8)
    columns = [pa.array(ticks[:, j] / column.scale) for j, column in enumerate(COLUMNS)]
    columns += [pa.array(np.concatenate([s.wines.quality for s in sheets])), pa.DictionaryArray.from_arrays(red, list(TYPES)).cast(pa.string())]
    schema = _schema(names)
    columns += [pa.array(_rounded(np.concatenate([s.extra[name] for s in sheets])), schema.field(name).type) for name in names]
    return pa.record_batch(columns, schema=schema)
