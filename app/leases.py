"""The worker's side of the queue: a lease on a job, and the few statements that make it safe. Every function runs in its caller's transaction.

Two numbers keep a job right. ``attempt`` is the fencing token: each claim raises it, and every write of a worker
carries ``WHERE state = 'running' AND attempt = :mine``, so whoever lost the lease can write nothing. ``failures`` is
the retry budget: a crash spends it, a released job (SIGTERM, a deploy) does not.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app import events
from app.db import OPEN_STATES, checkpoints, insert_new, jobs, now
from app.errors import LeaseLost
from app.jobs import WRITTEN, Job, Lease, Verdict, job_from, tell

MAX_FAILURES = 3  # attempts that may crash before the job is given up
BACKOFF_S = 10.0  # before the second retry; the first is made at once, for most often only the training process died
KEEP_CHECKPOINTS = 2
COLLECT_AFTER_S = 24 * 3600.0  # from the end of a failed or cancelled job: so long its last checkpoints can be looked at

# written out and in the index's own words, for SQLite takes a partial index on no other terms: else it reads every job that ever was
_OPEN = jobs.c.state.in_(sa.bindparam("open_states", OPEN_STATES, expanding=True, literal_execute=True))


def claim(tx: Connection, *, worker: str, lease_s: float) -> Job | None:
    """The most urgent job that is ready, now leased to ``worker``; None if there is none.

    Ready is queued and due, or running under a lease that ran out: taking that over spends one failure, for a job
    that kills its workers must come to an end.
    """
    due = sa.and_(jobs.c.state == "queued", jobs.c.run_after <= now())
    abandoned = sa.and_(jobs.c.state == "running", jobs.c.lease_expires_at < now(), jobs.c.failures + 1 < MAX_FAILURES)
    ready = sa.or_(due, abandoned)
    first = sa.select(jobs.c.id).where(_OPEN, ready).order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id).limit(1)
    statement = (
        sa.update(jobs)
        # a scalar subquery with "=": with IN, PostgreSQL may run it once a row and lock more than one
        # key_share: a checkpoint on its way refers to the job, and that must not hide it
        .where(jobs.c.id == first.with_for_update(skip_locked=True, key_share=True).scalar_subquery(), ready)
        .values(
            state="running",
            attempt=jobs.c.attempt + 1,
            failures=sa.case((jobs.c.state == "running", jobs.c.failures + 1), else_=jobs.c.failures),
            worker=worker,
            lease_expires_at=now() + lease_s,
            started_at=sa.func.coalesce(jobs.c.started_at, now()),
            last_progress_at=now(),
            stage="starting",
            metrics={},
        )
        .returning(*WRITTEN)
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        return None
    job = job_from(row)
    before = events.last(tx, job.id, "state")
    if before is not None and before.data["state"] == "running":
        silent = f"attempt {before.attempt}: its worker {before.data['worker']} went silent, and another takes over: failure {job.failures} of {MAX_FAILURES}"
        events.write(tx, job.id, before.attempt, [events.log(silent, "warning")])
    tell(tx, job, events.log(f"attempt {job.attempt} begins on worker {worker}"))
    return job


def check(tx: Connection, lease: Lease) -> None:
    """``LeaseLost`` as ``renew``, without writing or locking anything: what was good here may be lost a moment later."""
    if tx.execute(sa.select(jobs.c.id).where(*_fence(lease))).one_or_none() is None:
        raise _lost(lease)


def renew(tx: Connection, lease: Lease, *, lease_s: float) -> None:
    """Prolongs the lease; ``LeaseLost`` if it is another's now or the job was cancelled."""
    _fenced(tx, lease, lease_expires_at=now() + lease_s)


def report(tx: Connection, lease: Lease, *, lease_s: float, progress: float, stage: str, metrics: dict[str, float]) -> None:
    """Records progress (0 to 1) and prolongs the lease; ``LeaseLost`` as ``renew``."""
    job = _fenced(tx, lease, lease_expires_at=now() + lease_s, last_progress_at=now(), progress=progress, stage=stage, metrics=metrics)
    events.report(tx, job.id, job.attempt, progress=progress, stage=stage, eta_s=job.eta_s, metrics=metrics)


def note(tx: Connection, lease: Lease, *, message: str, level: events.Level) -> None:
    """Tells watchers what the training has to say; ``LeaseLost`` as ``renew``."""
    job = _fenced(tx, lease, last_progress_at=now())
    events.write(tx, job.id, job.attempt, [events.log(message, level)])


def save_checkpoint(tx: Connection, lease: Lease, *, number: int, state: bytes) -> None:
    """Keeps the state for whoever resumes the job, and the one before it; ``LeaseLost`` as ``renew``.

    The job is locked only once the state is over there: a worker that is stopped while it sends megabytes holds nothing.
    """
    check(tx, lease)
    # there already, if the answer to an earlier try was lost on its way
    insert_new(tx, checkpoints, job_id=lease.job_id, attempt=lease.attempt, number=number, state=state, created_at=now())
    _fenced(tx, lease, last_progress_at=now())
    newest = _newest(lease.job_id).with_only_columns(checkpoints.c.attempt, checkpoints.c.number).limit(KEEP_CHECKPOINTS)
    keep = tx.execute(newest).all()
    kept = sa.or_(*(sa.and_(checkpoints.c.attempt == a, checkpoints.c.number == n) for a, n in keep))
    tx.execute(sa.delete(checkpoints).where(checkpoints.c.job_id == lease.job_id, ~kept))


def last_checkpoint(tx: Connection, job_id: str) -> bytes | None:
    """The newest state of the job, None if none was kept."""
    state: bytes | None = tx.execute(_newest(job_id).with_only_columns(checkpoints.c.state).limit(1)).scalar_one_or_none()
    return state


def finish(tx: Connection, lease: Lease, *, model_id: str, verdict: Verdict) -> None:
    """Ends the job as succeeded and drops its checkpoints; the model goes into the registry in the same transaction."""
    done = {"state": "succeeded", "progress": 1.0, "stage": None, "error": None, "finished_at": now(), "lease_expires_at": None}
    job = _fenced(tx, lease, **done, model_id=model_id, verdict=asdict(verdict))
    tx.execute(sa.delete(checkpoints).where(checkpoints.c.job_id == lease.job_id))
    tell(tx, job, events.log(verdict.reason))


def fail(tx: Connection, lease: Lease, *, error: str, retry: bool) -> None:
    """Spends one failure: queued again after a pause if ``retry`` and the budget allows it, failed for good otherwise."""
    again = sa.and_(sa.literal(retry), jobs.c.failures + 1 < MAX_FAILURES)
    job = _fenced(
        tx,
        lease,
        state=sa.case((again, "queued"), else_="failed"),
        failures=jobs.c.failures + 1,
        run_after=now() + BACKOFF_S * jobs.c.failures,
        finished_at=sa.case((again, sa.null()), else_=now()),
        error=error,
        lease_expires_at=None,
        worker=None,
    )
    if job.state == "queued":
        pause = job.run_after - job.read_at
        after = f"failure {job.failures} of {MAX_FAILURES}, tried again {f'in {pause:.0f} s' if pause > 0.5 else 'at once'}"
    else:
        after = f"failure {job.failures} of {MAX_FAILURES}" if retry else "it can never succeed"
    tell(tx, job, events.log(f"attempt {job.attempt} failed: {error} ({after})", "warning" if job.state == "queued" else "error"))


def release(tx: Connection, lease: Lease, *, reason: str) -> None:
    """Gives the job back at no cost: the next worker goes on from its last checkpoint."""
    job = _fenced(tx, lease, state="queued", run_after=now(), lease_expires_at=None, worker=None)
    tell(tx, job, events.log(f"attempt {job.attempt} ends without fault: {reason}; the next goes on from the last checkpoint"))


def confirm_cancel(tx: Connection, lease: Lease) -> bool:
    """Ends a cancelling job whose worker has let go; false if it is not this attempt's to end."""
    mine = (jobs.c.id == lease.job_id, jobs.c.state == "cancelling", jobs.c.attempt == lease.attempt)
    ended = sa.update(jobs).where(*mine).values(state="cancelled", finished_at=now(), lease_expires_at=None, worker=None)
    row = tx.execute(ended.returning(*WRITTEN)).one_or_none()
    if row is not None:
        tell(tx, job_from(row))
    return row is not None


def reap(tx: Connection) -> int:
    """How many jobs it ended whose worker is gone: cancelling ones, and running ones without failures left. Old checkpoints go too.

    Any process may call it at any time; running abandoned jobs that may be tried again are left to ``claim``.
    """
    gone = jobs.c.lease_expires_at < now()
    over = {"finished_at": now(), "lease_expires_at": None, "worker": None}
    let_go = sa.update(jobs).where(_OPEN, jobs.c.state == "cancelling", gone).values(state="cancelled", **over)
    cancelled = [job_from(row) for row in tx.execute(let_go.returning(*WRITTEN))]
    spent = sa.and_(jobs.c.state == "running", gone, jobs.c.failures + 1 >= MAX_FAILURES)
    error = f"its worker disappeared, the last of {MAX_FAILURES} attempts that crashed (out of memory, or the machine went away)"
    given_up = sa.update(jobs).where(_OPEN, spent).values(state="failed", failures=jobs.c.failures + 1, error=error, **over)
    failed = [job_from(row) for row in tx.execute(given_up.returning(*WRITTEN))]
    for job in cancelled:
        tell(tx, job)
    for job in failed:
        tell(tx, job, events.log(f"attempt {job.attempt} failed: {error}", "error"))
    _collect(tx)
    return len(cancelled) + len(failed)


def _collect(tx: Connection) -> None:
    """Drops the checkpoints of jobs that failed or were cancelled long ago: nothing goes on from them."""
    over = sa.select(jobs.c.id).where(
        jobs.c.id == checkpoints.c.job_id, jobs.c.state.in_(("failed", "cancelled")), jobs.c.finished_at < now() - COLLECT_AFTER_S
    )
    tx.execute(sa.delete(checkpoints).where(over.correlate(checkpoints).exists()))


def _fence(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.id == lease.job_id, jobs.c.state == "running", jobs.c.attempt == lease.attempt


def _fenced(tx: Connection, lease: Lease, **values: Any) -> Job:
    row = tx.execute(sa.update(jobs).where(*_fence(lease)).values(**values).returning(*WRITTEN)).one_or_none()
    if row is None:
        raise _lost(lease)
    return job_from(row)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"attempt {lease.attempt} no longer holds job {lease.job_id}: it was cancelled or is over, or its lease ran out and another worker has it")


def _newest(job_id: str) -> sa.Select[Any]:
    order = checkpoints.c.attempt.desc(), checkpoints.c.number.desc()
    return sa.select(checkpoints).where(checkpoints.c.job_id == job_id).order_by(*order)
