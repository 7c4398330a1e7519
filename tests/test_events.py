"""What a job tells: in order, complete, bounded, and never by somebody who lost it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import sqlalchemy as sa

from app import events, jobs, leases
from app.db import Database
from app.db import jobs as table
from app.events import Event
from app.jobs import Job, Request, Verdict

REQUEST = Request(method="gan", dataset_id="starter", params={}, seed=1)
LONG_S = 600.0


def enqueue(db: Database, request: Request = REQUEST) -> Job:
    with db.write() as tx:
        return jobs.enqueue(tx, request)


def claimed(db: Database, worker: str) -> Job:
    with db.write() as tx:
        tx.execute(sa.update(table).where(table.c.state == "queued").values(run_after=0.0))
        job = leases.claim(tx, worker=worker, lease_s=LONG_S)
    assert job is not None
    return job


def expire(db: Database) -> None:
    with db.write() as tx:
        tx.execute(sa.update(table).values(lease_expires_at=1.0))


def told(db: Database, job: Job, *, after: int = 0, limit: int = 10_000) -> list[Event]:
    with db.read() as tx:
        return events.news(tx, job.id, after=after, limit=limit).events


def lines(db: Database, job: Job) -> list[tuple[str, str]]:
    """Level and message of every log event."""
    return [(event.data["level"], event.data["message"]) for event in told(db, job) if event.kind == "log"]


def states(db: Database, job: Job) -> list[str]:
    return [event.data["state"] for event in told(db, job) if event.kind == "state"]


def report(db: Database, job: Job, *shares: float, stage: str = "training") -> None:
    """The same transaction for many reports: what is kept of them does not depend on it."""
    with db.write() as tx:
        for share in shares:
            leases.report(tx, job.lease, lease_s=LONG_S, progress=share, stage=stage, metrics={"step": 100 * share, "steps": 100, "loss": 1 - share})


def test_a_job_tells_its_whole_life_in_order(db: Database) -> None:
    job = enqueue(db, replace(REQUEST, warnings=("on synthetic rows",)))
    first = claimed(db, "a")
    report(db, first, 0.5)
    with db.write() as tx:
        leases.fail(tx, first.lease, error="out of memory", retry=True)
    second = claimed(db, "b")
    with db.write() as tx:
        leases.note(tx, second.lease, message="goes on from step 40", level="info")
    with db.write() as tx:
        leases.release(tx, second.lease, reason="a deploy")
    third = claimed(db, "c")
    with db.write() as tx:
        leases.finish(tx, third.lease, model_id="m", verdict=Verdict(True, "promoted: better"))

    life = told(db, job)

    assert [event.number for event in life] == list(range(1, len(life) + 1))
    assert " ".join(event.kind for event in life) == "log state log state progress metric log state log state log log state log state log state end"
    assert [event.attempt for event in life] == [0, 0, *[1] * 6, *[2] * 5, *[3] * 5]
    assert sorted(event.at for event in life) == [event.at for event in life]
    assert states(db, job) == ["queued", "running", "queued", "running", "queued", "running", "succeeded"]
    assert lines(db, job) == [
        ("warning", "on synthetic rows"),
        ("info", "attempt 1 begins on worker a"),
        ("warning", "attempt 1 failed: out of memory (failure 1 of 3, tried again at once)"),
        ("info", "attempt 2 begins on worker b"),
        ("info", "goes on from step 40"),
        ("info", "attempt 2 ends without fault: a deploy; the next goes on from the last checkpoint"),
        ("info", "attempt 3 begins on worker c"),
        ("info", "promoted: better"),
    ]
    assert life[5].data == {"progress": 0.5, "stage": "training", "step": 50, "steps": 100, "values": {"loss": 0.5}}
    assert life[-1].data == {"state": "succeeded", "model_id": "m", "error": None}


def test_a_job_that_was_taken_over_tells_of_both_attempts(db: Database) -> None:
    job = enqueue(db)
    claimed(db, "a")
    expire(db)
    claimed(db, "b")

    assert lines(db, job) == [
        ("info", "attempt 1 begins on worker a"),
        ("warning", "attempt 1: its worker a went silent, and another takes over: failure 1 of 3"),
        ("info", "attempt 2 begins on worker b"),
    ]


def test_every_end_is_told_once(db: Database) -> None:
    refused, waiting, running, abandoned, spent = (enqueue(db) for _ in range(5))
    with db.write() as tx:
        tx.execute(sa.update(table).where(table.c.id != refused.id).values(priority=-1))
    taken = claimed(db, "a")
    with db.write() as tx:
        leases.fail(tx, taken.lease, error="no red wine", retry=False)
    with db.write() as tx:
        jobs.cancel(tx, waiting.id)
    left = {job.id: job for job in (claimed(db, "a") for _ in range(3))}
    with db.write() as tx:
        jobs.cancel(tx, running.id)
        jobs.cancel(tx, running.id)  # asked for again, nothing happens
        leases.confirm_cancel(tx, left[running.id].lease)
        jobs.cancel(tx, abandoned.id)
        tx.execute(sa.update(table).where(table.c.id == spent.id).values(failures=2))
    expire(db)
    with db.write() as tx:
        assert (leases.reap(tx), leases.reap(tx)) == (2, 0)

    ends = {job.id: [event.data["state"] for event in told(db, job) if event.kind == "end"] for job in (refused, waiting, running, abandoned, spent)}
    assert ends == {refused.id: ["failed"], waiting.id: ["cancelled"], running.id: ["cancelled"], abandoned.id: ["cancelled"], spent.id: ["failed"]}
    assert states(db, running) == states(db, abandoned) == ["queued", "running", "cancelling", "cancelled"]
    assert lines(db, refused)[-1] == ("error", "attempt 1 failed: no red wine (it can never succeed)")
    assert "its worker disappeared" in lines(db, spent)[-1][1]


def test_of_many_who_write_at_once_a_reader_misses_nothing_and_sees_one_order(db: Database) -> None:
    job = enqueue(db)
    lease = claimed(db, "a").lease
    done = threading.Event()
    read: list[list[int]] = [[], []]

    def write(name: int) -> None:
        for nth in range(15):
            with db.write() as tx:
                leases.note(tx, lease, message=f"{name}.{nth}", level="info")

    def watch(numbers: list[int]) -> None:
        while True:
            last_look = done.is_set()
            numbers += [event.number for event in told(db, job, after=numbers[-1] if numbers else 0, limit=7)]
            if last_look and len(numbers) >= 63:
                return

    def run(work: Callable[..., None], *given: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=given, daemon=True)
        thread.start()
        return thread

    watchers = [run(watch, numbers) for numbers in read]
    for writer in [run(write, name) for name in range(4)]:
        writer.join()
    done.set()
    for watcher in watchers:
        watcher.join(30)

    assert read == [list(range(1, 64))] * 2  # queued, begins, running, and sixty lines


def test_what_is_kept_of_a_long_job_is_bounded_and_even(sqlite_db: Database) -> None:
    job = enqueue(sqlite_db)
    report(sqlite_db, claimed(sqlite_db, "a"), *(i / 2000 for i in range(2001)))
    kept = told(sqlite_db, job)
    shares = [event.data["progress"] for event in kept if event.kind == "metric"]

    assert 90 < len([event for event in kept if event.kind == "progress"]) <= 101
    assert 600 < len(shares) <= 1001
    assert max(later - earlier for earlier, later in pairwise(shares)) < 0.0016


def test_ground_that_is_gone_over_again_makes_progress_but_no_second_curve(sqlite_db: Database) -> None:
    job = enqueue(sqlite_db)
    report(sqlite_db, claimed(sqlite_db, "a"), 0.2, 0.4)
    expire(sqlite_db)
    report(sqlite_db, claimed(sqlite_db, "b"), 0.2, 0.3, 0.5)

    def seen(kind: str) -> list[tuple[int, float]]:
        return [(event.attempt, event.data["progress"]) for event in told(sqlite_db, job) if event.kind == kind]

    assert seen("metric") == [(1, 0.2), (1, 0.4), (2, 0.5)]
    assert seen("progress") == [(1, 0.2), (1, 0.4), (2, 0.2), (2, 0.3), (2, 0.5)]


def test_a_stage_is_told_as_soon_as_it_begins(sqlite_db: Database) -> None:
    job = enqueue(sqlite_db)
    taken = claimed(sqlite_db, "a")
    report(sqlite_db, taken, 0.9)
    report(sqlite_db, taken, 0.9, stage="exporting")

    assert [event.data["stage"] for event in told(sqlite_db, job) if event.kind == "progress"] == ["training", "exporting"]
