"""``GET /jobs/{id}/events`` and ``/metrics``: the same story for everybody, from anywhere in it, through any replica."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import fastapi.routing
import httpx
import pandas as pd
import pytest
from sqlalchemy.engine import Connection

from app import jobs, leases
from app.api.feed import Feed
from app.db import Database
from app.events import Event
from app.jobs import Job, Request, Verdict
from app.settings import Settings
from tests.conftest import serve, wait_for

REQUEST = Request(method="gan", dataset_id="starter", params={}, seed=1)
LONG_S = 600.0


@dataclass(frozen=True)
class Told:
    """An event as a client reads it."""

    id: int
    kind: str
    data: dict[str, Any]


def parsed(lines: Iterator[str]) -> Iterator[Told]:
    """The events of a stream, by the rules of the standard; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields |= {name: value} if name else {}
        elif fields:
            yield Told(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}


def watch(client: httpx.Client, job: Job, **headers: str) -> list[Told]:
    """All events until the stream ends."""
    with client.stream("GET", f"/jobs/{job.id}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        return list(parsed(answer.iter_lines()))


def url_of(db: Database) -> str:
    return db.url.render_as_string(hide_password=False)


def served(db: Database) -> Settings:
    return Settings(database_url=url_of(db), download=False)


def enqueue(db: Database) -> Job:
    with db.write() as tx:
        return jobs.enqueue(tx, REQUEST)


def claimed(db: Database) -> Job:
    with db.write() as tx:
        job = leases.claim(tx, worker="w", lease_s=LONG_S)
    assert job is not None
    return job


def report(tx: Connection, job: Job, share: float, **metrics: float) -> None:
    leases.report(tx, job.lease, lease_s=LONG_S, progress=share, stage="training", metrics={"step": 10 * share, "steps": 10, **metrics})


def finished(db: Database) -> Job:
    """A job with a short life behind it."""
    enqueue(db)
    job = claimed(db)
    with db.write() as tx:
        report(tx, job, 0.1, classifier_loss=2.0)
        report(tx, job, 0.5, generator_loss=0.7)
        leases.finish(tx, job.lease, model_id="m", verdict=Verdict(False, "even"))
    return job


def test_a_job_that_is_over_tells_its_life_and_the_stream_ends(api: httpx.Client, sqlite_db: Database) -> None:
    life = watch(api, finished(sqlite_db))

    assert [event.id for event in life] == list(range(1, 11))
    assert [event.kind for event in life] == ["state", "log", "state", "progress", "metric", "progress", "metric", "log", "state", "end"]
    last = dict(life[-1].data)
    assert (last.pop("at")[-1], last) == ("Z", {"attempt": 1, "state": "succeeded", "model_id": "m", "error": None})


def test_after_any_event_exactly_the_rest_is_told(api: httpx.Client, sqlite_db: Database) -> None:
    job = finished(sqlite_db)
    whole = watch(api, job)

    assert [watch(api, job, **{"Last-Event-ID": str(n)}) for n in range(10)] == [whole[n:] for n in range(10)]


def test_who_has_heard_the_end_is_told_to_ask_no_more(api: httpx.Client, sqlite_db: Database) -> None:
    answer = api.get(f"/jobs/{finished(sqlite_db).id}/events", headers={"Last-Event-ID": "10"})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("given", ["11", "-1", "abc", ""])
def test_an_id_that_the_job_never_gave_is_refused(api: httpx.Client, sqlite_db: Database, given: str) -> None:
    answer = api.get(f"/jobs/{finished(sqlite_db).id}/events", headers={"Last-Event-ID": given})
    assert (answer.status_code, answer.json()["type"], answer.json()["errors"][0]["pointer"]) == (422, "urn:cuvee:invalid-input", "/header/last-event-id")


@pytest.mark.parametrize("what", ["events", "metrics"])
def test_a_job_that_does_not_exist_tells_nothing(api: httpx.Client, what: str) -> None:
    answer = api.get(f"/jobs/nope/{what}")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:cuvee:not-found")


def test_a_stream_is_neither_stored_nor_held_back_on_its_way(api: httpx.Client, sqlite_db: Database) -> None:
    with api.stream("GET", f"/jobs/{finished(sqlite_db).id}/events") as answer:
        headers = answer.headers
    assert "no-store" in headers["cache-control"]
    assert (headers["x-accel-buffering"], headers["content-type"]) == ("no", "text/event-stream; charset=utf-8")


def follow(client: httpx.Client, job: Job, encoding: str, heard: list[Told]) -> None:
    """Hears the job out, event by event."""
    with client.stream("GET", f"/jobs/{job.id}/events", headers={"Accept-Encoding": encoding}) as answer:
        for event in parsed(answer.iter_lines()):
            heard.append(event)


def all_have(heard: list[list[Told]], n: int) -> bool:
    return [len(events) for events in heard] == [n] * len(heard)


def test_watchers_of_two_replicas_hear_the_same_while_it_happens(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    heard: list[list[Told]] = [[], [], []]
    with ExitStack() as stack:
        one, other = (stack.enter_context(serve(served(db))) for _ in range(2))
        asked = [(one, job, "identity", heard[0]), (other, job, "gzip", heard[1]), (other, job, "identity", heard[2])]
        watchers = [threading.Thread(target=follow, args=given, daemon=True) for given in asked]
        for watcher in watchers:
            watcher.start()
        for step in range(1, 4):
            with db.write() as tx:
                report(tx, job, step / 10, loss=1.0)
            wait_for(partial(all_have, heard, 3 + 2 * step))  # nothing is held back until more comes
        with db.write() as tx:
            leases.finish(tx, job.lease, model_id="m", verdict=Verdict(False, "even"))
        for watcher in watchers:
            watcher.join(30)

    assert heard[0] == heard[1] == heard[2]
    assert [event.id for event in heard[0]] == list(range(1, 13))
    assert heard[0][-1].kind == "end"


def test_a_silent_stream_has_a_heartbeat(api: httpx.Client, sqlite_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.05)  # 15 s
    with api.stream("GET", f"/jobs/{enqueue(sqlite_db).id}/events") as answer:
        lines = answer.iter_lines()
        first = [next(lines) for _ in range(4)]
        assert [next(lines) for _ in range(3)] == [": ping", "", ": ping"]
    assert first[0] == "event: state"


class Counting(Database):
    """A database that counts how often it is read."""

    reads = 0

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self.reads += 1
        with super().read() as tx:
            yield tx


def test_a_hundred_who_wait_for_the_same_job_cost_one_read(sqlite_db: Database) -> None:
    job = enqueue(sqlite_db)
    counting = Counting(url_of(sqlite_db))

    async def first_of_each() -> list[Event]:
        feed = Feed(counting)
        return list(await asyncio.gather(*(anext(feed.follow(job.id, after=0)) for _ in range(100))))

    assert {event.number for event in asyncio.run(first_of_each())} == {1}
    counting.close()
    assert counting.reads == 1


def test_a_watcher_outlives_an_outage_of_the_database(api: httpx.Client, sqlite_db: Database, caplog: pytest.LogCaptureFixture) -> None:
    job = enqueue(sqlite_db)
    with api.stream("GET", f"/jobs/{job.id}/events") as answer:
        events = parsed(answer.iter_lines())
        next(events)
        with sqlite_db.write() as tx:
            tx.exec_driver_sql("ALTER TABLE job_events RENAME TO away")
        wait_for(lambda: f"those who watch job {job.id} wait" in caplog.text)
        with sqlite_db.write() as tx:
            tx.exec_driver_sql("ALTER TABLE away RENAME TO job_events")
            jobs.cancel(tx, job.id)
        assert [event.kind for event in events] == ["state", "end"]


def test_a_server_that_is_stopped_lets_its_watchers_go_at_once(sqlite_db: Database, unused_port: int) -> None:
    job = enqueue(sqlite_db)
    environment = os.environ | {"CUVEE_DATABASE_URL": url_of(sqlite_db), "CUVEE_PORT": str(unused_port)}
    server = subprocess.Popen([sys.executable, "-m", "app.main"], env=environment, stderr=subprocess.PIPE, text=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{unused_port}", timeout=30) as client:
        wait_for(lambda: answers(client))
        with client.stream("GET", f"/jobs/{job.id}/events") as answer:
            events = parsed(answer.iter_lines())
            assert next(events).kind == "state"
            server.send_signal(signal.SIGINT)
            assert list(events) == []  # an orderly end, which a client goes on from elsewhere
    _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "timeout graceful shutdown exceeded" not in log
    assert "Finished server process" in log


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


def test_the_curves_of_a_training_can_be_read_afterwards(api: httpx.Client, sqlite_db: Database) -> None:
    job = finished(sqlite_db)
    points = api.get(f"/jobs/{job.id}/metrics").json()
    assert [point.pop("at")[-1] for point in points] == ["Z", "Z"]
    assert points == [
        {"attempt": 1, "stage": "training", "progress": 0.1, "step": 1, "steps": 10, "values": {"classifier_loss": 2.0}},
        {"attempt": 1, "stage": "training", "progress": 0.5, "step": 5, "steps": 10, "values": {"generator_loss": 0.7}},
    ]


def test_the_curves_come_as_a_table_too(api: httpx.Client, sqlite_db: Database) -> None:
    table = pd.read_csv(io.StringIO(api.get(f"/jobs/{finished(sqlite_db).id}/metrics?format=csv").text))
    assert list(table.columns) == ["at", "attempt", "stage", "progress", "step", "steps", "classifier_loss", "generator_loss"]
    assert table["step"].tolist() == [1, 5]
    assert table["generator_loss"].isna().tolist() == [True, False]


def test_the_curves_of_a_job_that_waits_are_empty(api: httpx.Client, sqlite_db: Database) -> None:
    job = enqueue(sqlite_db)
    assert api.get(f"/jobs/{job.id}/metrics").json() == []
    assert api.get(f"/jobs/{job.id}/metrics?format=csv").text == "at,attempt,stage,progress,step,steps\n"


def test_a_job_says_where_it_can_be_watched(api: httpx.Client, sqlite_db: Database) -> None:
    job = finished(sqlite_db)
    links = api.get(f"/jobs/{job.id}").json()["links"]
    assert links == {"events": f"/jobs/{job.id}/events", "metrics": f"/jobs/{job.id}/metrics"}
    assert [api.get(link).status_code for link in links.values()] == [200, 200]
