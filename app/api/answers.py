"""What answers have in common: the media type that the asker likes best, and tags that spare sending the same bytes twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from fastapi import Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware, add_compress_type

from app.errors import Fault, NotAcceptable
from app.formats import ARROW, CSV, NDJSON

FOR_EVER = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")  # RFC 9110, 12.4.2


class Compressed:
    """ASGI middleware: answers in zstd, brotli or gzip for who accepts one. Their tags become weak, since the bytes are others (RFC 9110, 8.8.1).

    A 304 has the tag and the ``Vary`` of the answer that it stands for: whoever has that one stored puts them in their place (RFC 9111, 4.3.4).
    """

    def __init__(self, app: ASGIApp) -> None:
        for media_type in (CSV, NDJSON, ARROW):
            add_compress_type(media_type)
        self._compress = CompressMiddleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def weakened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                known = message["status"] == HTTPStatus.NOT_MODIFIED
                if known:
                    headers.add_vary_header("Accept-Encoding")
                if headers.get("etag", "").startswith('"') and ("content-encoding" in headers or (known and _is_weak(scope, headers["etag"]))):
                    headers["etag"] = f"W/{headers['etag']}"
            await send(message)

        await self._compress(scope, receive, weakened)


def _is_weak(scope: Scope, etag: str) -> bool:
    """Whether the asker has these bytes as they were compressed."""
    return f"W/{etag}" in Headers(scope=scope).get("if-none-match", "")


def conditional(request: Request, body: bytes, *, media_type: str, headers: Mapping[str, str]) -> Response:
    """The body under a strong tag, its SHA-256; 304 and no body for who has it already."""
    tagged = {**headers, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
    return unchanged(request, tagged) or Response(body, headers=tagged, media_type=media_type)


def unchanged(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304 for who has the bytes of the ``ETag`` among these headers already; for others none, and the bytes are still to be made."""
    return Response(status_code=304, headers=headers) if has(request.headers.get("if-none-match", ""), headers["ETag"]) else None


def tag_of(means: str) -> str:
    """A strong tag of bytes that are a function of what this says."""
    return f'"{hashlib.sha256(means.encode()).hexdigest()[:32]}"'


def has(if_none_match: str, etag: str) -> bool:
    """Whether the client holds these bytes already; a proxy that compresses marks a tag as weak (RFC 9110, 13.1.2)."""
    return etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(",")) or if_none_match.strip() == "*"


def media_type_of(request: Request, short: str | None, offered: Mapping[str, str]) -> str:
    """The media type asked for by its short name in the query, or else by the Accept header; ``NotAcceptable`` if that likes none."""
    return offered[short] if short else preferred(", ".join(request.headers.getlist("accept")), offered.values())


def preferred(accept: str, offered: Iterable[str]) -> str:
    """The media type that an Accept header likes best among those offered, the first of equals; ``NotAcceptable`` if it likes none.

    An empty header likes everything. A weight that is not one (RFC 9110, 12.4.2) counts as 0.
    """
    weights: dict[str, float] = {}
    for entry in (accept.strip() or "*/*").split(","):
        media_range, *parameters = (part.strip() for part in entry.split(";"))
        quality = next((p[2:] for p in parameters if p[:2].lower() == "q="), "1")
        weights[media_range.lower()] = float(quality) if _QUALITY.fullmatch(quality) else 0.0
    ours = list(dict.fromkeys(offered))
    best = max(ours, key=lambda media_type: _weight(media_type, weights))
    if _weight(best, weights) <= 0:
        expected = " or ".join(ours)
        detail = f"expected an Accept header with {expected}, found {accept[:100]}"
        raise NotAcceptable(detail, [Fault("/header/accept", detail, expected=expected, found=accept[:100])])
    return best


def _weight(media_type: str, weights: dict[str, float]) -> float:
    """What the most specific range that covers the type says of it."""
    group = media_type.split("/", maxsplit=1)[0] + "/*"
    return next((weights[r] for r in (media_type, group, "*/*") if r in weights), 0.0)
