"""Is it alive, and can it pour?"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from app import migrations, registry
from app.api.services import Services, UseServices
from app.errors import DatabaseNotReady, NotFound

router = APIRouter(tags=["health"])


class Ready(BaseModel):
    """What pours where nobody names a model."""

    status: Literal["ready", "degraded"]
    champion: str = Field(description="the model that pours")
    wanted: str | None = Field(None, description="only where it is another: the champion of the registry")
    why: str | None = Field(None, description="only with `wanted`: why that one does not pour")


@router.get("/", include_in_schema=False)
def home() -> RedirectResponse:
    """The list of calls is the front page."""
    return RedirectResponse("/docs")


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False, response_model_exclude_none=True)
@router.get("/readyz", response_model_exclude_none=True)
async def readyz(use: UseServices) -> Ready:
    """The database answers, its schema is ours, and the champion pours; a 503 says which of these does not hold.

    `degraded` is ready all the same: another model than the champion of the registry pours, and `why` says what is wrong
    with that one. While the database is away, models that are open go on pouring, and the 503 names the champion among them.
    """
    return await run_in_threadpool(_ready, use)


def _ready(use: Services) -> Ready:
    try:
        migrations.check(use.db)
    except DatabaseNotReady as error:
        known = use.cellar.known(registry.CHAMPION)
        go_on = "" if known is None else f"; model {known.model.bundle.id}, the last known champion, goes on pouring"
        raise DatabaseNotReady(error.detail + go_on) from error
    try:
        served = use.cellar.get(registry.CHAMPION)
    except NotFound as error:
        raise DatabaseNotReady("there is no champion to pour from: run `cuvee migrate`, which installs the starter model, or train one") from error
    if served.why is None:
        return Ready(status="ready", champion=served.model.bundle.id)
    return Ready(status="degraded", champion=served.model.bundle.id, wanted=served.wanted, why=served.why)
