"""Is it alive, and can it pour?"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import RedirectResponse

from app import migrations, registry
from app.api.services import Services, UseServices
from app.errors import DatabaseNotReady, NotFound

router = APIRouter(tags=["health"])


@router.get("/", include_in_schema=False)
def home() -> RedirectResponse:
    """The list of calls is the front page."""
    return RedirectResponse("/docs")


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(use: UseServices) -> dict[str, str]:
    """The database answers, its schema is ours, and the champion loads; a 503 says which of these does not hold."""
    return {"status": "ready", "champion": await use.pour(lambda: _champion(use))}


def _champion(use: Services) -> str:
    migrations.check(use.db)
    try:
        model = use.cellar.get(registry.CHAMPION)
    except NotFound as error:
        raise DatabaseNotReady("there is no champion to pour from: run `cuvee migrate`, which installs the starter model, or train one") from error
    _ = model.sampler
    return model.bundle.id
