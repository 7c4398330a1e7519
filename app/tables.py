"""Files -> wines: CSV, NDJSON, Parquet and Arrow, a part at a time and in bounded memory; ``app.cells`` judges what is in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from app.cells import PART, SHOWN, TEXT, TYPED, Cells, Table, tables_of
from app.errors import Fault, InvalidInput, TooLarge
from app.formats import ARROW, CSV, NDJSON, PARQUET
from app.wine import COLUMNS, NAMES, Wines, concatenate

MAX_ROWS = 2**31  # where nobody says fewer
MAX_COLUMN = 16 * 2**20  # bytes of a column in one row group of Parquet, two million rows
_NOT_TEXT = {  # what people send as CSV
    b"\x1f\x8b": "gzip; unpack it first",
    b"PK\x03\x04": "a zip (or a workbook, .xlsx); unpack it, or save the sheet as CSV",
    b"PAR1": f"Parquet; say so (Content-Type: {PARQUET})",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


def read_csv(data: bytes) -> Table:
    """The whole table in these bytes, as ``parts`` reads CSV."""
    read = list(parts(io.BytesIO(data), CSV))
    if not read:
        none = np.zeros(0, dtype=np.int64)
        return Table(Wines(np.zeros((0, len(COLUMNS)), dtype=np.int32), none, none.astype(np.bool_)), 0)
    return Table(concatenate([part.wines for part in read]), sum(part.snapped for part in read))


def parts(file: BinaryIO, media_type: str, *, most: int = MAX_ROWS) -> Iterator[Table]:
    """The table in this file, at most ``PART`` rows at a time, in memory that does not grow with it; ``TooLarge`` beyond ``most`` rows.

    CSV is UTF-8 with a header that names the 13 columns in any order, comma or semicolon between cells, spaces in names
    for underscores as in the original files; NDJSON an object with the 13 names on each line; Parquet and Arrow have
    the 13 columns. ``InvalidInput`` lists the first cells that are wrong by line (row, in the binary formats) and
    column, with what was expected and what was found.
    """
    return _READERS[media_type](file, most)


def _csv(file: BinaryIO, most: int) -> Iterator[Table]:
    numbered = _lines(file)
    first = next(numbered, None)
    header = [name.strip().replace(" ", "_") for name in first[1]] if first else []
    _check_header(header)
    places = [header.index(name) for name in NAMES]

    def rows() -> Iterator[tuple[int, Cells]]:
        for line, cells in numbered:
            yield line, [cells[place].strip() for place in places] if len(cells) == len(NAMES) else cells

    return tables_of(_at_most(rows(), most), "line", TEXT)


def _lines(file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV that are not blank, each with its number in the file."""
    start = file.read(4096)
    file.seek(0)
    if (packed := next((kind for magic, kind in _NOT_TEXT.items() if start.startswith(magic)), None)) is not None:
        raise InvalidInput(f"expected CSV in UTF-8, found {packed}")
    separator = ";" if b";" in start.split(b"\n", 1)[0] else ","
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        reader = csv.reader(text, delimiter=separator, strict=True)
        for row in reader:
            if row:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        position = file.tell() - len(error.object) + error.start
        raise InvalidInput(f"expected CSV in UTF-8, found byte {error.object[error.start]:#04x} at position {position}") from error
    except csv.Error as error:
        raise InvalidInput(f"expected CSV, found a file that is not: {error}") from error
    finally:
        if not file.closed:
            text.detach()  # else it would close the file, which somebody may read again


def _at_most(rows: Iterator[tuple[int, Cells]], most: int) -> Iterator[tuple[int, Cells]]:
    for number, row in enumerate(rows):
        if number == most:
            raise _too_many(most)
        yield row


def _check_header(header: list[str]) -> None:
    if sorted(header) == sorted(NAMES):
        return
    said = ", ".join(repr(n[:40]) for n in header[:20]) or "an empty file"
    if len(header) < 2:
        detail = f"expected a first line with the names of the 13 columns, commas or semicolons between them, found {said}"
    else:
        missing, extra = [n for n in NAMES if n not in header], [n[:40] or "a column without a name" for n in header if n not in NAMES]
        detail = f"the first line must name the 13 columns; missing: {', '.join(missing) or 'none'}; unknown: {', '.join(extra[:20]) or 'none'}"
        twice = [n for n in NAMES if header.count(n) > 1]
        detail += f"; more than once: {', '.join(twice)}" if twice else ""
    raise InvalidInput(detail, [Fault("/body/line/1", detail, expected=", ".join(NAMES), found=said)])


def _ndjson(file: BinaryIO, most: int) -> Iterator[Table]:
    def rows() -> Iterator[tuple[int, Cells]]:
        for line, text in enumerate(file, 1):
            if text.strip():
                yield line, _cells(line, text)

    return tables_of(_at_most(rows(), most), "line", TYPED)


def _cells(line: int, text: bytes) -> Cells:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = f"line {line}: expected a JSON object, found {text[:40].decode('utf-8', 'replace').strip()}"
        raise InvalidInput(detail, [Fault(f"/body/line/{line}", detail, expected="a JSON object", found="not JSON")]) from error
    names = sorted(row) if isinstance(row, dict) else []
    if names != sorted(NAMES):
        missing, unknown = [n for n in NAMES if n not in names], [n[:40] for n in names if n not in NAMES]
        detail = f"line {line}: expected an object with the 13 columns; missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown[:20]) or 'none'}"
        raise InvalidInput(detail, [Fault(f"/body/line/{line}", detail, expected=", ".join(NAMES), found=", ".join(names[:20])[:200] or "no object")])
    return [row[name] for name in NAMES]


def _parquet(file: BinaryIO, most: int) -> Iterator[Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        plain = pq.ParquetFile(file)
        _check_schema(plain.schema_arrow)
        if plain.metadata.num_rows > most:
            raise _too_many(most)
        _check_size(plain.metadata)
        opened = pq.ParquetFile(file, metadata=plain.metadata, read_dictionary=["type"])  # a long text that is repeated stays one; the column must be there
        yield from tables_of(_arrow_rows(opened.iter_batches(PART, columns=list(NAMES)), most), "row", TYPED)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one: names that are no text
        raise InvalidInput(f"expected Parquet, found a file that is not, or is damaged: {str(error)[:200]}") from error


def _arrow(file: BinaryIO, most: int) -> Iterator[Table]:
    import pyarrow as pa

    try:
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type in ("record batch", "dictionary") and _is_compressed(message.metadata.to_pybytes(), of_texts=message.type == "dictionary"):
                raise InvalidInput("expected an Arrow stream without compression, found one with; write it without, and compress nothing or send Parquet")
        file.seek(0)
        with pa.ipc.open_stream(file) as reader:
            _check_schema(reader.schema)
            yield from tables_of(_arrow_rows(reader, most), "row", TYPED)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"expected an Arrow stream, found one that is not, or is damaged: {str(error)[:200]}") from error


def _is_compressed(message: bytes, *, of_texts: bool) -> bool:
    """Whether a record batch has compressed buffers, which could be of any size once they are not (Arrow's Message.fbs: header, then compression).

    ``of_texts``: it is the one in a dictionary batch, whose second field it is.
    """
    numbers = memoryview(message)

    def number(at: int, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(numbers[at : at + size], "little", signed=signed)

    def field(table: int, nth: int) -> int:
        vtable = table - number(table, 4, signed=True)
        return number(vtable + 4 + 2 * nth, 2) if 4 + 2 * nth < number(vtable, 2) else 0

    def inner(table: int, nth: int) -> int:
        at = table + field(table, nth)
        return at + number(at, 4)

    header = inner(number(0, 4), 2)
    return field(inner(header, 1) if of_texts else header, 3) != 0


def _check_size(metadata: Any) -> None:
    """``InvalidInput`` if a column of a row group is said to be larger than ``MAX_COLUMN`` once it is unpacked: a page of any size is unpacked whole."""
    groups = (metadata.row_group(nth) for nth in range(metadata.num_row_groups))
    largest = max((group.column(nth).total_uncompressed_size for group in groups for nth in range(group.num_columns)), default=0)
    if largest > MAX_COLUMN:
        expected = f"row groups with at most {MAX_COLUMN // 2**20} MiB of a column, unpacked"
        detail = f"expected {expected}, found one with {largest / 2**20:.0f}; write smaller ones (pandas: to_parquet(..., row_group_size=1_000_000))"
        raise InvalidInput(detail, [Fault("/body", detail, expected=expected, found=f"{largest / 2**20:.0f} MiB")])


def _check_schema(schema: Any) -> None:
    """``InvalidInput`` unless there are the 13 columns, numbers but for the type, which is text: other types can be larger than they look."""
    import pyarrow as pa

    names = schema.names
    if sorted(names) != sorted(NAMES):
        missing, extra = [n for n in NAMES if n not in names], [n[:40] for n in names if n not in NAMES]
        detail = f"expected the 13 columns; missing: {', '.join(missing) or 'none'}; unknown or twice: {', '.join(extra[:20]) or 'none'}"
        raise InvalidInput(detail, [Fault("/body", detail, expected=", ".join(NAMES), found=", ".join(names[:20])[:400])])
    for name in NAMES:
        found = schema.field(name).type
        text = found.value_type if pa.types.is_dictionary(found) else found
        if name == "type":
            fits, expected = pa.types.is_string(text) or pa.types.is_large_string(text), "text"
        else:
            fits, expected = pa.types.is_integer(found) or pa.types.is_floating(found), "numbers"
        if not fits:
            detail = f"{name}: expected a column of {expected}, found {str(found)[:40]}"
            raise InvalidInput(detail, [Fault(f"/body/{name}", detail, expected=expected, found=str(found)[:40])])


def _arrow_rows(batches: Iterable[Any], most: int) -> Iterator[tuple[int, Cells]]:
    import pyarrow as pa

    row = 0
    for batch in batches:
        if row + batch.num_rows > most:
            raise _too_many(most)
        batch.validate(full=True)  # offsets and indices are the sender's word
        for first in range(0, batch.num_rows, PART):
            part = batch.slice(first, PART)
            columns = [part.column(part.schema.get_field_index(name)) for name in NAMES]
            cells = [column.cast(pa.float64(), safe=False).to_pylist() for column in columns[:-1]]
            for of_row in zip(*cells, _texts(columns[-1]), strict=True):
                yield row, of_row
                row += 1


def _texts(column: Any) -> list[str | None]:
    """The beginning of each text, enough to tell a type and to show what is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        shown: list[str | None] = pc.utf8_slice_codeunits(column, 0, SHOWN + 1).to_pylist()
        return shown
    known = pc.utf8_slice_codeunits(column.dictionary, 0, SHOWN + 1).to_pylist()
    return [None if index is None else known[index] for index in column.indices.to_pylist()]


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"expected a table of at most {most} rows, found more; a deployment may raise CUVEE_MAX_ROWS")


_READERS: dict[str, Callable[[BinaryIO, int], Iterator[Table]]] = {CSV: _csv, NDJSON: _ndjson, PARQUET: _parquet, ARROW: _arrow}
