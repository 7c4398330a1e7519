"""The registry over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app import registry
from app.api.schemas import ModelView, Name, Page
from app.api.services import UseServices

router = APIRouter(tags=["models"])


@router.get("/models")
def list_models(page: Annotated[Page, Query()], use: UseServices) -> list[ModelView]:
    """Registered models, newest first."""
    with use.db.read() as tx:
        return [ModelView.model_validate(model) for model in registry.page(tx, limit=page.limit, offset=page.offset)]


@router.get("/models/{name}")
def show_model(name: Name, use: UseServices) -> ModelView:
    """A model by its id or an alias: its report and its lineage."""
    with use.db.read() as tx:
        return ModelView.model_validate(registry.get(tx, name))
