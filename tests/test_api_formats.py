"""What data scientists read our answers with, reading them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import duckdb
import httpx
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem

from app.api.samples import STREAM_ABOVE
from tests.test_api_samples import NAMES, serve_starter

Readers = dict[str, Callable[[io.BytesIO], Any]]

ASKED = "n=600&seed=3&quality=7"
MANY = f"n={STREAM_ABOVE + 100}&seed=3"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all tests here: pouring changes nothing."""
    with serve_starter(tmp_path_factory.mktemp("formats")) as client:
        yield client


def url(api: httpx.Client, query: str) -> str:
    """Where an answer is."""
    return f"{api.base_url}/samples?{query}"


@pytest.fixture(scope="module")
def wines(api: httpx.Client) -> pd.DataFrame:
    """The rows as JSON has them."""
    return pd.DataFrame(api.get(url(api, ASKED)).json())


def check(read: pd.DataFrame, wines: pd.DataFrame) -> None:
    """The same columns, types and values."""
    assert list(read.columns) == NAMES
    pd.testing.assert_frame_equal(read, wines, check_exact=True)


def test_pandas_reads_ndjson(api: httpx.Client, wines: pd.DataFrame) -> None:
    check(pd.read_json(url(api, f"{ASKED}&format=ndjson"), lines=True, precise_float=True), wines)


def test_pandas_reads_parquet(api: httpx.Client, wines: pd.DataFrame) -> None:
    check(pd.read_parquet(url(api, f"{ASKED}&format=parquet")), wines)


@pytest.mark.parametrize("format_", ["csv", "ndjson", "parquet", "arrow", "json"])
def test_polars_reads_every_format(api: httpx.Client, wines: pd.DataFrame, format_: str) -> None:
    body = io.BytesIO(api.get(url(api, f"{ASKED}&format={format_}")).content)
    readers: Readers = {"csv": pl.read_csv, "ndjson": pl.read_ndjson, "parquet": pl.read_parquet, "arrow": pl.read_ipc_stream, "json": pl.read_json}
    check(pd.DataFrame(readers[format_](body).to_dict(as_series=False)), wines)


def test_arrow_reads_the_stream_as_it_comes(api: httpx.Client) -> None:
    with pa.ipc.open_stream(api.get(url(api, f"{MANY}&format=arrow")).content) as reader:
        sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == STREAM_ABOVE + 100
    assert len(sizes) == 2


@pytest.mark.parametrize("format_", ["ndjson", "parquet", "arrow"])
def test_a_streamed_answer_has_the_rows_of_json(api: httpx.Client, format_: str) -> None:
    body = api.get(url(api, f"{MANY}&format={format_}&include=row")).content
    match format_:
        case "ndjson":
            read = pd.read_json(io.BytesIO(body), lines=True, precise_float=True)
        case "parquet":
            read = pq.read_table(io.BytesIO(body)).to_pandas()
        case _:
            read = pa.ipc.open_stream(body).read_pandas()
    assert read["row"].tolist() == list(range(STREAM_ABOVE + 100))
    pd.testing.assert_frame_equal(read[NAMES], pd.DataFrame(api.get(url(api, MANY)).json()), check_exact=True)


def test_further_columns_are_there_in_every_format(api: httpx.Client) -> None:
    asked = "n=30&seed=3&include=p_real&include=row&include=predicted_quality"
    rows = pd.DataFrame(api.get(url(api, asked)).json())
    assert list(rows.columns) == [*NAMES, "p_real", "predicted_quality", "row"]
    for format_ in ("csv", "ndjson", "parquet", "arrow"):
        body = io.BytesIO(api.get(url(api, f"{asked}&format={format_}")).content)
        readers: Readers = {
            "csv": pd.read_csv,
            "ndjson": lambda b: pd.read_json(b, lines=True, precise_float=True),
            "parquet": pd.read_parquet,
            "arrow": lambda b: pa.ipc.open_stream(b).read_pandas(),
        }
        # the whole numbers among measurements are read as such from JSON alone
        pd.testing.assert_frame_equal(readers[format_](body), rows, check_exact=True, check_dtype=False)


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("application/vnd.apache.parquet", "parquet"),
        ("application/vnd.apache.arrow.stream;q=1, application/json;q=0.5", "arrow"),
        ("application/x-ndjson", "ndjson"),
    ],
)
def test_accept_asks_for_a_format_too(api: httpx.Client, accept: str, format_: str) -> None:
    by_header = api.get(url(api, ASKED), headers={"Accept": accept})
    assert by_header.content == api.get(url(api, f"{ASKED}&format={format_}")).content
    assert f"format={format_}" in by_header.headers["content-location"]


class Web(AbstractFileSystem):  # type: ignore[misc]
    """What DuckDB reaches the web through where its own extension for that is not installed: whole answers, as we take no Range."""

    protocol = "http"

    def glob(self, path: str, **_: object) -> list[str]:
        return [path]  # the question mark of a query is no pattern

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": len(self._open(path).getvalue()), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: object) -> io.BytesIO:
        return io.BytesIO(httpx.get(path if path.startswith("http://") else f"http://{path}").content)

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)


@pytest.mark.parametrize("format_", ["parquet", "csv", "json"])
def test_duckdb_reads_an_answer_over_http(api: httpx.Client, wines: pd.DataFrame, format_: str) -> None:
    with duckdb.connect() as database:
        database.register_filesystem(Web())
        read = getattr(database, f"read_{format_}")(url(api, f"{ASKED}&format={format_}")).df()
    check(read, wines)


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
@pytest.mark.parametrize("asked", [f"{ASKED}&format=json", f"{ASKED}&format=ndjson", f"{MANY}&format=csv", f"{MANY}&format=arrow"])
def test_who_asks_for_it_gets_it_compressed(api: httpx.Client, coding: str, asked: str) -> None:
    plain = api.get(url(api, asked))
    with api.stream("GET", url(api, asked), headers={"Accept-Encoding": coding}) as answer:
        sent = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == coding
    assert "Accept-Encoding" in answer.headers["vary"]
    assert answer.headers["etag"] == f"W/{plain.headers['etag']}"
    assert len(sent) < len(plain.content) / 2
    assert api.get(url(api, asked), headers={"Accept-Encoding": coding}).content == plain.content
    again = api.get(url(api, asked), headers={"If-None-Match": answer.headers["etag"], "Accept-Encoding": coding})
    assert (again.status_code, again.headers["etag"], again.headers["vary"]) == (304, answer.headers["etag"], answer.headers["vary"])
