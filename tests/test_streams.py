"""Long answers: memory that does not grow, readers that are slow or leave, and two processes that pour the same table."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.services import Services
from app.bundle import Bundle
from app.formats import CHUNKS, Sheet
from app.main import create_app
from app.sampler import Condition, Sampler
from app.settings import Settings
from tests.conftest import wait_for
from tests.test_api_samples import serve_starter

MANY = "/samples", b"n=5000000&seed=1&format=csv"
SOME_MB = 2 * 2**20

Run = Callable[[Callable[["Reader"], Coroutine[Any, Any, None]]], None]


class Reader:
    """A client of an app in this process that takes ``wants`` pieces of a body and then no more, until it ``goes_on``."""

    def __init__(self, app: Any, *, wants: int) -> None:
        self.app, self.wants = app, wants
        self.pieces: list[bytes] = []
        self.goes_on, self.left, self.full = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def services(self) -> Services:
        """The app's."""
        found: Services = self.app.state.services
        return found

    async def get(self, path: str, query: bytes) -> None:
        """The whole exchange, as a server would have it."""
        await self._ask({"method": "GET", "path": path, "query_string": query, "headers": []}, {"body": b"", "more_body": False})

    async def post(self, path: str, beginning: bytes, *, content_type: bytes) -> None:
        """An exchange whose body never goes beyond its beginning."""
        await self._ask(
            {"method": "POST", "path": path, "query_string": b"", "headers": [(b"content-type", content_type)]}, {"body": beginning, "more_body": True}
        )

    async def _ask(self, what: dict[str, Any], first: dict[str, Any]) -> None:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", **first}
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if body := message.get("body", b""):
                self.pieces.append(body)
            if len(self.pieces) >= self.wants:
                self.full.set()
                await self.goes_on.wait()

        server = {"asgi": {"version": "3.0"}, "client": ("reader", 1), "server": ("cuvee", 80), "root_path": "", "http_version": "1.1", "scheme": "http"}
        await self.app({"type": "http"} | server | what, receive, send)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a test with a reader of three pieces, of an app with the starter model."""

    def run(test: Callable[[Reader], Coroutine[Any, Any, None]]) -> None:
        with serve_starter(tmp_path):
            pass  # it made the database

        async def whole() -> None:
            app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/cuvee.db", download=False))
            async with app.router.lifespan_context(app):
                await asyncio.wait_for(test(Reader(app, wants=3)), 60)

        asyncio.run(whole())

    return run


def test_a_reader_that_stops_reading_has_nothing_poured_for_it_and_keeps_nobody_waiting(run: Run) -> None:
    async def slow(reader: Reader) -> None:
        stream = asyncio.ensure_future(reader.get(*MANY))
        await reader.full.wait()
        others = Reader(reader.app, wants=10**9)
        await others.get("/samples", b"n=10&seed=1&format=csv")
        await others.get("/healthz", b"")
        assert (others.pieces[0].count(b"\n"), others.pieces[-1], len(reader.pieces)) == (11, b'{"status":"ok"}', 3)
        assert reader.services.pouring.idle
        reader.wants = 6
        reader.full.clear()
        reader.goes_on.set()
        await reader.full.wait()  # it reads on, and gets more
        reader.left.set()
        await stream

    run(slow)


def test_a_reader_that_leaves_has_nothing_more_poured_for_it(run: Run) -> None:
    async def leaving(reader: Reader) -> None:
        stream = asyncio.ensure_future(reader.get(*MANY))
        await reader.full.wait()
        reader.left.set()
        reader.goes_on.set()
        await stream
        assert len(reader.pieces) < 10

    run(leaving)


def test_a_client_that_leaves_while_it_sends_is_no_error_of_ours(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def leaving(reader: Reader) -> None:
        reader.left.set()
        await reader.post("/score", b"fixed_acidity,", content_type=b"text/csv")

    run(leaving)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("media_type", CHUNKS)
def test_three_times_the_rows_take_no_more_memory(starter: Bundle, media_type: str) -> None:
    sampler = Sampler(starter)

    def peak(n: int) -> int:
        """Bytes, Python's and Arrow's."""
        blocks = sampler.blocks(Condition(), seed=1, offset=0, n=n)
        before, of_arrow = pa.total_allocated_bytes(), 0
        tracemalloc.start()
        for _ in CHUNKS[media_type]((Sheet(block.wines) for block in blocks), ()):
            of_arrow = max(of_arrow, pa.total_allocated_bytes() - before)
        _, python = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return of_arrow + python

    peak(1000)  # tables that are made once
    assert peak(120_000) < peak(40_000) + SOME_MB


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two servers of one database, each a process of its own; the second with other threads for everything."""
    folder = tmp_path_factory.mktemp("replicas")
    with serve_starter(folder) as first:
        port = int(first.base_url.port or 0) + 1
        environment = os.environ | {"CUVEE_DATABASE_URL": f"sqlite:///{folder}/cuvee.db", "CUVEE_PORT": str(port), "OMP_NUM_THREADS": "2"}
        process = subprocess.Popen([sys.executable, "-m", "app.main"], env=environment)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers={"Accept-Encoding": "identity"}) as second:
                wait_for(lambda: _answers(second))
                yield first, second
        finally:
            process.terminate()
            process.wait(30)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


READ: dict[str, Callable[[bytes], pd.DataFrame]] = {
    "json": lambda body: pd.read_json(io.BytesIO(body), precise_float=True),
    "ndjson": lambda body: pd.read_json(io.BytesIO(body), lines=True, precise_float=True),
    "csv": lambda body: pd.read_csv(io.BytesIO(body)),
    "parquet": lambda body: pd.read_parquet(io.BytesIO(body)),
    "arrow": lambda body: pa.ipc.open_stream(body).read_all().to_pandas(),
}


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.fixed_dictionaries(
        {"seed": st.integers(0, 2**63 - 1), "offset": st.integers(0, 5000) | st.integers(0, 2**52), "n": st.integers(1, 1200)},
        optional={
            "quality": st.lists(st.integers(3, 9), min_size=1, max_size=3, unique=True),
            "type": st.sampled_from(["white", "red"]),
            "mix": st.just("balanced"),
            "alcohol_min": st.sampled_from([9.5, 10.25]),
            "pH_max": st.sampled_from([3.3, 3.41]),
            "include": st.lists(st.sampled_from(["row", "p_real", "predicted_quality"]), min_size=1, unique=True),
        },
    ),
    name=st.sampled_from(list(READ)),
    cut=st.floats(0, 1),
)
def test_a_table_is_the_same_from_any_process_in_any_format_and_however_it_is_cut(
    replicas: tuple[httpx.Client, httpx.Client], asked: dict[str, Any], name: str, cut: float
) -> None:
    first, second = replicas
    if asked.get("type") == "red" and 9 in asked.get("quality", []):
        asked = asked | {"type": "white"}  # no red wine was ever given a 9
    query, n = {"format": name, **asked}, asked["n"]
    answers = [client.get("/samples", params=query) for client in replicas]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert answers[0].content == answers[1].content
    assert answers[0].headers["etag"] == answers[1].headers["etag"]
    plain = first.get("/samples", params=query | {"format": "json"})
    expected = READ["json"](plain.content)
    pd.testing.assert_frame_equal(READ[name](answers[0].content), expected, check_dtype=False, check_exact=True)
    if (head := int(cut * n)) == 0:
        return
    one = second.get("/samples", params=query | {"n": head, "format": "json"})
    rest = one.headers["link"].split(">")[0].removeprefix("<")
    rows = one.json() + (second.get(rest.replace(f"n={head}&", f"n={n - head}&", 1)).json() if head < n else [])
    assert rows == plain.json()
