"""Bounds on what comes in: how large a body may be, and of what type."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.errors import Fault, TooLarge, UnsupportedMediaType

JSON_TYPES = ("application/json",)
CSV_TYPES = ("text/csv", "application/csv")


async def takes_json(request: Request) -> None:
    """``UnsupportedMediaType`` unless the body says that it is JSON."""
    check_type(request, JSON_TYPES)


def check_type(request: Request, accepted: tuple[str, ...]) -> None:
    """``UnsupportedMediaType`` unless the body is of one of these types."""
    header = request.headers.get("content-type", "")
    if header.split(";")[0].strip().lower() not in accepted:
        found = header or "no Content-Type"
        expected = " or ".join(accepted)
        detail = f"expected a body of Content-Type {expected}, found {found}"
        raise UnsupportedMediaType(detail, [Fault("/header/content-type", detail, expected=expected, found=found)])


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
        is_json = headers.get(b"content-type", b"").startswith(JSON_TYPES[0].encode())
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
