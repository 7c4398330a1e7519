"""Query strings -> typed requests, for calls that are asked thousands of times a second.

What FastAPI itself does with a model of thirty names costs more than the noise of 500 rows; Pydantic alone costs a
hundredth of that. The documentation is the same: ``parameters`` says by hand what FastAPI would have said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.errors import Fault, InvalidInput
from app.faults import faults_of

REPEATABLE = ("quality", "type", "include")

Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """What a handler depends on to get its query as ``model``; ``InvalidInput`` names each parameter that is not as expected."""

    async def parsed(request: Request) -> Model:
        given = request.query_params
        try:
            return model.model_validate({name: given.getlist(name) if name in REPEATABLE else given[name] for name in given})
        except ValidationError as error:
            faults = faults_of(error.errors(), at=("query",), names=model.model_fields)
            raise InvalidInput("; ".join(f.detail for f in faults[:3]), faults) from error

    return parsed


def parameters(model: type[BaseModel]) -> dict[str, Any]:
    """The part of a call's OpenAPI that documents such a query; ``model`` has no nested models, and every field a default."""
    described = model.model_json_schema()["properties"].items()
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema} | {key: schema[key] for key in ("description",) if key in schema}
            for name, schema in described
        ]
    }


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a body that FastAPI does not read; models within it are looked for among those of the other calls."""
    described = model.model_json_schema(ref_template="#/components/schemas/{model}")
    described.pop("$defs", None)
    return described


async def no_strangers(request: Request) -> None:
    """``InvalidInput`` for query names on a call that has none, and for one given twice that is not a list."""
    route = request.scope["route"]
    takes_some = bool(route.dependant.query_params) or "parameters" in (route.openapi_extra or {})
    faults = []
    for name in request.query_params:
        if not takes_some:
            faults.append(Fault(f"/query/{name[:64]}", f"{name[:64]}: this call has no query parameters", expected="none", found=name[:64]))
        elif name not in REPEATABLE and len(values := request.query_params.getlist(name)) > 1:
            faults.append(Fault(f"/query/{name[:64]}", f"{name[:64]}: expected once, found {len(values)} times", expected="once", found=f"{len(values)} times"))
    if faults:
        raise InvalidInput("; ".join(f.detail for f in faults[:3]), faults[:20])
