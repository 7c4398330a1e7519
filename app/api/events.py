"""What a job tells while it lives, and the curves of its training."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from app import events, jobs
from app.api.answers import REVALIDATE, conditional, media_type_of
from app.api.schemas import Asked, Name
from app.api.services import UseServices
from app.db import OPEN_STATES
from app.errors import Fault, InvalidInput
from app.events import Event
from app.formats import CSV, JSON

router = APIRouter(tags=["training"])

FORMATS = {"json": JSON, "csv": CSV}
EventNumber = Annotated[int, Field(ge=0, lt=2**31)]


class MetricsQuery(Asked):
    """How to write the curves."""

    format: Literal["json", "csv"] | None = Field(None, description="none: as the Accept header asks, else JSON")


class MetricPoint(BaseModel):
    """What a training measured of itself at one step."""

    at: datetime
    attempt: int
    stage: str
    progress: float = Field(ge=0, le=1, description="share of the whole job")
    step: int | None
    steps: int | None = Field(description="in all")
    values: dict[str, float] = Field(
        description="by name: losses of what is being trained, and for a GAN `spearman_gap`: mean absolute difference of the rank correlations between "
        "2,000 rows of the averaged generator and the training rows, as last measured; before recalibration, and never of the holdout"
    )


_EXAMPLE = """id: 2
event: log
data: {"at": "2026-01-01T12:00:00Z", "attempt": 1, "level": "info", "message": "attempt 1 begins on worker cellar:42"}

id: 6
event: metric
data: {"at": "2026-01-01T12:00:09Z", "attempt": 1, "progress": 0.2, "stage": "training", "step": 400, "steps": 1650, "values": {"generator_loss": 0.7}}

id: 1204
event: end
data: {"at": "2026-01-01T12:07:00Z", "attempt": 1, "state": "succeeded", "model_id": "4b1d6c0e9a7f2358", "error": null}

"""
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"example": _EXAMPLE}}},
    204: {"description": "the job is over, and the event that Last-Event-ID names was its last: an EventSource then stops asking"},
}
_POINTS: dict[int | str, dict[str, Any]] = {
    200: {"model": list[MetricPoint], "content": {JSON: {}, CSV: {"schema": {"type": "string"}}}},
    304: {"description": "the bytes that If-None-Match names"},
}


def _after(
    job_id: Name,
    use: UseServices,
    response: Response,
    last_event_id: Annotated[EventNumber, Header(description="the last event that came; those after it follow")] = 0,
) -> int:
    """The number of the event to go on from, checked before anything is sent; 204 where the job is over and it was the last."""
    with use.db.read() as tx:
        over = jobs.get(tx, job_id).state not in OPEN_STATES
        newest = events.last_number(tx, job_id)
    if last_event_id > newest:
        expected = f"the id of an event of job {job_id}, {newest} at most"
        detail = f"last-event-id: expected {expected}, found {last_event_id}; leave it out to hear the job from the beginning"
        raise InvalidInput(detail, [Fault("/header/last-event-id", detail, expected=expected, found=str(last_event_id))])
    if over and last_event_id == newest:
        raise HTTPException(204)
    response.headers["Cache-Control"] = "no-store"
    return last_event_id


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=_STREAM)
async def watch_job(job_id: Name, after: Annotated[int, Depends(_after)], use: UseServices) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, as Server-Sent Events: all that happened, then what happens, until the job is over.

    Each has an `id` (1, 2, 3, ... within the job), a type in `event`, and `data`, JSON with `at` (time), `attempt` and:

    | event | data | when |
    |---|---|---|
    | `state` | `state`, `worker`, `failures` | at every change of state |
    | `progress` | `progress` (0 to 1), `stage`, `eta_s` | with each hundredth of the work, and each stage |
    | `metric` | `progress`, `stage`, `step`, `steps`, `values` | with each thousandth of the work at most, and not again where a later attempt repeats it |
    | `log` | `level` (`info`, `warning`, `error`), `message` | attempts, resumption, failures and retries, warnings, the gate's verdict |
    | `end` | `state`, `model_id`, `error` | last |

    The header `Last-Event-ID` makes it go on after that event. All watchers get the same events in the same order, from any
    replica. Where nothing happens a comment comes every 15 seconds. A stream may break off when a replica stops: without
    `end` it is not over, and goes on elsewhere.
    """
    async for event in use.feed.follow(job_id, after=after):
        yield ServerSentEvent(id=str(event.number), event=event.kind, data={"at": _date(event), "attempt": event.attempt, **event.data})


@router.get("/jobs/{job_id}/metrics", responses=_POINTS, response_class=Response)
def show_metrics(job_id: Name, asked: Annotated[MetricsQuery, Query()], request: Request, use: UseServices) -> Response:
    """The curves of a job's training, a point for each thousandth of the work at most, while it runs and for ever after; as CSV a column for each value.

    Work that a later attempt did again is not in it twice.
    """
    media_type = media_type_of(request, asked.format, FORMATS)
    with use.db.read() as tx:
        jobs.get(tx, job_id)
        told = events.metrics(tx, job_id)
    points = [MetricPoint.model_validate({"at": _date(event), "attempt": event.attempt, **event.data}) for event in told]
    shown = [point.model_dump(mode="json") for point in points]
    body = _csv(shown) if media_type == CSV else json.dumps(shown)
    return conditional(request, body.encode(), media_type=media_type, headers={"Cache-Control": REVALIDATE, "Vary": "Accept"})


def _csv(points: list[dict[str, Any]]) -> str:
    """A line for each point; a value that it does not have is empty."""
    measured = dict.fromkeys(name for point in points for name in point["values"])
    own = [name for name in MetricPoint.model_fields if name != "values"]
    table = io.StringIO()
    writer = csv.DictWriter(table, [*own, *measured], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(point | point["values"] for point in points)
    return table.getvalue()


def _date(event: Event) -> str:
    return datetime.fromtimestamp(event.at, UTC).isoformat().replace("+00:00", "Z")
