"""Datasets over HTTP: list, show, upload."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app import datasets
from app.api.bodies import CSV_TYPES, check_type
from app.api.schemas import DatasetView, Name, NewDataset, Page
from app.api.services import UseServices
from app.wine import NAMES

router = APIRouter(tags=["datasets"])

_CSV_BODY = {
    "requestBody": {
        "required": True,
        "content": {"text/csv": {"schema": {"type": "string"}, "example": ",".join(NAMES) + "\n7.4,0.7,0.0,1.9,0.076,11,34,0.9978,3.51,0.56,9.4,5,red\n"}},
    }
}


@router.get("/datasets")
def list_datasets(page: Annotated[Page, Query()], use: UseServices) -> list[DatasetView]:
    """Stored datasets, newest first. `uci` appears when it is first used; `starter` is always there."""
    with use.db.read() as tx:
        return [DatasetView.model_validate(dataset) for dataset in datasets.page(tx, limit=page.limit, offset=page.offset)]


@router.get("/datasets/{dataset_id}")
def show_dataset(dataset_id: Name, use: UseServices) -> DatasetView:
    """A dataset, without its rows."""
    with use.db.read() as tx:
        return DatasetView.model_validate(datasets.get(tx, dataset_id))


@router.post("/datasets", status_code=201, openapi_extra=_CSV_BODY)
async def upload_dataset(request: Request, response: Response, asked: Annotated[NewDataset, Query()], use: UseServices) -> DatasetView:
    """Stores a CSV with the 13 columns; its `id` is what `POST /train` takes as `dataset`. The same rows have the same id."""
    check_type(request, CSV_TYPES)
    dataset = await run_in_threadpool(datasets.upload, use.db, await request.body(), name=asked.name)
    response.headers["Location"] = f"/datasets/{dataset.id}"
    return DatasetView.model_validate(dataset)
