"""``POST /score``: how real do these wines look, which quality do they deserve, and what looks off about them?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from functools import partial
from io import SEEK_END
from typing import Annotated, Any, BinaryIO

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app import tables
from app.api import queries
from app.api.answers import media_type_of
from app.api.bodies import JSON_TYPES, TABLES, check_type, spooled
from app.api.samples import FORMATS
from app.api.schemas import EXAMPLE, Asked, Body, Format, Name, Row, wines_of
from app.api.services import Services, UseServices, warning_header
from app.cellar import OpenModel, Served
from app.copula import Reason
from app.errors import Fault, InvalidInput
from app.faults import faults_of
from app.formats import ARROW, CHUNKS, CSV, JSON, NDJSON, PARQUET, Extra, Sheet
from app.registry import CHAMPION
from app.scorer import WIDTHS, Scores
from app.wine import COLUMNS, MEASUREMENTS, Wines, concatenate

router = APIRouter(tags=["score"])

AT_ONCE = WIDTHS[-1]  # rows that are scored in the event loop: with a turn on the pouring thread a request would cost an eighth more
SHORT = 2000  # rows of a table that is answered whole; the scores of a longer one are sent part by part
LIGHT = 2**16  # bytes of lines, read in some 4 ms, in the turn that scores them: another thread would cost a fortieth of 500 rows' scores


class ScoreRequest(Body):
    """Wines to be scored, and by which model."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rows": [EXAMPLE]}]})

    rows: Annotated[list[Row], FailFast()] = Field(min_length=1)  # a thousand bad rows would make ten thousand faults
    model: Name = "champion"
    explain: bool = Field(False, description="say for each wine which measurements look off")


class ScoreQuery(Asked):
    """What a table to be scored can't say itself; a JSON body says it in its own fields."""

    model: Name | None = Field(None, description="a model's id or an alias; none: champion")
    explain: bool | None = Field(None, description="say for each wine which measurement looks off")
    format: Format | None = Field(None, description="none: as the Accept header asks, else as the body came")


class ReasonView(BaseModel):
    """A measurement that does not go with a wine's others."""

    measurement: str
    found: float
    expected: float = Field(description="what would go with the others")
    surprise: float = Field(description="how far off it is, in standard deviations given the others")


class ScoreView(BaseModel):
    """What a model thinks of one wine."""

    p_real: float | None = Field(None, ge=0, le=1, description="the critic's, or the discriminator's where the model has no critic; null: it has neither")
    discriminator: float | None = Field(
        None, ge=0, le=1, description="the share of real wines among those and as many of the model's own rows; null: the model has no discriminator"
    )
    critic: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the share of real wines among those and as many that are none, a third the model's own rows, half real wines with one to three columns "
        "tampered with, a sixth columns shuffled; null: the model was trained on too few wines for a critic",
    )
    percentile: float | None = Field(
        None, ge=0, le=1, description="the share of real wines, of those that the critic has not seen, that look less real to it; null: no critic"
    )
    predicted_quality: int | None = Field(None, description="the classifier's; null: the model has none")
    reasons: list[ReasonView] | None = Field(None, description="what looks off, the strongest first, at most three; null: nobody asked (explain)")


class ScoreAnswer(BaseModel):
    """One score per row, in the rows' order."""

    model: str
    rows: list[ScoreView]


_STRING, _BINARY = {"schema": {"type": "string"}}, {"schema": {"type": "string", "format": "binary"}}
_OPENAPI: dict[str, Any] = queries.parameters(ScoreQuery) | {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": queries.schema(ScoreRequest)}, CSV: _STRING, NDJSON: _STRING, PARQUET: _BINARY, ARROW: _BINARY},
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "scores in the rows' order; in the other formats than JSON, beside the rows",
        "model": ScoreAnswer,
        "content": {JSON: {}, CSV: _STRING, NDJSON: _STRING, PARQUET: _BINARY, ARROW: _BINARY},
    }
}


@router.post("/score", openapi_extra=_OPENAPI, responses=_RESPONSES, response_class=Response)
async def score(request: Request, asked: Annotated[ScoreQuery, Depends(queries.read(ScoreQuery))], use: UseServices) -> Response:
    """How real each row looks to the critic (`p_real`, `percentile`) and to the discriminator, and the classifier's `predicted_quality`.

    The critic was taught after the GAN to tell real wines from the model's own rows, from real wines with one to
    three columns tampered with, and from columns shuffled: `p_real` is the share of real wines among as many of each,
    of those that look like this one. A real wine is mostly given about 0.6, because the model's own rows look as
    real; one that no winery makes comes near 0. `percentile` ranks it among real wines. `explain` adds which
    measurements do not go with the others, and what would.

    Rows come as JSON (`{"rows": [...]}`), CSV, NDJSON, Parquet or Arrow, and scores go in the same format unless
    another is asked for. A table is read through before the first score is sent, so that a bad cell is an error and
    not half an answer; then it is scored and sent part by part.
    """
    came = check_type(request, (*JSON_TYPES, *TABLES))
    goes = FORMATS[asked.format] if asked.format else media_type_of(request, None, {"same": came} | FORMATS)
    if came == JSON:
        return await _score_rows(await request.body(), asked, use, goes)
    return await _score_table(request, came, asked, use, goes)


async def _score_rows(body: bytes, asked: ScoreQuery, use: Services, goes: str) -> Response:
    try:
        given = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        faults = faults_of(error.errors(), at=("body",))
        raise InvalidInput("; ".join(f.detail for f in faults[:3]), faults) from error
    if twice := [name for name in ("model", "explain") if getattr(asked, name) is not None]:
        detail = f"{twice[0]}: expected in the JSON body, found in the query"
        raise InvalidInput(detail, [Fault(f"/query/{twice[0]}", detail, expected="a field of the body", found="a query parameter")])
    if len(given.rows) > use.settings.max_score_rows:
        limit = use.settings.max_score_rows
        detail = f"rows: expected at most {limit} in one JSON body, found {len(given.rows)}; a table (CSV, NDJSON, Parquet, Arrow) may be longer"
        raise InvalidInput(detail, [Fault("/body/rows", detail, expected=f"at most {limit}", found=str(len(given.rows)))])
    served = await use.open(given.model)
    answered = _views if goes == JSON else partial(_beside, goes=goes)

    def answer() -> Response:
        return answered(served, wines_of(given.rows), explain=given.explain)

    at_once = goes == JSON and len(given.rows) <= AT_ONCE and not given.explain and served.model.scorer_is_built
    return answer() if at_once else await use.pour(answer)


async def _score_table(request: Request, came: str, asked: ScoreQuery, use: Services, goes: str) -> Response:
    served = await use.open(asked.model or CHAMPION)
    model = served.model
    tell = partial(_columns, model, explain=bool(asked.explain))
    columns = tell() if model.scorer_is_built else await use.pour(tell)
    beside = partial(_beside, served, goes=goes, explain=bool(asked.explain))
    with ExitStack() as stack:
        file = stack.enter_context(await spooled(request))
        check = partial(_checked, file, came, use.settings.max_rows, model)

        def checked_and_scored() -> Response | None:
            whole = check()
            return None if whole is None else beside(whole)

        if came in (CSV, NDJSON) and _size(file) <= LIGHT:
            if (answer := await use.pour(checked_and_scored)) is not None:
                return answer
        elif (whole := await run_in_threadpool(check)) is not None:
            return await use.pour(partial(beside, whole))
        stack.pop_all()  # the file is closed when the answer is sent
    file.seek(0)
    sheets = (_sheet(model, part.wines, columns) for part in tables.parts(file, came))
    chunks = CHUNKS[goes](sheets, columns)
    return StreamingResponse(_sent(use.stream(chunks), file), media_type=goes, headers=_about(served))


def _size(file: BinaryIO) -> int:
    """In bytes; it is at its start afterwards."""
    size = file.seek(0, SEEK_END)
    file.seek(0)
    return size


async def _sent(chunks: AsyncIterator[bytes], file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        async for chunk in chunks:
            yield chunk


def _checked(file: BinaryIO, came: str, limit: int, model: OpenModel) -> Wines | None:
    """Reads the table through, and returns it where it is a short one, so that it need not be read again.

    ``InvalidInput`` for a cell that is no wine's, a type that the model never saw, or no row; else as ``tables.parts``.
    """
    rows, kept = 0, []
    for part in tables.parts(file, came, most=limit):
        model.scorer.check(part.wines, first=rows)
        rows += len(part.wines)
        if rows <= SHORT:
            kept.append(part.wines)
    if rows == 0:
        raise InvalidInput("expected a table with at least one row, found none", [Fault("/body", "expected at least one row", expected="rows", found="none")])
    return concatenate(kept) if rows <= SHORT else None


def _columns(model: OpenModel, *, explain: bool) -> tuple[str, ...]:
    """The columns that this model can fill, in their order; ``Conflict`` if it can't explain."""
    if explain:
        model.scorer.check_reasons()
    told = tuple(name for name in Scores.__dataclass_fields__ if name in model.scorer.columns)
    return told + (("reason", "reason_expected") if explain else ())


def _sheet(model: OpenModel, wines: Wines, columns: tuple[str, ...]) -> Sheet:
    """The wines with their scores beside them, and the strongest reason where asked."""
    extra: dict[str, Any] = {name: values for name, values in vars(model.scorer.score(wines)).items() if name in columns}
    if "reason" in columns:
        strongest = [found[0] if found else None for found in model.scorer.reasons(wines)]
        extra["reason"] = np.array([r and MEASUREMENTS[r.column] for r in strongest], dtype=object)
        extra["reason_expected"] = np.array([r and _unit(r.column, r.expected) for r in strongest], dtype=object)
    ordered: Extra = {name: extra[name] for name in columns}
    return Sheet(wines, ordered)


def _beside(served: Served, wines: Wines, *, goes: str, explain: bool) -> Response:
    """The wines with their scores beside them, in one of the formats of tables."""
    columns = _columns(served.model, explain=explain)
    return Response(b"".join(CHUNKS[goes]([_sheet(served.model, wines, columns)], columns)), media_type=goes, headers=_about(served))


def _views(served: Served, wines: Wines, *, explain: bool) -> Response:
    """The scores alone, as JSON: a ``ScoreAnswer``, written without making its objects."""
    model = served.model
    columns: dict[str, Iterable[Any]] = {name: [None] * len(wines) for name in ScoreView.model_fields}
    columns |= {name: values.tolist() for name, values in vars(model.scorer.score(wines)).items() if values is not None}
    if explain:
        columns["reasons"] = [[_reason(reason, row) for reason in found] for found, row in zip(model.scorer.reasons(wines), wines.ticks.tolist(), strict=True)]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Response(to_json({"model": model.bundle.id, "rows": rows}, inf_nan_mode="null"), media_type=JSON, headers=_about(served))


def _reason(reason: Reason, ticks: list[int]) -> ReasonView:
    return ReasonView(
        measurement=MEASUREMENTS[reason.column],
        found=_unit(reason.column, ticks[reason.column]),
        expected=_unit(reason.column, reason.expected),
        surprise=round(reason.surprise, 2),
    )


def _unit(column: int, tick: int) -> float:
    return tick / COLUMNS[column].scale


def _about(served: Served) -> dict[str, str]:
    return {"Cuvee-Model": served.model.bundle.id, "Vary": "Accept, Content-Type", **warning_header(served.warnings)}
