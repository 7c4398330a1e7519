"""What a job tells while it lives: a numbered row for each thing that happened, written in the transaction that made it happen.

Numbers count from 1 within a job, without gaps, and are in the order of commits: whoever writes has changed the job's row
first in the same transaction, so that any other writer of the same job waits until this one is over, and counts on from
there. A reader that sees an event has therefore seen all before it, on PostgreSQL too, where a sequence would promise
no such thing (docs/decisions/0017-events.md).

What is kept of a job is bounded: ``report`` says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.db import OPEN_STATES, job_events, jobs, now
from app.errors import NotFound

PROGRESS_STEP = 0.01  # of the work, between two progress events of an attempt
METRIC_STEP = 0.001  # of the work, between two metric events of a job: a thousand at most

Kind = Literal["state", "progress", "metric", "log", "end"]
Level = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Draft:
    """An event that has no number yet; ``data`` is JSON."""

    kind: Kind
    data: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One thing that happened in an attempt (0: before the first) at a time, seconds since 1970 on the database's clock."""

    number: int
    kind: Kind
    attempt: int
    data: dict[str, Any]
    at: float


@dataclass(frozen=True)
class News:
    """Events in their order; ``over`` if the job was over before they were read, so that none will follow them but those left by a limit."""

    events: list[Event]
    over: bool


def log(message: str, level: Level = "info") -> Draft:
    """A line for whoever watches."""
    return Draft("log", {"level": level, "message": message})


def write(tx: Connection, job_id: str, attempt: int, drafts: Sequence[Draft]) -> None:
    """Adds events of the job, whose row this transaction must have changed or made already: that is what keeps their numbers in order."""
    last = last_number(tx, job_id)
    rows = [{"job_id": job_id, "number": number, "kind": draft.kind, "attempt": attempt, "data": draft.data} for number, draft in enumerate(drafts, last + 1)]
    tx.execute(sa.insert(job_events).values(at=now()), rows)


def report(tx: Connection, job_id: str, attempt: int, *, progress: float, stage: str, eta_s: float | None, metrics: dict[str, float]) -> None:
    """Adds what is worth keeping of a report that comes every half second; ``write`` has the condition.

    A ``progress`` event where the stage changed or a hundredth of the work was done since this attempt's last: some hundred
    an attempt. A ``metric`` event where the work is a thousandth beyond the furthest that any attempt told of: a
    thousand a job, however long it takes. Ground that is gone over again after a crash gives the same figures again.
    """
    drafts = []
    progress = round(progress, 5)
    known = last(tx, job_id, "progress")
    if known is None or (known.attempt, known.data["stage"]) != (attempt, stage) or abs(progress - known.data["progress"]) >= PROGRESS_STEP:
        drafts.append(Draft("progress", {"progress": progress, "stage": stage, "eta_s": eta_s}))
    if metrics:
        told = last(tx, job_id, "metric")
        if told is None or progress >= told.data["progress"] + METRIC_STEP:
            values = {name: value for name, value in metrics.items() if name not in ("step", "steps")}
            at = {name: metrics.get(name) for name in ("step", "steps")}
            drafts.append(Draft("metric", {"progress": progress, "stage": stage, **at, "values": values}))
    if drafts:
        write(tx, job_id, attempt, drafts)


def last(tx: Connection, job_id: str, kind: Kind) -> Event | None:
    """The newest event of that kind; None if there is none."""
    row = tx.execute(_events(job_id).where(job_events.c.kind == kind).order_by(job_events.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else Event(**row._mapping)


def last_number(tx: Connection, job_id: str) -> int:
    """The number of the newest event; 0 if there is none."""
    newest: int | None = tx.execute(sa.select(sa.func.max(job_events.c.number)).where(job_events.c.job_id == job_id)).scalar_one()
    return newest or 0


def news(tx: Connection, job_id: str, *, after: int, limit: int) -> News:
    """At most ``limit`` events beyond the one of number ``after``; ``NotFound`` if there is no such job."""
    # the state first: on PostgreSQL the second statement may see more than the first, never less
    state = tx.execute(sa.select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one_or_none()
    if state is None:
        raise NotFound(f"no job has the id {job_id!r}; GET /jobs lists them")
    rows = tx.execute(_events(job_id).where(job_events.c.number > after).order_by(job_events.c.number).limit(limit))
    return News([Event(**row._mapping) for row in rows], over=state not in OPEN_STATES)


def metrics(tx: Connection, job_id: str) -> list[Event]:
    """All metric events, in their order."""
    return [Event(**row._mapping) for row in tx.execute(_events(job_id).where(job_events.c.kind == "metric").order_by(job_events.c.number))]


def _events(job_id: str) -> sa.Select[Any]:
    columns = job_events.c.number, job_events.c.kind, job_events.c.attempt, job_events.c.data, job_events.c.at
    return sa.select(*columns).where(job_events.c.job_id == job_id)
