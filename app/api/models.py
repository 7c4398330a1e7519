"""The registry over HTTP: models, their reports, their bundles, and the real rows behind them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, computed_field, field_validator
from starlette.responses import StreamingResponse

from app import datasets, provenance, registry, retention
from app.api.aliases import Change, author
from app.api.answers import FOR_EVER, REVALIDATE, conditional, media_type_of, tag_of, unchanged
from app.api.report_page import render
from app.api.samples import FORMATS, STREAM_ABOVE
from app.api.schemas import Asked, Format, Name, Page, ReportLineage, ReportView, Row, VerdictView, View
from app.api.services import UseServices
from app.bundle import FORMAT, Measure, digest
from app.errors import BundleInvalid, Conflict
from app.formats import ARROW, CHUNKS, CSV, JSON, NDJSON, PARQUET, Sheet
from app.wine import Wines

router = APIRouter(tags=["models"])

HTML = "text/html"
REPORT_FORMATS = {"json": JSON, "html": HTML}
ZIP = "application/zip"
BLOCK = 4096  # rows that are written at a time
NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'"  # the page needs nothing but its own style


class _ModelHead(View):
    id: str
    method: str
    aliases: list[str]
    dataset: str = Field(validation_alias="dataset_id")
    job_id: str | None
    created_at: datetime
    sha256: str
    size: int = Field(description="bytes of its bundle")
    pool: int = Field(description="rows made in advance, which are poured again and again; 0: a network pours new ones")


class ModelSummary(_ModelHead):
    """A registered model in a list: what its report measured, without floors, ceilings and spreads."""

    measures: dict[str, float]

    @field_validator("measures", mode="before")
    @classmethod
    def _values(cls, measures: dict[str, dict[str, float]]) -> dict[str, float]:
        return {name: measure["value"] for name, measure in measures.items()}


class ModelView(_ModelHead):
    """A registered model: what was measured of it, where it comes from, how it fared against the champion of its day."""

    measures: dict[str, Measure]
    lineage: dict[str, Any]
    verdict: VerdictView | None = Field(description="of the job that made it; null: it came with the package")

    @computed_field(description="where its whole report is")  # type: ignore[prop-decorator]
    @property
    def report(self) -> str:
        return f"/models/{self.id}/report"

    @computed_field(description="where its bundle is")  # type: ignore[prop-decorator]
    @property
    def bundle(self) -> str:
        return f"/models/{self.id}/bundle"


class ReportQuery(Asked):
    """How a report is shown."""

    format: Literal["json", "html"] | None = Field(None, description="none: as the Accept header asks, else JSON")


class RowsQuery(Asked):
    """Which of the real rows behind a model."""

    part: Literal["train", "holdout"] = Field("holdout", description="what it was trained on, or what its report was measured on")
    format: Format | None = Field(None, description="none: as the Accept header asks, else JSON")


_SAME: dict[str, object] = {"description": "the bytes that If-None-Match names"}
_STRING, _BINARY = {"schema": {"type": "string"}}, {"schema": {"type": "string", "format": "binary"}}
_REPORT: dict[int | str, dict[str, object]] = {200: {"model": ReportView, "content": {HTML: _STRING}}, 304: _SAME}
_BUNDLE: dict[int | str, dict[str, object]] = {200: {"content": {ZIP: _BINARY}}, 304: _SAME}
_ROWS: dict[int | str, dict[str, object]] = {
    200: {"model": list[Row], "content": {JSON: {}, NDJSON: _STRING, CSV: _STRING, PARQUET: _BINARY, ARROW: _BINARY}},
    304: _SAME,
}


@router.get("/models")
def list_models(page: Annotated[Page, Query()], use: UseServices) -> list[ModelSummary]:
    """Registered models, newest first, with what was measured of each."""
    with use.db.read() as tx:
        return [ModelSummary.model_validate(model) for model in registry.page(tx, limit=page.limit, offset=page.offset)]


@router.get("/models/{name}")
def show_model(name: Name, use: UseServices) -> ModelView:
    """A model by its id or an alias: its measures, its lineage, and the verdict on it."""
    with use.db.read() as tx:
        return ModelView.model_validate(registry.get(tx, name))


@router.delete("/models/{name}", status_code=204)
def delete_model(name: Name, asked: Annotated[Change, Query()], request: Request, use: UseServices) -> None:
    """Deletes a model for good: who asks for it later is told when, by whom and why (410), and so are its job and the history of aliases.

    Refused (409) while an alias stands for it, while a job that is not over starts from it, and for the starter model of
    this version. Answers under way are poured to their end; within seconds no server pours from it any more.
    """
    with use.db.write() as tx:
        retention.delete(tx, name, reason=asked.reason or "no reason given", by=author(asked.by, request))


@router.get("/models/{name}/report", responses=_REPORT, response_class=Response)
def show_report(name: Name, asked: Annotated[ReportQuery, Query()], request: Request, use: UseServices) -> Response:
    """The whole report of a model as JSON, or as a page to read: `format=html`, or what a browser asks for by itself."""
    media_type = media_type_of(request, asked.format, REPORT_FORMATS)
    with use.db.read() as tx:
        model = registry.get(tx, name)
    report = _report(model)
    body = render(report) if media_type == HTML else report.model_dump_json()
    headers = _about(model) | {"Cache-Control": REVALIDATE} | ({"Content-Security-Policy": NO_SCRIPTS} if media_type == HTML else {})
    return conditional(request, body.encode(), media_type=media_type, headers=headers)


@router.get("/models/{name}/bundle", responses=_BUNDLE, response_class=Response)
def download_bundle(name: Name, request: Request, use: UseServices) -> Response:
    """The model itself: ONNX graphs and a JSON manifest in a zip. Its `ETag` is its SHA-256."""
    with use.db.read() as tx:
        model = registry.get(tx, name)
    headers = {"Cuvee-Model": model.id, "Content-Disposition": f'attachment; filename="{model.id}.cuvee"', "Cache-Control": _cache(name, model)}
    headers |= {"ETag": f'"{model.sha256}"'}
    if (known := unchanged(request, headers)) is not None:
        return known
    with use.db.read() as tx:
        data, expected = registry.stored(tx, model.id)
    if (found := digest(data)) != expected:
        raise BundleInvalid(f"model {model.id} can't be downloaded: it was damaged where it is stored (expected SHA-256 {expected}, found {found})")
    return Response(data, headers=headers, media_type=ZIP)


@router.get("/models/{name}/rows", responses=_ROWS, response_class=Response)
def show_rows(name: Name, asked: Annotated[RowsQuery, Query()], request: Request, use: UseServices) -> Response:
    """The real rows that a model was trained on, or those that it never saw and its report was measured on (where a wine counts once)."""
    media_type = media_type_of(request, asked.format, FORMATS)
    with use.db.read() as tx:
        model = registry.get(tx, name)
        dataset = provenance.dataset(tx, model.id, model.lineage)
    pinned = urlencode({"part": asked.part, "format": next(short for short, known in FORMATS.items() if known == media_type)})
    headers = _about(model) | {"Cache-Control": _cache(name, model), "Content-Location": f"/models/{model.id}/rows?{pinned}"}
    headers |= {"ETag": _rows_tag(model, pinned)}
    if (known := unchanged(request, headers)) is not None:
        return known
    with use.db.read() as tx:
        content = datasets.content(tx, dataset.id)
    halves = provenance.rows(content, model.lineage)
    rows = halves.train if asked.part == "train" else halves.holdout
    if len(rows) == 0:
        raise Conflict(f"model {model.id} held no rows out: its report was measured on its training rows, part=train")
    chunks = CHUNKS[media_type](_sheets(rows), ())
    if len(rows) > STREAM_ABOVE:
        return StreamingResponse(chunks, headers=headers, media_type=media_type)
    return Response(b"".join(chunks), headers=headers, media_type=media_type)


def _report(model: registry.Model) -> ReportView:
    lineage = {**model.lineage["params"], **model.lineage}
    essentials = {field: lineage[field] for field in ReportLineage.model_fields}
    return ReportView.model_validate({**model.report, "model": model.id, "method": model.method, "pool": model.pool, "lineage": essentials})


def _rows_tag(model: registry.Model, pinned: str) -> str:
    """Strong: the bytes are a function of dataset, split, part and format."""
    params = model.lineage["params"]
    return tag_of(f"{FORMAT} {model.lineage['dataset_sha256']} {params['holdout']} {params['split_seed']} {pinned}")


def _sheets(wines: Wines) -> Iterator[Sheet]:
    for first in range(0, len(wines), BLOCK):
        yield Sheet(wines.take(slice(first, first + BLOCK)))


def _about(model: registry.Model) -> dict[str, str]:
    return {"Cuvee-Model": model.id, "Vary": "Accept"}


def _cache(name: str, model: registry.Model) -> str:
    """An id stands for the same model for ever; an alias may move."""
    return FOR_EVER if name == model.id else REVALIDATE
