"""``POST /train`` and the jobs it makes."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app import datasets, jobs, params, registry
from app.api.bodies import takes_json
from app.api.schemas import JobPage, JobView, Name, TrainRequest
from app.api.services import Services, UseServices, warning_header
from app.errors import Conflict, Fault, InvalidInput, NotFound
from app.jobs import Request

router = APIRouter(tags=["training"])


@router.post("/train", status_code=202, dependencies=[Depends(takes_json)])
def train(asked: TrainRequest, use: UseServices, response: Response) -> JobView:
    """Queues a training job; a worker takes it up. `Location` is where to watch it."""
    dataset, warnings = _choose(asked, use)
    resolved = _resolve(asked, use, dataset)
    request = Request(
        method=asked.method,
        dataset_id=dataset.id,
        params=resolved,
        seed=secrets.randbits(32) if asked.seed is None else asked.seed,
        priority=asked.priority,
        promote=asked.promote,
        warnings=tuple(warnings),
    )
    with use.db.write() as tx:
        job = jobs.enqueue(tx, request)
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers.update(warning_header(warnings))
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
    """Cancels a job: a queued one at once, a running one within seconds. Its last checkpoint is kept."""
    with use.db.write() as tx:
        return JobView.model_validate(jobs.cancel(tx, job_id))


def _resolve(asked: TrainRequest, use: Services, dataset: datasets.Dataset) -> dict[str, object]:
    """The complete params, an alias in ``classifier`` pinned to the model that it stands for now."""
    resolved = params.resolve(asked.method, asked.params).model_dump()
    if (name := resolved.get("classifier")) is None:
        return resolved
    try:
        with use.db.read() as tx:
            return resolved | {"classifier": registry.pin_classifier(tx, name, dataset_sha256=dataset.sha256, params=resolved)}
    except (NotFound, Conflict) as error:
        raise InvalidInput(
            error.detail, [Fault("/body/params/classifier", error.detail, expected="a registered classifier of the same rows", found=name)]
        ) from error


def _choose(asked: TrainRequest, use: Services) -> tuple[datasets.Dataset, list[str]]:
    try:
        return datasets.choose(use.db, use.settings, asked.dataset)
    except NotFound as error:
        raise InvalidInput(error.detail, [Fault("/body/dataset", error.detail, expected="a dataset's id", found=asked.dataset)]) from error
