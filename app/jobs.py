"""The queue: the jobs table and the few statements that make it safe. Every function runs in its caller's transaction.

Two numbers keep a job right. ``attempt`` is the fencing token: each claim raises it, and every write of a worker
carries ``WHERE state = 'running' AND attempt = :mine``, so whoever lost the lease can write nothing. ``failures`` is
the retry budget: a crash spends it, a released job (SIGTERM, a deploy) does not.

Whatever changes a job also writes what its watchers are told of it (``app.events``): both happen, or neither does.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app import events
from app.db import OPEN_STATES, checkpoints, deleted_models, jobs, now
from app.errors import Conflict, LeaseLost, NotFound
from app.events import Draft

MAX_FAILURES = 3  # attempts that may crash before the job is given up
BACKOFF_S = 10.0  # before the second retry; the first is made at once, for most often only the training process died
KEEP_CHECKPOINTS = 2
COLLECT_AFTER_S = 24 * 3600.0  # from the end of a failed or cancelled job: so long its last checkpoints can be looked at

State = Literal["queued", "running", "succeeded", "failed", "cancelling", "cancelled"]
Promote = Literal["auto", "always", "never"]
Outcome = Literal["better", "worse", "even"]


@dataclass(frozen=True)
class Request:
    """What ``enqueue`` is asked for; ``params`` are complete and valid already."""

    method: str
    dataset_id: str
    params: dict[str, Any]
    seed: int
    priority: int = 0
    promote: Promote = "auto"
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lease:
    """The right to work on a job: its id, and the attempt that this right is for."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Comparison:
    """One measure of a finished model beside the champion's; ``spread`` is what the difference must exceed to count."""

    metric: str
    challenger: float
    champion: float
    spread: float
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """Whether a finished model became the champion, why in words, and the figures where figures decided.

    ``champion`` is the id of the model that it met; None where it met none.
    """

    promoted: bool
    reason: str
    champion: str | None = None
    gate: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Job:
    """A job as it was when it was read; times are seconds since 1970 on the database's clock."""

    id: str
    method: str
    dataset_id: str
    params: dict[str, Any]
    seed: int
    priority: int
    promote: Promote
    warnings: list[str]
    state: State
    attempt: int
    failures: int
    worker: str | None
    lease_expires_at: float | None
    run_after: float
    progress: float
    stage: str | None
    metrics: dict[str, float]
    model_id: str | None
    model_deleted_at: float | None
    verdict: Verdict | None
    error: str | None
    created_at: float
    started_at: float | None
    last_progress_at: float | None
    finished_at: float | None
    read_at: float

    @property
    def lease(self) -> Lease:
        """The lease of the attempt under way."""
        return Lease(self.id, self.attempt)

    @property
    def stalled(self) -> bool:
        """Whether its worker has let the lease run out, so that any other may take it over."""
        return self.state in ("running", "cancelling") and (self.lease_expires_at or 0.0) < self.read_at

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the pace since it was first taken up; None where there is no pace yet."""
        if self.state != "running" or self.started_at is None or self.progress <= 0:
            return None
        return round((self.read_at - self.started_at) * (1 - self.progress) / self.progress, 1)


# written out and in the index's own words, for SQLite takes a partial index on no other terms: else it reads every job that ever was
_OPEN = jobs.c.state.in_(sa.bindparam("open_states", OPEN_STATES, expanding=True, literal_execute=True))
_COLUMNS = (*jobs.c, sa.null().label("model_deleted_at"), now().label("read_at"))  # of a job that was just written: its model is there
_JOBS: sa.Select[Any] = sa.select(*jobs.c, deleted_models.c.deleted_at.label("model_deleted_at"), now().label("read_at")).outerjoin(
    deleted_models, deleted_models.c.id == jobs.c.model_id
)


def _job(row: Row[Any]) -> Job:
    return Job(**{**row._mapping, "verdict": verdict_from(row.verdict)})


def verdict_from(stored: dict[str, Any] | None) -> Verdict | None:
    """The verdict in a job's row."""
    return None if stored is None else Verdict(**{**stored, "gate": tuple(Comparison(**comparison) for comparison in stored["gate"])})


def enqueue(tx: Connection, request: Request) -> Job:
    """The new job, queued."""
    values = {
        "id": secrets.token_hex(8),
        "method": request.method,
        "dataset_id": request.dataset_id,
        "params": request.params,
        "seed": request.seed,
        "priority": request.priority,
        "promote": request.promote,
        "warnings": list(request.warnings),
        "state": "queued",
        "attempt": 0,
        "failures": 0,
        "progress": 0.0,
        "metrics": {},
        "run_after": now(),
        "created_at": now(),
    }
    job = _job(tx.execute(sa.insert(jobs).values(values).returning(*_COLUMNS)).one())
    _tell(tx, job, *(events.log(warning, "warning") for warning in job.warnings))
    return job


def get(tx: Connection, job_id: str) -> Job:
    """The job; ``NotFound`` if there is none of that id."""
    row = tx.execute(_JOBS.where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"no job has the id {job_id!r}; GET /jobs lists them")
    return _job(row)


def page(tx: Connection, *, state: State | None, limit: int, offset: int) -> list[Job]:
    """Jobs, newest first; those in ``state`` only, where one is given."""
    query = _JOBS.order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit).offset(offset)
    if state is not None:
        query = query.where(jobs.c.state == state)
    return [_job(row) for row in tx.execute(query)]


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
        .where(jobs.c.id == first.with_for_update(skip_locked=True).scalar_subquery(), ready)
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
        .returning(*_COLUMNS)
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        return None
    job = _job(row)
    before = events.last(tx, job.id, "state")
    if before is not None and before.data["state"] == "running":
        silent = f"attempt {before.attempt}: its worker {before.data['worker']} went silent, and another takes over: failure {job.failures} of {MAX_FAILURES}"
        events.write(tx, job.id, before.attempt, [events.log(silent, "warning")])
    _tell(tx, job, events.log(f"attempt {job.attempt} begins on worker {worker}"))
    return job


def holds(tx: Connection, lease: Lease) -> bool:
    """Whether the lease is still good: the job runs, and on this attempt. A read; false also once it is cancelled."""
    return tx.execute(sa.select(jobs.c.id).where(*_fence(lease))).one_or_none() is not None


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
    """Keeps the state for whoever resumes the job, and the one before it; ``LeaseLost`` as ``renew``."""
    _fenced(tx, lease, last_progress_at=now())
    own = {"job_id": lease.job_id, "attempt": lease.attempt, "number": number}
    # written already, if the answer to an earlier try was lost on its way
    tx.execute(sa.delete(checkpoints).filter_by(**own))
    tx.execute(sa.insert(checkpoints).values(**own, state=state, created_at=now()))
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
    _tell(tx, job, events.log(verdict.reason))


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
    _tell(tx, job, events.log(f"attempt {job.attempt} failed: {error} ({after})", "warning" if job.state == "queued" else "error"))


def release(tx: Connection, lease: Lease, *, reason: str) -> None:
    """Gives the job back at no cost: the next worker goes on from its last checkpoint."""
    job = _fenced(tx, lease, state="queued", run_after=now(), lease_expires_at=None, worker=None)
    _tell(tx, job, events.log(f"attempt {job.attempt} ends without fault: {reason}; the next goes on from the last checkpoint"))


def cancel(tx: Connection, job_id: str) -> Job:
    """The job: cancelled at once if no worker holds it, ``cancelling`` while one must still let go.

    Cancelling a job that is being cancelled changes nothing; ``Conflict`` if it is over, ``NotFound`` as ``get``.
    """
    free = sa.or_(jobs.c.state == "queued", jobs.c.lease_expires_at < now())
    values = {
        "state": sa.case((free, "cancelled"), else_="cancelling"),
        "finished_at": sa.case((free, now()), else_=sa.null()),
        "lease_expires_at": sa.case((free, sa.null()), else_=jobs.c.lease_expires_at),
    }
    statement = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(OPEN_STATES)).values(values)
    row = tx.execute(statement.returning(*_COLUMNS)).one_or_none()
    if row is not None:
        cancelled, before = _job(row), events.last(tx, job_id, "state")
        if before is None or before.data["state"] != cancelled.state:  # asked for again and again, it is told once
            _tell(tx, cancelled)
        return cancelled
    job = get(tx, job_id)
    raise Conflict(f"job {job_id} is over ({job.state}): only a queued or running job can be cancelled")


def confirm_cancel(tx: Connection, lease: Lease) -> bool:
    """Ends a cancelling job whose worker has let go; false if it is not this attempt's to end."""
    mine = (jobs.c.id == lease.job_id, jobs.c.state == "cancelling", jobs.c.attempt == lease.attempt)
    ended = sa.update(jobs).where(*mine).values(state="cancelled", finished_at=now(), lease_expires_at=None, worker=None)
    row = tx.execute(ended.returning(*_COLUMNS)).one_or_none()
    if row is not None:
        _tell(tx, _job(row))
    return row is not None


def reap(tx: Connection) -> int:
    """How many jobs it ended whose worker is gone: cancelling ones, and running ones without failures left. Old checkpoints go too.

    Any process may call it at any time; running abandoned jobs that may be tried again are left to ``claim``.
    """
    gone = jobs.c.lease_expires_at < now()
    over = {"finished_at": now(), "lease_expires_at": None, "worker": None}
    let_go = sa.update(jobs).where(_OPEN, jobs.c.state == "cancelling", gone).values(state="cancelled", **over)
    cancelled = [_job(row) for row in tx.execute(let_go.returning(*_COLUMNS))]
    spent = sa.and_(jobs.c.state == "running", gone, jobs.c.failures + 1 >= MAX_FAILURES)
    error = f"its worker disappeared, the last of {MAX_FAILURES} attempts that crashed (out of memory, or the machine went away)"
    given_up = sa.update(jobs).where(_OPEN, spent).values(state="failed", failures=jobs.c.failures + 1, error=error, **over)
    failed = [_job(row) for row in tx.execute(given_up.returning(*_COLUMNS))]
    for job in cancelled:
        _tell(tx, job)
    for job in failed:
        _tell(tx, job, events.log(f"attempt {job.attempt} failed: {error}", "error"))
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
    row = tx.execute(sa.update(jobs).where(*_fence(lease)).values(**values).returning(*_COLUMNS)).one_or_none()
    if row is None:
        raise LeaseLost(f"attempt {lease.attempt} no longer holds job {lease.job_id}: it was cancelled, or its lease ran out and another worker has it")
    return _job(row)


def _tell(tx: Connection, job: Job, *lines: Draft) -> None:
    """Writes lines, the state that this transaction brought the job into, and the last word if that is the end of it."""
    state = Draft("state", {"state": job.state, "worker": job.worker, "failures": job.failures})
    end = [] if job.state in OPEN_STATES else [Draft("end", {"state": job.state, "model_id": job.model_id, "error": job.error})]
    events.write(tx, job.id, job.attempt, [*lines, state, *end])


def _newest(job_id: str) -> sa.Select[Any]:
    order = checkpoints.c.attempt.desc(), checkpoints.c.number.desc()
    return sa.select(checkpoints).where(checkpoints.c.job_id == job_id).order_by(*order)
