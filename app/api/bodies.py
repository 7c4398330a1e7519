"""Bounds on what comes in: how large a body may be, and of what type."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, cast

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.errors import Fault, TooLarge, UnsupportedMediaType
from app.formats import ARROW, CSV, NDJSON, PARQUET

JSON_TYPES = ("application/json",)
TABLES = (CSV, NDJSON, PARQUET, ARROW)
_OTHER_NAMES = {"application/csv": CSV}  # not registered, but said
SPOOL = 2**20  # bytes of a table that are kept in memory; more goes to a file that is deleted with the request


async def takes_json(request: Request) -> None:
    """``UnsupportedMediaType`` unless the body says that it is JSON."""
    check_type(request, JSON_TYPES)


def check_type(request: Request, accepted: tuple[str, ...]) -> str:
    """The type of the body; ``UnsupportedMediaType`` unless it is one of these, and not compressed."""
    header = request.headers.get("content-type", "")
    media_type = header.split(";")[0].strip().lower()
    media_type = _OTHER_NAMES.get(media_type, media_type)
    if media_type not in accepted:
        found = header or "no Content-Type"
        expected = " or ".join(accepted)
        detail = f"expected a body of Content-Type {expected}, found {found}"
        raise UnsupportedMediaType(detail, [Fault("/header/content-type", detail, expected=expected, found=found)])
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":  # a few compressed bytes can be any number once they are not
        detail = f"expected a body without Content-Encoding, found {coding[:40]}; send it uncompressed (a table as Parquet is small)"
        raise UnsupportedMediaType(detail, [Fault("/header/content-encoding", detail, expected="none", found=coding[:40])])
    return media_type


async def spooled(request: Request) -> BinaryIO:
    """The body as a file to read from its start, mostly on disk; whoever asked closes it."""
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(SPOOL))  # noqa: SIM115
    try:
        async for chunk in request.stream():
            if file.tell() + len(chunk) <= SPOOL:  # no disk is waited for
                file.write(chunk)
            else:
                await run_in_threadpool(file.write, chunk)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class BodyLimit:
    """ASGI middleware: a body over its type's limit gets a 413, whether it announces its length or not."""

    def __init__(self, app: ASGIApp, *, json: int, table: int) -> None:
        """Limits in bytes, for JSON and for all else."""
        self._app, self._json, self._table = app, json, table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_json = headers.get(b"content-type", b"").split(b";")[0].strip().lower() == JSON_TYPES[0].encode()  # as ``check_type`` reads it
        limit, setting = (self._json, "CUVEE_MAX_JSON_BYTES") if is_json else (self._table, "CUVEE_MAX_UPLOAD_BYTES")
        too_large = TooLarge(f"expected a body of at most {limit} bytes; a deployment may raise {setting}")
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            await problems.of(too_large)(scope, receive, send)
            return
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            return message

        async def kept(message: Message) -> None:
            nonlocal started
            if received <= limit or started:  # what the app makes of a body cut short is not the answer
                started = True
                await send(message)

        try:
            await self._app(scope, counted, kept)
        except TooLarge:
            if started:
                raise
        if received > limit and not started:
            await problems.of(too_large)(scope, receive, send)
