"""``GET /samples``: rows of the infinite table, and the headers that make the answer a receipt."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from app import noise
from app.api.answers import FOR_EVER, REVALIDATE, has, media_type_of, tag_of
from app.api.schemas import Row, SampleQuery
from app.api.services import Services, UseServices, warning_header
from app.bundle import FORMAT
from app.cellar import OpenModel
from app.errors import Fault, InvalidInput
from app.formats import CHUNKS, CSV, JSON
from app.inference import arithmetic
from app.sampler import Condition

router = APIRouter(tags=["samples"])

STREAM_ABOVE = 20_000  # rows; smaller answers are made whole and say their length
FORMATS = {"json": JSON, "csv": CSV}

_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {
        "description": "exactly n rows",
        "content": {
            JSON: {"schema": {"type": "array", "items": Row.model_json_schema()}},
            CSV: {"schema": {"type": "string"}},
        },
    },
    304: {"description": "the rows that If-None-Match names"},
}


@dataclass(frozen=True)
class _Pinned:
    """A request with nothing left open: it always means the same bytes."""

    model_id: str
    seed: int
    offset: int
    n: int
    condition: Condition
    media_type: str

    def url(self, *, offset: int) -> str:
        """The request as a URL, from row ``offset``."""
        labels = [("quality", q) for q in self.condition.qualities] + [("type", t) for t in self.condition.types]
        name = next(name for name, media_type in FORMATS.items() if media_type == self.media_type)
        pairs = [("n", self.n), *labels, ("seed", self.seed), ("offset", offset), ("model", self.model_id), ("format", name)]
        return "/samples?" + urlencode(pairs)

    @property
    def etag(self) -> str:
        """Strong: the bytes are a function of the pinned request, the two layouts and the arithmetic of this process."""
        return tag_of(f"{FORMAT} {noise.LAYOUT} {arithmetic()} {self.url(offset=self.offset)}")


@router.get("/samples", responses=_RESPONSES, response_class=Response)
async def samples(asked: Annotated[SampleQuery, Query()], request: Request, use: UseServices) -> Response:
    """Exactly `n` synthetic wines: a bare array, or CSV. The URL in `Content-Location` returns these very bytes for ever."""
    if asked.n > use.settings.max_rows:
        detail = f"n: expected at most {use.settings.max_rows} rows in one answer, found {asked.n}; go on with offset"
        raise InvalidInput(detail, [Fault("/query/n", detail, expected=f"at most {use.settings.max_rows}", found=str(asked.n))])
    media_type = media_type_of(request, asked.format, FORMATS)
    condition = Condition(tuple(sorted(set(asked.quality))), tuple(sorted(set(asked.type))))
    model, warnings = await use.pour(lambda: _open(use, asked.model, condition))
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    pinned = _Pinned(model.bundle.id, seed, asked.offset, asked.n, condition, media_type)
    is_pinned = asked.seed is not None and asked.model == model.bundle.id
    headers = _headers(pinned, warnings, cache=FOR_EVER if is_pinned else REVALIDATE, pool=model.bundle.manifest.pool)
    if has(request.headers.get("if-none-match", ""), pinned.etag):
        return Response(status_code=304, headers=headers)
    chunks = CHUNKS[media_type](model.sampler.blocks(condition, seed=seed, offset=asked.offset, n=asked.n))
    if asked.n > STREAM_ABOVE:
        return StreamingResponse(_poured(use, chunks), headers=headers, media_type=media_type)
    return Response(await use.pour(lambda: b"".join(chunks)), headers=headers, media_type=media_type)


def _open(use: Services, name: str, condition: Condition) -> tuple[OpenModel, list[str]]:
    model = use.cellar.get(name)
    return model, model.sampler.check(condition)


def _headers(pinned: _Pinned, warnings: list[str], *, cache: str, pool: int) -> dict[str, str]:
    following = pinned.offset + pinned.n
    return {
        "Cuvee-Model": pinned.model_id,
        "Cuvee-Seed": str(pinned.seed),
        "Content-Location": pinned.url(offset=pinned.offset),
        **({"Link": f'<{pinned.url(offset=following)}>; rel="next"'} if following < noise.MAX_ROW else {}),
        **({"Cuvee-Pool": str(pool)} if pool else {}),
        "ETag": pinned.etag,
        "Cache-Control": cache,
        "Vary": "Accept",
        **warning_header(warnings),
    }


async def _poured(use: Services, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, each made when the client has taken the one before."""
    while chunk := await use.pour(lambda: next(chunks, b"")):
        yield chunk
