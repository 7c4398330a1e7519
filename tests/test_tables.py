"""A table from outside is read strictly, and its sender learns what is wrong and where."""

from __future__ import annotations

import gzip
import io
from contextlib import suppress
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cells import PART
from app.errors import Fault, InvalidInput, TooLarge
from app.formats import ARROW, CHUNKS, CSV, NDJSON, PARQUET, Sheet
from app.tables import parts, read_csv
from app.wine import NAMES

HEADER = ",".join(NAMES)
GOOD = dict(zip(NAMES, ["7.4", "0.7", "0", "1.9", "0.076", "11", "34", "0.9978", "3.51", "0.56", "9.4", "5", "red"], strict=True))


def table(*rows: dict[str, str]) -> bytes:
    """CSV of good wines with these cells exchanged, a row for each."""
    return "\n".join([HEADER, *(",".join((GOOD | row).values()) for row in rows)]).encode()


def faults(data: bytes) -> tuple[Fault, ...]:
    """What the reader has against these bytes."""
    with pytest.raises(InvalidInput) as refused:
        read_csv(data)
    return refused.value.faults


def test_a_good_table_is_read() -> None:
    read = read_csv(table({}, {"type": "white", "quality": "7", "pH": "3.2"}))
    assert read.wines.ticks.tolist() == [
        [740, 700, 0, 190, 76, 110, 340, 99_780, 351, 56, 940],
        [740, 700, 0, 190, 76, 110, 340, 99_780, 320, 56, 940],
    ]
    assert read.wines.quality.tolist() == [5, 7]
    assert read.wines.red.tolist() == [True, False]
    assert read.snapped == 0


@pytest.mark.parametrize(
    ("column", "cell", "expected", "found"),
    [
        ("alcohol", "", "a number from 5.0 to 20.0 (% vol)", "an empty cell"),
        ("alcohol", " ", "a number from 5.0 to 20.0 (% vol)", "an empty cell"),
        ("alcohol", " 95 ", "a number from 5.0 to 20.0 (% vol)", "95"),
        ("alcohol", "strong", "a number from 5.0 to 20.0 (% vol)", "strong"),
        ("alcohol", "NaN", "a number from 5.0 to 20.0 (% vol)", "NaN"),
        ("alcohol", "Infinity", "a number from 5.0 to 20.0 (% vol)", "Infinity"),
        ("alcohol", "-inf", "a number from 5.0 to 20.0 (% vol)", "-inf"),
        ("alcohol", "4.9", "a number from 5.0 to 20.0 (% vol)", "4.9"),
        ("alcohol", "95", "a number from 5.0 to 20.0 (% vol)", "95"),
        ("alcohol", "1_0", "a number from 5.0 to 20.0 (% vol)", "1_0"),
        ("density", "997.8", "a number from 0.95 to 1.15 (g/cm3)", "997.8"),
        ("chlorides", "-0.1", "a number from 0.0 to 2.0 (g/dm3 sodium chloride)", "-0.1"),
        ("free_sulfur_dioxide", "35", "at most the total, 34", "35"),
        ("quality", "5.5", "a whole number from 0 to 10", "5.5"),
        ("quality", "11", "a whole number from 0 to 10", "11"),
        ("quality", "-1", "a whole number from 0 to 10", "-1"),
        ("quality", "", "a whole number from 0 to 10", "an empty cell"),
        ("quality", "nan", "a whole number from 0 to 10", "nan"),
        ("type", "rosé", "white or red", "rosé"),
        ("type", "Red", "white or red", "Red"),
        ("type", "", "white or red", "an empty cell"),
    ],
)
def test_a_bad_cell_is_told_by_line_and_column_with_what_was_expected_and_found(column: str, cell: str, expected: str, found: str) -> None:
    detail = f"line 3, {column}: expected {expected}, found {found}"
    assert faults(table({}, {column: cell})) == (Fault(f"/body/line/3/{column}", detail, expected=expected, found=found),)


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0"], ids=["space", "tab", "no-break"])
def test_blanks_around_a_cell_are_passed_over(blank: str) -> None:
    padded = table({name: f"{blank}{cell}{blank}" for name, cell in GOOD.items()})
    assert np.array_equal(read_csv(padded).wines.ticks, read_csv(table({})).wines.ticks)
    assert read_csv(padded).wines.red.tolist() == [True]


def test_every_bad_cell_of_a_line_is_told() -> None:
    assert [f.pointer for f in faults(table({"pH": "9", "quality": "x", "type": "blue"}))] == ["/body/line/2/pH", "/body/line/2/quality", "/body/line/2/type"]


@pytest.mark.parametrize(("cells", "found"), [("7.4,0.7", "2 cells"), (",".join(["1"] * 14), "14 cells")])
def test_a_line_of_another_length_is_told(cells: str, found: str) -> None:
    data = table({}) + f"\n{cells}\n".encode()
    assert faults(data) == (Fault("/body/line/3", f"line 3: expected 13 cells, found {found}", expected="13 cells", found=found),)


def test_a_fault_after_blank_lines_is_told_by_the_line_of_the_file() -> None:
    data = f"{HEADER}\n\n\n".encode() + table({"pH": "9"}).split(b"\n", 1)[1]
    assert faults(data)[0].pointer == "/body/line/4/pH"


def test_a_long_cell_is_told_by_its_beginning() -> None:
    assert faults(table({"pH": "x" * 1000}))[0].found == "x" * 40
    assert len(faults(table({"free_sulfur_dioxide": "35", "total_sulfur_dioxide": "0" * 1000 + "34"}))[0].detail) < 200


@pytest.mark.parametrize(
    ("bad", "good", "told"),
    [(1, 0, "found 9"), (2, PART, "(the first of 2 faults)"), (30, 0, "(the first of 30 faults, of which 20 are listed)"), (1200, 0, "1000 or more faults")],
)
def test_the_first_twenty_faults_are_listed_and_the_others_counted(bad: int, good: int, told: str) -> None:
    rows = [{"pH": "9"}, *[{}] * good, *[{"pH": "9"}] * (bad - 1)]  # with good ones between, the last is in another part than the first
    with pytest.raises(InvalidInput) as refused:
        read_csv(table(*rows))
    assert len(refused.value.faults) == min(bad, 20)
    assert refused.value.detail.startswith("the table has cells that are not a wine's: line 2, pH: expected a number from 2.0 to 5.0 (pH), found 9")
    assert told in refused.value.detail


def test_a_missing_and_an_unknown_column_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"missing: pH; unknown: acidity$") as refused:
        read_csv(HEADER.replace("pH", "acidity").encode())
    (fault,) = refused.value.faults
    assert fault.pointer == "/body/line/1"
    assert fault.expected == ", ".join(NAMES)
    assert fault.found is not None
    assert "'acidity'" in fault.found


def test_a_column_that_comes_twice_is_named() -> None:
    with pytest.raises(InvalidInput, match="alcohol") as refused:
        read_csv(f"{HEADER},alcohol\n".encode())
    assert refused.value.faults[0].pointer == "/body/line/1"


def test_an_empty_file_is_refused() -> None:
    (fault,) = faults(b"")
    assert fault.pointer == "/body/line/1"
    assert fault.found == "an empty file"


def test_a_file_without_a_header_is_refused() -> None:
    assert faults(table({}).split(b"\n", 1)[1])[0].pointer == "/body/line/1"


def test_bytes_that_are_not_utf_8_are_told_by_their_position() -> None:
    data = HEADER.encode() + b"\n\xff"
    with pytest.raises(InvalidInput, match=f"expected CSV in UTF-8, found byte 0xff at position {len(HEADER) + 1}"):
        read_csv(data)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(b"fixed_acidity", mtime=0), "gzip; unpack it first"),
        (b"PAR1", "Parquet; say so (Content-Type: application/vnd.apache.parquet)"),
        (HEADER.encode("utf-16"), "UTF-16; save it as UTF-8"),
        (b"PK\x03\x04", "a zip (or a workbook, .xlsx); unpack it, or save the sheet as CSV"),
    ],
    ids=["gzip", "parquet", "utf-16", "zip"],  # bytes make poor names, and each process that collects must make the same
)
def test_what_is_often_sent_as_csv_is_told_by_its_name(data: bytes, found: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_csv(data)
    assert refused.value.detail == f"expected CSV in UTF-8, found {found}"


def test_another_separator_is_told_of() -> None:
    with pytest.raises(InvalidInput, match=r"names of the 13 columns, commas or semicolons between them, found 'fixed_acidity\\tvolatile_acidity"):
        read_csv(table({}).replace(b",", b"\t"))


def test_a_column_without_a_name_is_told_of() -> None:
    with pytest.raises(InvalidInput, match=r"missing: none; unknown: a column without a name$"):
        read_csv(f",{HEADER}".encode())


def test_what_is_not_csv_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected CSV, found a file that is not"):
        read_csv(f'{HEADER}\n"7.4'.encode())


def test_semicolons_quotes_and_spaced_names_are_accepted_as_in_the_original_files() -> None:
    header = ";".join(f'"{name.replace("_", " ")}"' for name in NAMES)
    read = read_csv(f"{header}\n{';'.join(GOOD.values())}\n".encode())
    assert read.wines.ticks.tolist() == [[740, 700, 0, 190, 76, 110, 340, 99_780, 351, 56, 940]]


def test_columns_may_come_in_any_order() -> None:
    rows = f"{','.join(reversed(NAMES))}\n{','.join(reversed(GOOD.values()))}\n"
    assert np.array_equal(read_csv(rows.encode()).wines.ticks, read_csv(table({})).wines.ticks)


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    data = b"\xef\xbb\xbf" + table({}, {}).replace(b"\n", b"\r\n")
    assert len(read_csv(data).wines) == 2


def test_values_off_the_grid_are_moved_to_it_and_counted() -> None:
    read = read_csv(table({"alcohol": "9.53333333333333"}, {"alcohol": "9.4", "pH": "3.514", "density": "0.99780"}))
    assert read.snapped == 2
    assert read.wines.ticks[:, [8, 10]].tolist() == [[351, 953], [351, 940]]


def test_a_whole_quality_written_as_a_decimal_is_accepted() -> None:
    assert read_csv(table({"quality": "5.0"})).wines.quality.tolist() == [5]


def test_the_bounds_themselves_are_accepted() -> None:
    read = read_csv(table({"alcohol": "20", "density": "1.15", "free_sulfur_dioxide": "34"}, {"alcohol": "5", "density": "0.95"}))
    assert read.wines.ticks[:, [7, 10]].tolist() == [[115_000, 2000], [95_000, 500]]


def test_a_header_alone_is_a_table_without_wines() -> None:
    assert len(read_csv(HEADER.encode()).wines) == 0


TABLES = (CSV, NDJSON, PARQUET, ARROW)


@cache
def binary(media_type: str) -> bytes:
    """A hundred good wines in this format."""
    return b"".join(CHUNKS[media_type]([Sheet(read_csv(table(*({"quality": str(k % 11)} for k in range(100)))).wines)], ()))


def read(data: bytes, media_type: str) -> int:
    """How many wines these bytes hold."""
    return sum(len(part.wines) for part in parts(io.BytesIO(data), media_type))


def packed(columns: dict[str, pa.Array], media_type: str) -> bytes:
    """These columns as Parquet or as an Arrow stream."""
    rows, sink = pa.table(columns), io.BytesIO()
    if media_type == PARQUET:
        pq.write_table(rows, sink)
    else:
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
    return sink.getvalue()


@pytest.mark.parametrize("missing", NAMES)
@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_a_column_that_a_binary_table_lacks_is_named(media_type: str, missing: str) -> None:
    columns = {name: pa.array(["red"] if name == "type" else [float(cell)]) for name, cell in GOOD.items()}
    columns[missing.upper()] = columns.pop(missing)
    with pytest.raises(InvalidInput, match=f"expected the 13 columns; missing: {missing}; unknown or twice: {missing.upper()}$"):
        read(packed(columns, media_type), media_type)


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
@pytest.mark.parametrize("name", NAMES)
def test_a_binary_table_whose_names_are_no_text_is_damaged(media_type: str, name: str) -> None:
    data = binary(media_type).replace(name.encode(), b"\xff" + name.encode()[1:])
    with pytest.raises(InvalidInput, match="damaged"):
        read(data, media_type)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TABLES), st.data())
def test_a_table_with_any_bytes_changed_is_read_or_refused(media_type: str, data: st.DataObject) -> None:
    changed = bytearray(binary(media_type))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 8]))
    with suppress(InvalidInput, TooLarge):  # a problem document; any other error would be a 500
        read(bytes(changed), media_type)
