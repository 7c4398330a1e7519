"""Bounds on what comes in: how large a body may be, and of what type."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.errors import Fault, TooLarge, UnsupportedMediaType

JSON_TYPES = ("application/json",)
CSV_TYPES = ("text/csv", "application/csv")


def takes_json(request: Request) -> None:
    """``UnsupportedMediaType`` unless the body says that it is JSON."""
    check_type(request, JSON_TYPES)


def check_type(request: Request, accepted: tuple[str, ...]) -> None:
    """``UnsupportedMediaType`` unless the body is of one of these types."""
    header = request.headers.get("content-type", "")
    if header.split(";")[0].strip().lower() not in accepted:
        found = header or "no Content-Type"
        detail = f"expected a body of Content-Type {accepted[0]}, found {found}"
        raise UnsupportedMediaType(detail, [Fault("/header/content-type", detail, expected=accepted[0], found=found)])


class BodyLimit:
    """ASGI middleware: a body over ``limit`` bytes gets a 413, whether it announces its length or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._limit:
            await problems.of(self._too_large())(scope, receive, send)
            return
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        async def kept(message: Message) -> None:
            nonlocal started
            if received <= self._limit or started:  # what the app makes of a body cut short is not the answer
                started = True
                await send(message)

        try:
            await self._app(scope, counted, kept)
        except TooLarge:
            if started:
                raise
        if received > self._limit and not started:
            await problems.of(self._too_large())(scope, receive, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"expected a body of at most {self._limit} bytes; a deployment may raise CUVEE_MAX_UPLOAD_BYTES")
