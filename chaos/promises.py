"""What must hold whatever happened, a sentence and a function each: what they return is what breaks the promise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import psutil
import sqlalchemy as sa

from app import events, registry
from app.db import checkpoints, models
from app.leases import KEEP_CHECKPOINTS, MAX_FAILURES
from chaos.house import House

Promise = Callable[[House], list[str]]


def every_job_is_over_or_runs_under_a_good_lease(house: House) -> list[str]:
    """Asked when the house has come to rest."""
    return [f"job {job.id} is {job.state}" for job in house.jobs() if job.state in ("queued", "cancelling") or job.stalled]


def each_succeeded_job_has_one_model_and_no_other_job_has_any(house: House) -> list[str]:
    """The one that it names."""
    with house.db.read() as tx:
        made = [(row.job_id, row.id) for row in tx.execute(sa.select(models.c.job_id, models.c.id).where(models.c.job_id.is_not(None)))]
    wanted = [(job.id, job.model_id) for job in house.jobs() if job.state == "succeeded"]
    return [] if sorted(made) == sorted(wanted) else [f"models {sorted(made)} of jobs {sorted(wanted)}"]


def jobs_alike_have_models_alike(house: House) -> list[str]:
    """Bit for bit, however often their trainings were killed and resumed."""
    alike: dict[str, set[tuple[tuple[str, bytes], ...]]] = defaultdict(set)
    for job in house.jobs():
        if job.model_id is not None:
            with house.db.read() as tx:
                parts = registry.load(tx, job.model_id).parts
            alike[f"{job.method} {job.params} {job.seed}"].add(tuple(sorted(parts.items())))
    return [f"{len(kinds)} different models of {what}" for what, kinds in alike.items() if len(kinds) > 1]


def a_failed_job_had_all_its_attempts(house: House) -> list[str]:
    """And says why it failed."""
    failed = [job for job in house.jobs() if job.state == "failed"]
    return [f"job {job.id} failed after {job.failures} failures: {job.error}" for job in failed if job.failures < MAX_FAILURES or not job.error]


def no_dead_attempt_left_a_checkpoint_that_hides_a_later_one(house: House) -> list[str]:
    """They are in the order of their attempts, few, and gone once the job has succeeded."""
    columns = (checkpoints.c.job_id, checkpoints.c.attempt, checkpoints.c.number, checkpoints.c.created_at)
    kept: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    with house.db.read() as tx:
        for row in tx.execute(sa.select(*columns)):
            kept[row.job_id].append((row.attempt, row.number, row.created_at))
    broken = []
    for job in house.jobs():
        own = sorted(kept[job.id])
        if [at for *_, at in own] != sorted(at for *_, at in own) or any(attempt > job.attempt for attempt, *_ in own):
            broken.append(f"job {job.id}, attempt {job.attempt}: checkpoints out of order: {own}")
        if len(own) > (0 if job.state == "succeeded" else KEEP_CHECKPOINTS):
            broken.append(f"job {job.id} is {job.state} and keeps {len(own)} checkpoints")
    return broken


def every_job_told_its_whole_life(house: House) -> list[str]:
    """Numbered without a gap, and its last word is how it ended, said once."""
    broken = []
    for job in house.jobs():
        with house.db.read() as tx:
            told = events.news(tx, job.id, after=0, limit=100_000).events
        ends = [event.data["state"] for event in told if event.kind == "end"]
        states = [event.data["state"] for event in told if event.kind == "state"]
        if [event.number for event in told] != list(range(1, len(told) + 1)):
            broken.append(f"job {job.id}: events are missing")
        if states[-1] != job.state or ends != ([] if job.finished_at is None else [job.state]) or (ends and told[-1].kind != "end"):
            broken.append(f"job {job.id} is {job.state}, but told of {states} and ended with {ends}")
        if [event.attempt for event in told] != sorted(event.attempt for event in told):
            broken.append(f"job {job.id}: an attempt spoke after the next had begun")
    return broken


def nobody_sits_in_a_transaction(house: House) -> list[str]:
    """Which would hold others up."""
    count = house.store.open_transactions()
    return [f"{count} transactions are open and idle"] if count else []


def every_training_has_a_worker(house: House) -> list[str]:
    """That is its parent, and alive."""
    workers = {worker.pid for worker in house.workers}
    trainings = [process for process in house.marked() if "worker.child" in _command(process)]
    return [f"training {process.pid} is an orphan" for process in trainings if process.is_running() and process.ppid() not in workers]


def nothing_is_left_of_a_house_that_was_stopped(house: House) -> list[str]:
    """No process and no connection."""
    house.db.close()
    left = [f"process {process.pid} is left: {' '.join(_command(process))}" for process in house.marked()]
    count = house.store.connections()
    return left + ([f"{count} connections are left"] if count else [])


AT_REST: tuple[Promise, ...] = (
    every_job_is_over_or_runs_under_a_good_lease,
    each_succeeded_job_has_one_model_and_no_other_job_has_any,
    jobs_alike_have_models_alike,
    a_failed_job_had_all_its_attempts,
    no_dead_attempt_left_a_checkpoint_that_hides_a_later_one,
    every_job_told_its_whole_life,
    nobody_sits_in_a_transaction,
    every_training_has_a_worker,
)
ALWAYS: tuple[Promise, ...] = (no_dead_attempt_left_a_checkpoint_that_hides_a_later_one,)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []
