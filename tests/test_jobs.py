"""The queue, on SQLite and on PostgreSQL: one winner, no zombie, no lost or doubled job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app import events, jobs, leases
from app.db import Database, checkpoints, now
from app.db import jobs as table
from app.errors import Conflict, LeaseLost, NotFound
from app.jobs import Job, Lease, Request, Verdict
from tests.conftest import connections, wait_for

LONG_S = 600.0
REQUEST = Request(method="gan", dataset_id="starter", params={"preset": "quick"}, seed=1)


def enqueue(db: Database, request: Request = REQUEST) -> Job:
    with db.write() as tx:
        return jobs.enqueue(tx, request)


def claim(db: Database, worker: str = "a", *, lease_s: float = LONG_S) -> Job | None:
    with db.write() as tx:
        return leases.claim(tx, worker=worker, lease_s=lease_s)


def claimed(db: Database, worker: str = "a", *, lease_s: float = LONG_S) -> Job:
    job = claim(db, worker, lease_s=lease_s)
    assert job is not None
    return job


def read(db: Database, job: Job) -> Job:
    with db.read() as tx:
        return jobs.get(tx, job.id)


def crash(db: Database, job: Job, error: str) -> None:
    with db.write() as tx:
        leases.fail(tx, job.lease, error=error, retry=True)


def expire(db: Database, job: Job) -> None:
    """What the database's clock would do, at once."""
    with db.write() as tx:
        tx.execute(sa.update(table).where(table.c.id == job.id).values(lease_expires_at=1.0))


def test_a_job_that_was_claimed_is_running_under_a_lease_of_its_first_attempt(db: Database) -> None:
    job = enqueue(db)

    taken = claimed(db, "worker 1", lease_s=30)

    assert (taken.id, taken.state, taken.attempt, taken.failures, taken.worker) == (job.id, "running", 1, 0, "worker 1")
    assert taken.lease_expires_at is not None
    assert 29 < taken.lease_expires_at - taken.read_at <= 30


def test_an_empty_queue_has_nothing_to_claim(db: Database) -> None:
    assert claim(db) is None


def test_of_many_workers_that_race_for_one_job_exactly_one_wins(db: Database) -> None:
    enqueue(db)
    start = threading.Barrier(8)
    won: list[Job | None] = []

    def race(name: str) -> None:
        start.wait()
        won.append(claim(db, name))

    threads = [threading.Thread(target=race, args=(f"worker {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 8
    assert len([job for job in won if job is not None]) == 1


def test_workers_that_race_for_many_jobs_take_each_once(db: Database) -> None:
    wanted = {enqueue(db).id for _ in range(12)}
    taken: list[str] = []

    def drain(name: str) -> None:
        while (job := claim(db, name)) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=drain, args=(f"worker {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain("the last")  # a claim that skipped a locked row may have found nothing

    assert sorted(taken) == sorted(wanted)


def test_the_most_urgent_job_goes_first_and_the_older_of_two_equals(db: Database) -> None:
    first = enqueue(db)
    time.sleep(0.01)  # the database's clock ticks in milliseconds
    second = enqueue(db)
    urgent = enqueue(db, replace(REQUEST, priority=5))

    assert [claimed(db).id for _ in range(3)] == [urgent.id, first.id, second.id]


def test_a_job_under_a_good_lease_is_nobody_elses(db: Database) -> None:
    enqueue(db)
    claimed(db, "a")

    assert claim(db, "b") is None


def test_a_job_whose_lease_ran_out_is_taken_over_as_the_next_attempt_and_costs_one_failure(db: Database) -> None:
    enqueue(db)
    expire(db, claimed(db, "a"))

    taken = claimed(db, "b")

    assert (taken.attempt, taken.failures, taken.worker) == (2, 1, "b")


ZOMBIE_WRITES: dict[str, Callable[[Connection, Lease], object]] = {
    "renew": lambda tx, lease: leases.renew(tx, lease, lease_s=30),
    "report": lambda tx, lease: leases.report(tx, lease, lease_s=30, progress=0.9, stage="training", metrics={}),
    "checkpoint": lambda tx, lease: leases.save_checkpoint(tx, lease, number=1, state=b"stale"),
    "finish": lambda tx, lease: leases.finish(tx, lease, model_id="stale", verdict=Verdict(False, "")),
    "fail": lambda tx, lease: leases.fail(tx, lease, error="stale", retry=False),
    "release": lambda tx, lease: leases.release(tx, lease, reason="stale"),
    "note": lambda tx, lease: leases.note(tx, lease, message="stale", level="info"),
    "check": leases.check,
}


@pytest.mark.parametrize("write", ZOMBIE_WRITES.values(), ids=ZOMBIE_WRITES.keys())
def test_a_zombie_can_write_nothing(db: Database, write: Callable[[Connection, Lease], object]) -> None:
    enqueue(db)
    zombie = claimed(db, "a")
    expire(db, zombie)
    claimed(db, "b")
    with db.read() as tx:
        told = events.last_number(tx, zombie.id)

    with pytest.raises(LeaseLost, match="attempt 1 no longer holds"), db.write() as tx:
        write(tx, zombie.lease)

    with db.read() as tx:
        assert events.last_number(tx, zombie.id) == told
        job = jobs.get(tx, zombie.id)
        assert (job.state, job.attempt, job.progress, job.model_id, job.error) == ("running", 2, 0.0, None, None)
        assert leases.last_checkpoint(tx, job.id) is None


def test_renewing_prolongs_the_lease(db: Database) -> None:
    enqueue(db)
    job = claimed(db, lease_s=5)

    with db.write() as tx:
        leases.renew(tx, job.lease, lease_s=LONG_S)

    assert (read(db, job).lease_expires_at or 0) > (job.lease_expires_at or 0) + 500


def test_progress_is_kept_with_its_stage_and_metrics(db: Database) -> None:
    enqueue(db)
    job = claimed(db)

    with db.write() as tx:
        leases.report(tx, job.lease, lease_s=30, progress=0.25, stage="training", metrics={"loss": 0.5})

    after = read(db, job)
    assert (after.progress, after.stage, after.metrics) == (0.25, "training", {"loss": 0.5})


def test_the_last_two_checkpoints_are_kept_and_the_newest_is_given(db: Database) -> None:
    enqueue(db)
    job = claimed(db)

    for number in range(1, 5):
        with db.write() as tx:
            leases.save_checkpoint(tx, job.lease, number=number, state=b"state %d" % number)

    with db.read() as tx:
        assert leases.last_checkpoint(tx, job.id) == b"state 4"
        assert sorted(tx.execute(sa.select(checkpoints.c.number)).scalars()) == [3, 4]


def test_the_next_attempt_sees_the_checkpoint_of_the_one_before(db: Database) -> None:
    enqueue(db)
    job = claimed(db, "a")
    with db.write() as tx:
        leases.save_checkpoint(tx, job.lease, number=7, state=b"old")
    expire(db, job)
    taken = claimed(db, "b")

    with db.write() as tx:
        assert leases.last_checkpoint(tx, job.id) == b"old"
        leases.save_checkpoint(tx, taken.lease, number=1, state=b"new")
        assert leases.last_checkpoint(tx, job.id) == b"new"


def test_a_finished_job_has_its_model_and_no_checkpoints(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    with db.write() as tx:
        leases.save_checkpoint(tx, job.lease, number=1, state=b"state")

    with db.write() as tx:
        leases.finish(tx, job.lease, model_id="m", verdict=Verdict(True, "promoted"))

    after = read(db, job)
    assert (after.state, after.progress, after.model_id, after.verdict) == ("succeeded", 1.0, "m", Verdict(True, "promoted"))
    with db.read() as tx:
        assert leases.last_checkpoint(tx, job.id) is None


def test_a_released_job_is_queued_again_at_no_cost(db: Database) -> None:
    enqueue(db)
    job = claimed(db, "a")

    with db.write() as tx:
        leases.release(tx, job.lease, reason="a deploy")

    taken = claimed(db, "b")
    assert (taken.attempt, taken.failures) == (2, 0)


def test_a_crash_is_tried_again_at_once_and_the_second_one_after_a_pause(db: Database) -> None:
    enqueue(db)

    crash(db, claimed(db), "out of memory")

    again = claimed(db)
    assert (again.attempt, again.failures, again.error, again.finished_at) == (2, 1, "out of memory", None)

    crash(db, again, "out of memory")

    after = read(db, again)
    assert (after.state, after.failures) == ("queued", 2)
    assert 9 < after.run_after - after.read_at <= 10
    assert claim(db) is None


def test_the_third_crash_is_the_last(db: Database) -> None:
    job = enqueue(db)
    for _ in range(3):
        with db.write() as tx:
            tx.execute(sa.update(table).values(run_after=0.0))
        lease = claimed(db).lease
        with db.write() as tx:
            leases.fail(tx, lease, error="boom", retry=True)

    after = read(db, job)
    assert (after.state, after.failures, after.error) == ("failed", 3, "boom")
    assert after.finished_at is not None


def test_what_can_never_succeed_is_not_tried_again(db: Database) -> None:
    enqueue(db)
    job = claimed(db)

    with db.write() as tx:
        leases.fail(tx, job.lease, error="no red wine", retry=False)

    assert read(db, job).state == "failed"


def test_a_job_that_kills_its_workers_is_given_up_by_the_reaper(db: Database) -> None:
    job = enqueue(db)
    for _ in range(3):
        expire(db, claimed(db))

    assert claim(db) is None
    with db.write() as tx:
        assert leases.reap(tx) == 1
        assert leases.reap(tx) == 0
    after = read(db, job)
    assert (after.state, after.failures) == ("failed", 3)
    assert "disappeared" in (after.error or "")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)  # its planner is the one that needs the index named in its own words
def test_who_looks_for_work_reads_no_job_that_is_over(db: Database) -> None:
    asked: list[tuple[str, Any]] = []
    with db.write() as tx:
        sa.event.listen(tx, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
        leases.reap(tx)
        leases.claim(tx, worker="a", lease_s=LONG_S)
        looks = [row.detail for text, values in list(asked) for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values) if "SCAN jobs" in row.detail]

    assert looks == ["SCAN jobs USING INDEX ix_jobs_open"] * 3


def test_cancelling_a_queued_job_ends_it_at_once(db: Database) -> None:
    job = enqueue(db)

    with db.write() as tx:
        assert jobs.cancel(tx, job.id).state == "cancelled"

    assert claim(db) is None


def test_a_running_job_is_cancelled_when_its_worker_lets_go_and_keeps_its_checkpoint(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    with db.write() as tx:
        leases.save_checkpoint(tx, job.lease, number=1, state=b"state")

    with db.write() as tx:
        assert jobs.cancel(tx, job.id).state == "cancelling"
    with pytest.raises(LeaseLost), db.write() as tx:
        leases.renew(tx, job.lease, lease_s=30)
    with db.write() as tx:
        assert leases.confirm_cancel(tx, job.lease)
        assert not leases.confirm_cancel(tx, job.lease)

    assert read(db, job).state == "cancelled"
    with db.read() as tx:
        assert leases.last_checkpoint(tx, job.id) == b"state"


def test_an_abandoned_job_is_cancelled_at_once(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    expire(db, job)

    with db.write() as tx:
        assert jobs.cancel(tx, job.id).state == "cancelled"

    with pytest.raises(LeaseLost), db.read() as tx:
        leases.check(tx, job.lease)


def test_a_checkpoint_whose_answer_was_lost_may_be_written_again(db: Database) -> None:
    enqueue(db)
    job = claimed(db)

    for _ in range(2):
        with db.write() as tx:
            leases.save_checkpoint(tx, job.lease, number=1, state=b"state")

    with db.read() as tx:
        assert leases.last_checkpoint(tx, job.id) == b"state"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_a_checkpoint_that_is_still_being_written_may_be_written_again(db: Database) -> None:
    enqueue(db)
    job = claimed(db)

    def save_again() -> None:
        with db.write() as tx:
            leases.save_checkpoint(tx, job.lease, number=1, state=b"state")

    with db.write() as slow:
        leases.save_checkpoint(slow, job.lease, number=1, state=b"state")
        with ThreadPoolExecutor() as pool:
            again = pool.submit(save_again)
            wait_for(lambda: connections(db, "wait_event_type = 'Lock'"))
            slow.commit()
            again.result()

    with db.read() as tx:
        assert leases.last_checkpoint(tx, job.id) == b"state"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_checkpoint_on_its_way_does_not_keep_an_abandoned_job_from_others(db: Database) -> None:
    enqueue(db)
    job = claimed(db, "a")
    expire(db, job)

    with db.write() as silent:
        silent.execute(sa.insert(checkpoints).values(job_id=job.id, attempt=1, number=1, state=b"state", created_at=now()))
        assert claimed(db, "b").attempt == 2


def test_a_cancelling_job_whose_worker_died_is_ended_by_the_reaper(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    with db.write() as tx:
        jobs.cancel(tx, job.id)
    expire(db, job)

    with db.write() as tx:
        assert leases.reap(tx) == 1

    assert read(db, job).state == "cancelled"


def test_checkpoints_of_a_failed_or_cancelled_job_are_kept_for_a_day(db: Database) -> None:
    ended = []
    for state in ("failed", "cancelled", "running"):
        enqueue(db)
        job = claimed(db)
        with db.write() as tx:
            leases.save_checkpoint(tx, job.lease, number=1, state=b"state")
            tx.execute(sa.update(table).where(table.c.id == job.id).values(state=state, finished_at=None if state == "running" else now() - 86300))
        ended.append(job.id)

    def kept() -> list[bool]:
        with db.write() as tx:
            leases.reap(tx)
            return [leases.last_checkpoint(tx, job) is not None for job in ended]

    assert kept() == [True, True, True]
    with db.write() as tx:
        tx.execute(sa.update(table).values(finished_at=table.c.finished_at - 200))
    assert kept() == [False, False, True]


def test_a_job_that_is_over_cannot_be_cancelled(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    with db.write() as tx:
        leases.finish(tx, job.lease, model_id="m", verdict=Verdict(False, ""))

    with pytest.raises(Conflict, match=r"is over \(succeeded\)"), db.write() as tx:
        jobs.cancel(tx, job.id)


def test_a_running_job_is_shown_as_stalled_once_its_lease_ran_out(db: Database) -> None:
    enqueue(db)
    job = claimed(db)
    assert not read(db, job).stalled

    expire(db, job)

    assert read(db, job).stalled


def test_an_unknown_job_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound, match="no job has the id 'nope'"), db.read() as tx:
        jobs.get(tx, "nope")
