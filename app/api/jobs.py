"""``POST /train`` and the jobs it makes."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import ConfigDict, Field, WithJsonSchema, computed_field
from sqlalchemy.engine import Connection

from app import aliases, datasets, idempotency, jobs, params, registry
from app.api.bodies import takes_json
from app.api.idempotency import REPLAYED, GivenKey, say
from app.api.schemas import Body, Name, Page, Seed, VerdictView, View
from app.api.services import Services, UseServices, warning_header
from app.errors import Conflict, Fault, InvalidInput, NotFound
from app.idempotency import Key, Made
from app.jobs import Promote
from app.params import METHODS

router = APIRouter(tags=["training"])

PARAMS_SCHEMA = {
    "type": "object",
    "description": "the method's own params over those of its preset; unknown names and values out of range are refused",
    "anyOf": [schema.model_json_schema() | {"title": f"params of {method}"} for method, schema in METHODS.items()],
    "default": {},
    "examples": [{"preset": "quick"}],
}


class TrainRequest(Body):
    """A training job; every field has a default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"params": {"preset": "quick"}}]})

    method: str = Field("gan", max_length=32, description=" or ".join(METHODS))
    dataset: Name | None = Field(None, description="a dataset's id; null: `uci`, or `starter` with a warning where the original can't be had")
    params: Annotated[dict[str, Any], WithJsonSchema(PARAMS_SCHEMA)] = Field({})
    seed: Seed | None = Field(None, description="null: the server picks one")
    priority: int = Field(0, ge=-100, le=100, description="higher is sooner")
    promote: Promote = Field("auto", description="whether the model may become the champion (an autoencoder: the `autoencoder`); auto: if it beats it")


class JobPage(Page):
    """Which part of the jobs, newest first."""

    state: jobs.State | None = None


class JobView(View):
    """A training job."""

    id: str
    state: jobs.State
    stalled: bool = Field(description="its worker let the lease run out; another may take it over")
    method: str
    dataset: str = Field(validation_alias="dataset_id")
    params: dict[str, Any]
    seed: int
    priority: int
    promote: Promote
    warnings: list[str]
    progress: float = Field(ge=0, le=1)
    stage: str | None
    eta_s: float | None = Field(description="seconds left at the pace so far")
    metrics: dict[str, float]
    attempts: int = Field(validation_alias="attempt")
    failures: int
    worker: str | None
    model_id: str | None
    model_deleted_at: datetime | None = Field(description="when that model was deleted: GET /models/{model_id} says by whom and why; null: it is there")
    verdict: VerdictView | None = Field(description="whether the model became champion, and why")
    error: str | None
    created_at: datetime
    started_at: datetime | None
    last_progress_at: datetime | None
    finished_at: datetime | None

    @computed_field(description="where it can be watched, and where its curves are")  # type: ignore[prop-decorator]
    @property
    def links(self) -> dict[str, str]:
        """Addresses by what is there."""
        return {what: f"/jobs/{self.id}/{what}" for what in ("events", "metrics")}


@router.post("/train", status_code=202, dependencies=[Depends(takes_json)], responses={202: {"headers": REPLAYED}})
def train(asked: TrainRequest, use: UseServices, response: Response, key: GivenKey) -> JobView:
    """Queues a training job; a worker takes it up. `Location` is where to watch it. A replayed answer shows the job as it is by then."""
    mine = None if key is None else Key("train", key, _fingerprint(asked))
    with use.db.read() as tx:
        made = idempotency.find(tx, mine)
    if made is None:  # else it matters no more whether the data can be had, or what an alias stands for by now
        request = _request(asked, use)
        with use.db.write() as tx:
            made = idempotency.once(tx, mine, lambda: _enqueue(tx, request))
    with use.db.read() as tx:
        job = jobs.get(tx, made.resource)
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers.update(warning_header(job.warnings))
    say(response, made)
    return JobView.model_validate(job)


@router.get("/jobs")
def list_jobs(page: Annotated[JobPage, Query()], use: UseServices) -> list[JobView]:
    """Jobs, newest first."""
    with use.db.read() as tx:
        return [JobView.model_validate(job) for job in jobs.page(tx, state=page.state, limit=page.limit, offset=page.offset)]


@router.get("/jobs/{job_id}")
def show_job(job_id: Name, use: UseServices) -> JobView:
    """A job: how far it is, and what came of it."""
    with use.db.read() as tx:
        return JobView.model_validate(jobs.get(tx, job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: Name, use: UseServices) -> JobView:
    """Cancels a job: a queued one at once, a running one within seconds. Its last checkpoint is kept for a day."""
    with use.db.write() as tx:
        return JobView.model_validate(jobs.cancel(tx, job_id))


def _fingerprint(asked: TrainRequest) -> str:
    """Of what was asked for, its defaults filled in: not of what the server then picked, which another time may be another."""
    complete = params.resolve(asked.method, asked.params).model_dump()
    return idempotency.fingerprint(asked.model_dump() | {"params": complete})


def _request(asked: TrainRequest, use: Services) -> jobs.Request:
    dataset, warnings = _choose(asked, use)
    return jobs.Request(
        method=asked.method,
        dataset_id=dataset.id,
        params=_resolve(asked, use, dataset),
        seed=secrets.randbits(32) if asked.seed is None else asked.seed,
        priority=asked.priority,
        promote=asked.promote,
        warnings=tuple(warnings),
    )


def _enqueue(tx: Connection, request: jobs.Request) -> Made:
    try:
        datasets.hold(tx, request.dataset_id)
    except NotFound as error:
        raise _no_dataset(error, request.dataset_id) from error
    if (classifier := request.params.get("classifier")) is not None:
        aliases.hold(tx)  # or it could be deleted between our look and the job's beginning
        try:
            registry.get(tx, classifier)
        except NotFound as error:
            raise _no_classifier(error, classifier) from error
    return Made(jobs.enqueue(tx, request).id)


def _resolve(asked: TrainRequest, use: Services, dataset: datasets.Dataset) -> dict[str, object]:
    """The complete params, an alias in ``classifier`` pinned to the model that it stands for now."""
    resolved = params.resolve(asked.method, asked.params).model_dump()
    if (name := resolved.get("classifier")) is None:
        return resolved
    try:
        with use.db.read() as tx:
            return resolved | {"classifier": registry.pin_classifier(tx, name, dataset_sha256=dataset.sha256, params=resolved)}
    except (NotFound, Conflict) as error:
        raise _no_classifier(error, name) from error


def _no_classifier(error: NotFound | Conflict, name: str) -> InvalidInput:
    return InvalidInput(error.detail, [Fault("/body/params/classifier", error.detail, expected="a registered classifier of the same rows", found=name)])


def _choose(asked: TrainRequest, use: Services) -> tuple[datasets.Dataset, list[str]]:
    try:
        return datasets.choose(use.db, use.settings, asked.dataset)
    except NotFound as error:
        raise _no_dataset(error, asked.dataset) from error


def _no_dataset(error: NotFound, found: str | None) -> InvalidInput:
    return InvalidInput(error.detail, [Fault("/body/dataset", error.detail, expected="a dataset's id", found=found)])
