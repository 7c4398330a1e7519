"""How soon a job is taken over, and how fast jobs are claimed. Measured and told, not judged: the machine may be busy."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import sqlalchemy as sa

from app import datasets, jobs, leases, migrations
from app.db import Database, now
from app.db import jobs as table
from app.jobs import Job
from chaos.house import House, enqueue, furnished, wait_for
from chaos.stores import Store

LEASE_S, POLL_S = 6.0, 1.0  # the second is the default
TRIES = 3
LONG = {"classifier_steps": 100_000}
CLAIMERS, CLAIMED = 4, 1000
FINISHED, TIMED = 100_000, 300
CHUNK = 5_000


def measure(store: Store) -> Iterator[str]:
    """One sentence a figure."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"CUVEE_LEASE_S": str(LEASE_S), "CUVEE_POLL_INTERVAL_S": str(POLL_S)}
        with furnished(store, Path(folder), workers=2, quick_jobs=0, settings=settings) as house:
            after = [_takeover(house, _kill_worker) for _ in range(TRIES)]
            yield f"taken over after SIGKILL of a worker: {_seconds(after)} (lease {LEASE_S:g} s, poll {POLL_S:g} s)"
            yield f"taken over after SIGKILL of a training: {_seconds([_takeover(house, _kill_training) for _ in range(TRIES)])}"
    with closing(Database(store.url)) as db:
        migrations.upgrade(db)
        datasets.install_starter(db)
        yield f"claims by {CLAIMERS} processes: {_claims_per_s(db, store.url):.0f}/s"
        times = _claim_times(db)
        yield f"a claim beside {FINISHED:,} finished jobs: median {1000 * statistics.median(times):.1f} ms, 99th percentile {1000 * _p99(times):.1f} ms"


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.1f} s" for value in values)


def _takeover(house: House, strike: Callable[[House, Job], None]) -> float:
    """Seconds from the blow to the next attempt of a job that was in training."""
    (job,) = enqueue(house.db, 1, **LONG)
    wait_for(lambda: "step" in _read(house, job).metrics, "a training to say how far it is")
    strike(house, _read(house, job))
    begun = time.monotonic()
    wait_for(lambda: _read(house, job).attempt == 2, "the job to be taken over")
    seconds = time.monotonic() - begun
    with house.db.write() as tx:
        jobs.cancel(tx, job.id)
    wait_for(lambda: _read(house, job).state == "cancelled", "the job to be cancelled")
    return seconds


def _kill_worker(house: House, job: Job) -> None:
    index = _holder(house, job)
    house.workers[index].kill()
    house.workers[index].wait()
    house.start_worker(index)


def _kill_training(house: House, job: Job) -> None:
    house.children(_holder(house, job))[0].kill()


def _holder(house: House, job: Job) -> int:
    return next(index for index, worker in enumerate(house.workers) if (job.worker or "").endswith(f":{worker.pid}"))


def _read(house: House, job: Job) -> Job:
    with house.db.read() as tx:
        return jobs.get(tx, job.id)


def _claims_per_s(db: Database, url: str) -> float:
    enqueue(db, CLAIMED)
    processes = multiprocessing.get_context("spawn")
    start = processes.Barrier(CLAIMERS + 1)
    claimers = [processes.Process(target=_claim_all, args=(url, start)) for _ in range(CLAIMERS)]
    for claimer in claimers:
        claimer.start()
    start.wait(120)
    begun = time.monotonic()
    for claimer in claimers:
        claimer.join()
    seconds = time.monotonic() - begun
    with db.write() as tx:
        tx.execute(sa.update(table).values(state="succeeded", finished_at=now()))
    return CLAIMED / seconds


def _claim_all(url: str, start: Barrier) -> None:
    with closing(Database(url)) as db:
        with db.read() as tx:
            tx.execute(sa.select(1))  # connected
        start.wait(120)
        claimed = True
        while claimed:
            with db.write() as tx:
                claimed = leases.claim(tx, worker="claimer", lease_s=600) is not None


def _claim_times(db: Database) -> list[float]:
    """Seconds of each claim of the last few jobs, where all others are over."""
    (first,) = enqueue(db, 1)
    with db.write() as tx:
        jobs.cancel(tx, first.id)
        row = tx.execute(sa.select(table).where(table.c.id == first.id)).one()._asdict()
    for begin in range(0, FINISHED, CHUNK):
        with db.write() as tx:
            tx.execute(sa.insert(table), [row | {"id": f"finished-{number}"} for number in range(begin, begin + CHUNK)])
    enqueue(db, TIMED)
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        with db.write() as tx:
            leases.claim(tx, worker="claimer", lease_s=600)
        times.append(time.perf_counter() - begun)
    return times


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]
