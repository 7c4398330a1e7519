"""``GET /samples``: rows of the infinite table, and the headers that make the answer a receipt."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, Literal, NotRequired
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field, create_model
from starlette.responses import StreamingResponse
from typing_extensions import TypedDict

from app import noise
from app.api import conditions, queries
from app.api.answers import FOR_EVER, REVALIDATE, has, media_type_of, tag_of
from app.api.schemas import EXAMPLE, ROW_FIELDS, Asked, Format, Name, Seed
from app.api.services import Services, UseServices, authorised, warning_header
from app.bundle import FORMAT
from app.cellar import OpenModel, Served
from app.errors import Fault, InvalidInput
from app.formats import ARROW, CHUNKS, CSV, JSON, NDJSON, PARQUET, Extra, Sheet, writer
from app.inference import arithmetic
from app.sampler import MIN_DCR, Condition, Odds, Poured
from app.wine import COLUMNS

router = APIRouter(tags=["samples"])

AHEAD = 1000  # rows of an answer that may be poured ahead
STREAM_ABOVE = 20_000  # rows; smaller answers are made whole and say their length
PATIENCE = 2  # times the rows that a request may make, by the estimate, after which it is given up
FORMATS = {"json": JSON, "csv": CSV, "ndjson": NDJSON, "parquet": PARQUET, "arrow": ARROW}

Include = Literal["row", "p_real", "predicted_quality"]


class _SampleQuery(conditions.Conditions):
    """Which rows of which model."""

    n: int = Field(100, ge=1, description="rows")
    seed: Seed | None = Field(None, description="which table; none: the server picks one and says it")
    offset: int = Field(0, ge=0, lt=noise.MAX_ROW, description="the first position in the table; rows beyond the limits keep theirs")
    model: Name = Field("champion", description="a model's id or an alias")
    include: list[Include] = Field([], max_length=3, description="repeatable; further columns: the position in the table, and what the model's own judges say")
    format: Format | None = Field(None, description="none: as the Accept header asks, else JSON")


SampleQuery = create_model("SampleQuery", __base__=_SampleQuery, __doc__=_SampleQuery.__doc__, **conditions.LIMITS)


_INCLUDED: dict[str, Any] = {
    "row": NotRequired[Annotated[int, Field(ge=0, lt=noise.MAX_ROW, description="its position in the table")]],
    "p_real": NotRequired[Annotated[float, Field(ge=0, le=1, description="how real it looks to the critic, or to the discriminator where there is no critic")]],
    "predicted_quality": NotRequired[Annotated[int, Field(description="the classifier's")]],
}
SampleRow = TypedDict("SampleRow", {**ROW_FIELDS, **_INCLUDED})  # type: ignore[misc]
SampleRow.__doc__ = "A wine, and what `include` asks for beside it."
SampleRow.__pydantic_config__ = ConfigDict(**Asked.model_config, json_schema_extra={"examples": [EXAMPLE]})  # type: ignore[attr-defined]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": list[SampleRow],
        "description": "exactly n rows",
        "content": {
            JSON: {},  # of the model, and the one that the documentation shows first
            NDJSON: {"schema": {"type": "string"}},
            CSV: {"schema": {"type": "string"}},
            PARQUET: _BINARY,
            ARROW: _BINARY,
        },
    },
    304: {"description": "the rows that If-None-Match names"},
}
_PARAMETERS = queries.parameters(SampleQuery)


@dataclass(frozen=True)
class _Pinned:
    """A request with nothing left open: it always means the same bytes. With seed 0 also the kind of all that differ in the seed only."""

    model_id: str
    seed: int
    offset: int
    n: int
    condition: Condition
    include: tuple[str, ...]
    media_type: str

    def url(self, *, offset: int) -> str:
        """The request as a URL, from row ``offset``."""
        before, after = self._around_offset
        return f"{before}{offset}{after}"

    @cached_property
    def _around_offset(self) -> tuple[str, str]:
        asked = self.condition
        pairs: list[tuple[str, object]] = [("n", self.n), *(("quality", q) for q in asked.qualities), *(("type", t) for t in asked.types)]
        pairs += [("mix", "balanced")] if asked.balanced else []
        for limit in asked.ranges:
            scale = COLUMNS[limit.column].scale
            pairs += [(f"{limit.name}_min", f"{limit.low / scale:g}"), (f"{limit.name}_max", f"{limit.high / scale:g}")]
        pairs += [(MIN_DCR, f"{asked.min_dcr:g}")] if asked.min_dcr else []
        name = next(name for name, media_type in FORMATS.items() if media_type == self.media_type)
        pairs += [*(("include", i) for i in self.include), ("seed", self.seed)]
        return f"/samples?{urlencode(pairs)}&offset=", "&" + urlencode([("model", self.model_id), ("format", name)])

    @cached_property
    def etag(self) -> str:
        """Strong: the bytes are a function of the pinned request, the layouts, the arithmetic of this process and who writes them."""
        by = writer(self.media_type, self.include)
        return tag_of(f"{FORMAT} {noise.LAYOUT} {arithmetic()} {by} {self.url(offset=self.offset)}")


@router.head("/samples", include_in_schema=False, openapi_extra=_PARAMETERS)
@router.get("/samples", responses=_RESPONSES, response_class=Response, openapi_extra=_PARAMETERS)
async def samples(asked: Annotated[Any, Depends(queries.read(SampleQuery))], request: Request, use: UseServices) -> Response:
    """Exactly `n` synthetic wines: a bare array, or NDJSON, CSV, Parquet, Arrow. The URL in `Content-Location` returns these very bytes for ever.

    With limits on measurements (`alcohol_min=12`) rows beyond them are passed over: `offset` counts positions in the
    table, passed-over ones too, and `Link: rel="next"` goes on where this answer ends (a streamed answer with limits
    has none: `include=row` tells the last position). What would mean making more rows than the deployment allows is
    refused before any is made; `POST /samples/check` tells beforehand.

    `min_dcr` (distance to the closest training record) passes over rows nearer than that to a training row, and
    `Cuvee-Redrawn` says how many these were; in a streamed answer it is an estimate, `1234;estimated`. The distance is that of the
    report: Euclidean over all 13 columns, each in its standard deviations among the training rows. Its measure `dcr_p5`
    has at its ceiling what all but 5 % of unseen real wines keep: a `min_dcr` of that much leaves no near copy. What comes is never nearer than
    asked; the model holds its training rows coarsely, so some rows are passed over that are a little farther.
    """
    media_type = media_type_of(request, asked.format, FORMATS)
    condition = conditions.wanted(asked, use.settings)
    limit = None if authorised(request, use.settings) else use.settings.max_rows
    if limit is not None and asked.n > limit:
        detail = f"n: expected at most {limit} rows in one answer, found {asked.n}; go on with offset"
        raise InvalidInput(detail, [Fault("/query/n", detail, expected=f"at most {limit}", found=str(asked.n))])
    if asked.offset + asked.n > noise.MAX_ROW:
        detail = f"offset: expected the last row before {noise.MAX_ROW}, where the table ends, found {asked.offset} and {asked.n} rows"
        raise InvalidInput(detail, [Fault("/query/offset", detail, expected=f"at most {noise.MAX_ROW - asked.n}", found=str(asked.offset))])
    served = await use.open(asked.model)
    kind = _Pinned(served.model.bundle.id, 0, asked.offset, asked.n, condition, tuple(sorted(set(asked.include))), media_type)
    if asked.seed is None and request.method == "GET" and "if-none-match" not in request.headers and _is_simple(kind, served.model):
        return await _of_any_seed(use, served, kind)
    pinned = replace(kind, seed=secrets.randbits(32) if asked.seed is None else asked.seed)
    cache = FOR_EVER if asked.seed is not None and asked.model == pinned.model_id else REVALIDATE
    answer = await use.pour(partial(_begin, served, pinned, request=request, cache=cache, limit=limit))
    if isinstance(answer, Response):
        return answer
    if asked.n > STREAM_ABOVE:
        return StreamingResponse(use.stream(answer.chunks), headers=answer.headers | _next(answer.pinned, None), media_type=media_type)
    return answer.whole(await _by_steps(use, answer.chunks, request))


@dataclass(frozen=True)
class _Begun:
    """An answer whose rows are still to be poured."""

    pinned: _Pinned
    headers: dict[str, str]
    blocks: _Followed
    chunks: Iterator[bytes]

    def at_once(self) -> Response:
        """The answer, all of its rows poured now."""
        return self.whole(b"".join(self.chunks))

    def whole(self, body: bytes) -> Response:
        """The answer, now that its rows are there."""
        redrawn = {"Cuvee-Redrawn": str(self.blocks.redrawn)} if self.pinned.condition.min_dcr else {}
        return Response(body, headers=self.headers | redrawn | _next(self.pinned, self.blocks.last), media_type=self.pinned.media_type)


def _is_simple(kind: _Pinned, model: OpenModel) -> bool:
    """Whether it is quick to tell that such an answer can be given, and what it must be read with: no networks are run or built for that."""
    return kind.n <= AHEAD and not kind.condition.limited and (set(kind.include) <= {"row"} or model.scorer_is_built)


async def _of_any_seed(use: Services, served: Served, kind: _Pinned) -> Response:
    """A whole answer like ``kind`` but for the seed: one that was poured ahead, or one poured now."""
    warnings = _warnings(served, kind, limit=None)

    def make() -> Response:
        return _poured(served.model, replace(kind, seed=secrets.randbits(32)), warnings, cache=REVALIDATE, most=None).at_once()

    return await use.ahead.answer((kind, *warnings), make)


def _begin(served: Served, pinned: _Pinned, *, request: Request, cache: str, limit: int | None) -> Response | _Begun:
    """The whole answer where it is a short one, so that the pouring thread is asked once; else its beginning. A typed error if it can't be met."""
    condition, model = pinned.condition, served.model
    begun = _poured(model, pinned, _warnings(served, pinned, limit=limit), cache=cache, most=PATIENCE * limit if limit and condition.limited else None)
    tags = request.headers.get("if-none-match")
    known = tags is not None and has(tags, pinned.etag)
    if known or request.method == "HEAD":
        answer = Response(status_code=304 if known else 200, headers=begun.headers | _next(pinned, None), media_type=None if known else pinned.media_type)
        del answer.headers["Content-Length"]  # that of the rows is known once they are poured
        return answer
    streamed = pinned.n > STREAM_ABOVE
    if streamed and condition.min_dcr:
        begun.headers.update(_estimate(model.sampler.odds(condition), pinned.n))
    return begun if condition.limited or streamed else begun.at_once()


def _warnings(served: Served, pinned: _Pinned, *, limit: int | None) -> list[str]:
    """What the answer must be read with; a typed error if it can't be given."""
    left = noise.MAX_ROW - pinned.offset  # rows of the table, of which some may be passed over
    return [
        *served.warnings,
        *conditions.warnings_of(served.model, pinned.condition, pinned.include, n=pinned.n, limit=left if limit is None else min(limit, left)),
    ]


def _poured(model: OpenModel, pinned: _Pinned, warnings: list[str], *, cache: str, most: int | None) -> _Begun:
    blocks = _Followed(model.sampler.blocks(pinned.condition, seed=pinned.seed, offset=pinned.offset, n=pinned.n, most=most))
    chunks = CHUNKS[pinned.media_type](_sheets(model, blocks, pinned.include), pinned.include)
    return _Begun(pinned, _headers(pinned, warnings, cache=cache, pool=model.bundle.manifest.pool), blocks, chunks)


async def _by_steps(use: Services, chunks: Iterator[bytes], request: Request) -> bytes:
    """All chunks, with others' work between them; no further once the client has left."""
    made = []
    while (chunk := await use.pour(lambda: next(chunks, None))) is not None and not await request.is_disconnected():
        made.append(chunk)
    return b"".join(made)


class _Followed:
    """An iterator of blocks that remembers the last row that went through it, and how many were passed over for ``min_dcr``."""

    def __init__(self, blocks: Iterable[Poured]) -> None:
        self._blocks, self.last, self.redrawn = blocks, -1, 0

    def __iter__(self) -> Iterator[Poured]:
        for block in self._blocks:
            self.last = int(block.rows[-1]) if len(block.rows) else self.last
            self.redrawn += block.redrawn
            yield block


def _sheets(model: OpenModel, blocks: Iterable[Poured], include: tuple[str, ...]) -> Iterator[Sheet]:
    judged = any(name != "row" for name in include)
    for block in blocks:
        scores = vars(model.scorer.score(block.wines)) if judged else {}
        extra: Extra = {name: block.rows if name == "row" else scores[name] for name in include}
        yield Sheet(block.wines, extra)


def _estimate(odds: Odds, n: int) -> dict[str, str]:
    """What a streamed answer says in the place of a count, which its head can't know (RFC 9651: an integer with a parameter)."""
    return {"Cuvee-Redrawn": f"{round(n * odds.redrawn / (1 - odds.redrawn))};estimated"}


def _headers(pinned: _Pinned, warnings: list[str], *, cache: str, pool: int) -> dict[str, str]:
    return {
        "Cuvee-Model": pinned.model_id,
        "Cuvee-Seed": str(pinned.seed),
        **({"Cuvee-Pool": str(pool)} if pool else {}),
        "Content-Location": pinned.url(offset=pinned.offset),
        "ETag": pinned.etag,
        "Cache-Control": cache,
        "Vary": "Accept",
        **warning_header(warnings),
    }


def _next(pinned: _Pinned, last: int | None) -> dict[str, str]:
    """``Link`` to what follows; none where the end of this answer is not known beforehand, nor at the end of the table."""
    if last is None:
        if pinned.condition.limited:
            return {}
        last = pinned.offset + pinned.n - 1
    return {"Link": f'<{pinned.url(offset=last + 1)}>; rel="next"'} if last + 1 < noise.MAX_ROW else {}
