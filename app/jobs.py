"""The queue: what a job is, and how it is asked for, seen and cancelled. Every function runs in its caller's transaction; ``app.leases`` is the worker's side.

Whatever changes a job also writes what its watchers are told of it (``app.events``): both happen, or neither does.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app import events
from app.db import OPEN_STATES, deleted_models, jobs, now
from app.errors import Conflict, NotFound
from app.events import Draft

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
    """One measure of a finished model beside the champion's; ``spread`` is one standard deviation of the difference."""

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


WRITTEN = (*jobs.c, sa.null().label("model_deleted_at"), now().label("read_at"))  # of a job that was just written: its model is there
_JOBS: sa.Select[Any] = sa.select(*jobs.c, deleted_models.c.deleted_at.label("model_deleted_at"), now().label("read_at")).outerjoin(
    deleted_models, deleted_models.c.id == jobs.c.model_id
)


def job_from(row: Row[Any]) -> Job:
    """The job in a row of ``WRITTEN``, or of what ``_JOBS`` selects."""
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
    job = job_from(tx.execute(sa.insert(jobs).values(values).returning(*WRITTEN)).one())
    tell(tx, job, *(events.log(warning, "warning") for warning in job.warnings))
    return job


def get(tx: Connection, job_id: str) -> Job:
    """The job; ``NotFound`` if there is none of that id."""
    row = tx.execute(_JOBS.where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"no job has the id {job_id!r}; GET /jobs lists them")
    return job_from(row)


def page(tx: Connection, *, state: State | None, limit: int, offset: int) -> list[Job]:
    """Jobs, newest first; those in ``state`` only, where one is given."""
    query = _JOBS.order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit).offset(offset)
    if state is not None:
        query = query.where(jobs.c.state == state)
    return [job_from(row) for row in tx.execute(query)]


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
    row = tx.execute(statement.returning(*WRITTEN)).one_or_none()
    if row is not None:
        cancelled, before = job_from(row), events.last(tx, job_id, "state")
        if before is None or before.data["state"] != cancelled.state:  # asked for again and again, it is told once
            tell(tx, cancelled)
        return cancelled
    job = get(tx, job_id)
    raise Conflict(f"job {job_id} is over ({job.state}): only a queued or running job can be cancelled")


def tell(tx: Connection, job: Job, *lines: Draft) -> None:
    """Writes lines, the state that this transaction brought the job into, and the last word if that is the end of it."""
    state = Draft("state", {"state": job.state, "worker": job.worker, "failures": job.failures})
    end = [] if job.state in OPEN_STATES else [Draft("end", {"state": job.state, "model_id": job.model_id, "error": job.error})]
    events.write(tx, job.id, job.attempt, [*lines, state, *end])
