"""Datasets over HTTP: list, show, upload, delete."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool

from app import datasets, idempotency, uploads
from app.api.bodies import TABLES, check_type, spooled
from app.api.idempotency import REPLAYED, GivenKey, say
from app.api.schemas import Asked, Name, Page, Printable, View
from app.api.services import Services, UseServices, warning_header
from app.datasets import Dataset
from app.errors import Conflict, NotFound
from app.formats import CSV
from app.idempotency import Key, Made
from app.uploads import Canonical
from app.wine import NAMES

router = APIRouter(tags=["datasets"])


class NewDataset(Asked):
    """What an upload says beside its bytes."""

    name: Printable = Field("upload", max_length=200)


class DeleteDataset(Asked):
    """How much a deletion may break."""

    force: bool = Field(False, description="also where jobs and models refer to it; their rows can't be shown or trained on any more")


class DatasetView(View):
    """A stored dataset."""

    id: str
    name: str
    source: str
    synthetic: bool
    rows: int
    snapped: int = Field(description="values that were moved to the decimal grid when it came in")
    sha256: str
    created_at: datetime


_TABLE: dict[str, Any] = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in TABLES}
_TABLE[CSV] = {"schema": {"type": "string"}, "example": ",".join(NAMES) + "\n7.4,0.7,0.0,1.9,0.076,11,34,0.9978,3.51,0.56,9.4,5,red\n"}
_BODY = {"requestBody": {"required": True, "content": _TABLE}}
_UPLOADED: dict[int | str, dict[str, Any]] = {
    200: {"model": DatasetView, "description": "these rows were stored already"},
    201: {"description": "stored", "headers": REPLAYED},
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


@router.post("/datasets", status_code=201, openapi_extra=_BODY, responses=_UPLOADED)
async def upload_dataset(request: Request, response: Response, asked: Annotated[NewDataset, Query()], use: UseServices, key: GivenKey) -> DatasetView:
    """Stores a table of the 13 columns (CSV, NDJSON, Parquet, Arrow); its `id` is what `POST /train` takes as `dataset`.

    The same rows in the same order have the same id, whatever they came in: uploaded again they are answered with 200
    and the dataset as it is. Every cell is looked at before anything is stored, and the first faults are listed.
    """
    media_type = check_type(request, TABLES)
    with await spooled(request) as file:
        dataset, made, warnings = await run_in_threadpool(_upload, use, file, media_type, asked.name, key)
    response.status_code = 201 if made.created else 200
    response.headers["Location"] = f"/datasets/{dataset.id}"
    response.headers.update(warning_header(warnings))
    say(response, made)
    return DatasetView.model_validate(dataset)


@router.delete("/datasets/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: Name, asked: Annotated[DeleteDataset, Query()], use: UseServices) -> None:
    """Drops the rows of a dataset. Refused with 409 while a job or model refers to it, unless `force`; while a job on it is not over, in any case."""
    with use.db.write() as tx:
        datasets.delete(tx, dataset_id, force=asked.force)


def _upload(use: Services, file: BinaryIO, media_type: str, name: str, given: str | None) -> tuple[Dataset, Made, tuple[str, ...]]:
    """The dataset of this table, how it came about, and what is to be said of it; a table that came before is not read again."""
    key = None if given is None else Key("datasets", given, _fingerprint(file, media_type, name))
    warnings: tuple[str, ...] = ()
    with use.db.read() as tx:
        made = idempotency.find(tx, key)
    if made is None:
        upload = uploads.read(file, media_type, max_bytes=use.settings.max_upload_bytes)
        warnings = upload.warnings
        with use.db.write() as tx:
            made = idempotency.once(tx, key, lambda: _add(tx, upload, name))
    try:
        with use.db.read() as tx:
            return datasets.get(tx, made.resource), made, warnings
    except NotFound as error:
        raise Conflict(f"what this Idempotency-Key made is there no more: {error.detail}, with another key") from error


def _fingerprint(file: BinaryIO, media_type: str, name: str) -> str:
    content = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    return idempotency.fingerprint(content, media_type, name)


def _add(tx: Connection, upload: Canonical, name: str) -> Made:
    dataset, created = datasets.add(tx, upload, name=name)
    return Made(dataset.id, created)
