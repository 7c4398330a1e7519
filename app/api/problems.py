"""Errors -> RFC 9457 problem documents: once, here, for every call."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app import errors
from app.db import UNAVAILABLE
from app.errors import CuveeError, Fault
from app.faults import faults_of

log = logging.getLogger("cuvee.api")

MEDIA_TYPE = "application/problem+json"
RANGES = "4XX", "5XX"  # of status, in which answers are problems
METHODS = "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"
STATUS: dict[type[CuveeError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Deleted: HTTPStatus.GONE,
    errors.Stale: HTTPStatus.PRECONDITION_FAILED,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthorised: HTTPStatus.UNAUTHORIZED,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    errors.DatasetUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatasetDamaged: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BundleInvalid: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatabaseNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatabaseDamaged: HTTPStatus.SERVICE_UNAVAILABLE,
}


class FaultView(BaseModel):
    """One thing that is wrong with the input."""

    pointer: str = Field(description="JSON pointer: /query/quality, /body/rows/0/alcohol", examples=["/query/n"])
    detail: str
    expected: str | None = None
    found: str | None = None


class Problem(BaseModel):
    """RFC 9457: what went wrong, in words and per field."""

    type: str = Field(examples=["urn:cuvee:invalid-input"])
    title: str
    status: int
    detail: str
    errors: list[FaultView] = []


def problem(status: HTTPStatus, slug: str, detail: str, faults: Sequence[Fault] = ()) -> Response:
    """The response that says so."""
    shown = [{k: v for k, v in asdict(f).items() if v is not None} for f in faults]
    body = {"type": f"urn:cuvee:{slug}", "title": status.phrase, "status": status.value, "detail": detail}
    text = json.dumps(body | ({"errors": shown} if shown else {}), ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "backslashreplace"), status.value, media_type=MEDIA_TYPE)  # half a surrogate pair, as JSON may hold it, is no UTF-8


def of(error: CuveeError) -> Response:
    """The response for a domain error."""
    status = STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    answer = problem(status, error.slug, error.detail, error.faults)
    if status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def document(openapi: dict[str, Any]) -> None:
    """Says in an OpenAPI document of what media type problems are; FastAPI takes them to be of that of the answer."""
    for calls in openapi["paths"].values():
        for call in calls.values():
            for status in RANGES:
                [described] = call["responses"][status]["content"].values()
                call["responses"][status]["content"] = {MEDIA_TYPE: described}


def install(app: FastAPI) -> None:
    """Makes every error of ``app`` a problem document."""
    app.add_exception_handler(CuveeError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    for error in UNAVAILABLE:
        app.add_exception_handler(error, _database)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _unexpected)


def _domain(request: Request, error: Exception) -> Response:
    assert isinstance(error, CuveeError)  # noqa: S101 - narrows the type that Starlette's signature widens
    return of(error)


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = faults_of(error.errors())
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", "; ".join(f.detail for f in faults[:3]), faults)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.NO_CONTENT:  # nothing is wrong, and nothing is left to say
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # how FastAPI says that it could not read a JSON body at all
        detail = "expected a body of JSON in UTF-8, found bytes that can't be read as it"
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", detail, [Fault("/body", detail, expected="JSON in UTF-8", found="not JSON")])
    status = HTTPStatus(error.status_code)
    detail = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists every call"
    response = problem(status, status.phrase.lower().replace(" ", "-"), detail)
    response.headers.update(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """The methods that this path has: the error names those of one of its routes only (RFC 9110, 10.2.1)."""
    routes = request.app.routes
    return [m for m in METHODS if any(route.matches({**request.scope, "method": m})[0] is Match.FULL for route in routes)]


def _database(request: Request, error: Exception) -> Response:
    log.warning("the database is unavailable: %s", error)
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "database-not-ready", "the database does not answer or takes no writes; try again in a moment")


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it; it is no error of ours


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected", "an error that nobody foresaw; the server's log has its traceback")
