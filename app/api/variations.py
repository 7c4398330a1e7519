"""``POST /variations``: wines near a wine, or on the way from one to another."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field

from app.api.answers import media_type_of
from app.api.bodies import takes_json
from app.api.samples import FORMATS
from app.api.schemas import EXAMPLE, Body, Format, Name, Quality, Row, Seed, wines_of
from app.api.services import Services, UseServices, warning_header
from app.cellar import OpenModel, Served
from app.errors import Fault, InvalidInput, NotFound
from app.formats import ARROW, CHUNKS, CSV, JSON, NDJSON, PARQUET, Sheet
from app.registry import AUTOENCODER
from app.variations import TRAIN_ONE
from app.wine import Wines

router = APIRouter(tags=["variations"])


class VariationsRequest(Body):
    """One wine to vary, or two to go from one to the other."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"rows": [EXAMPLE], "n": 5, "spread": 0.3, "quality": 8}]})

    rows: list[Row] = Field(min_length=1, max_length=2, description="one wine, or two of one type")
    n: int = Field(10, ge=1, le=10_000, description="wines to answer with; on the way between two at least 2")
    steps: int | None = Field(None, ge=2, le=10_000, description="another name for `n` where there are two wines: the points of the way, both ends included")
    spread: float | None = Field(
        None,
        ge=0,
        le=5,
        description="how far off the wine, or the way, in latent units: the training wines spread by 1 along each of its dimensions; "
        "0 is the reconstruction itself. null: 0.5 for one wine, 0 for two",
    )
    quality: Quality | None = Field(None, description="of the answered wines; null: the wine's own, and on the way between two it goes along, rounded")
    seed: Seed | None = Field(None, description="of the directions; null: the server picks one and says it")
    model: Name = Field(AUTOENCODER, description="a model's id or an alias")
    format: Format | None = Field(None, description="null: as the Accept header asks, else JSON")

    @property
    def count(self) -> int:
        """The wines to answer with."""
        return self.n if self.steps is None else self.steps

    @property
    def distance(self) -> float:
        """The spread, or what is usual for so many wines."""
        return self.spread if self.spread is not None else 0.5 if len(self.rows) == 1 else 0.0


_TEXT, _BINARY = {"schema": {"type": "string"}}, {"schema": {"type": "string", "format": "binary"}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": list[Row],
        "description": "exactly as many rows as were asked for",
        "content": {
            JSON: {},
            NDJSON: _TEXT,
            CSV: _TEXT,
            PARQUET: _BINARY,
            ARROW: _BINARY,
        },
        "headers": {
            "Cuvee-Model": {"description": "the model that varied them", "schema": {"type": "string"}},
            "Cuvee-Reconstruction-Error": {
                "description": "how far each given wine is from its own reconstruction: mean over the measurements, in standard deviations, about",
                "schema": {"type": "string"},
            },
            "Cuvee-Seed": {"description": "the seed of the directions", "schema": {"type": "integer"}},
        },
    },
}


@router.post("/variations", dependencies=[Depends(takes_json)], responses=_RESPONSES, response_class=Response)
async def variations(asked: VariationsRequest, request: Request, use: UseServices) -> Response:
    """Wines near one wine, or on the straight way from one wine to another, in the latent space of an autoencoder.

    The wine is encoded, moved by `spread` in as many random directions as wines are asked for, and decoded with its
    type and its quality, or with another `quality`: the same wine, made worse or better. With `spread` 0 what comes
    back is its own reconstruction, which differs from it by what the bottleneck loses: `Cuvee-Reconstruction-Error` says
    how much, and the model's report what it is on wines never seen. Two wines must be of one type. The same request with the same seed and model has
    the same answer, and the wines near a wine are the same ones however many are asked for.
    """
    _check(asked)
    media_type = media_type_of(request, asked.format, FORMATS)
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    served = await _open(use, asked.model)
    varied, missed, warnings = await use.pour(lambda: _vary(served.model, asked, seed))
    headers = {"Cuvee-Model": served.model.bundle.id, "Cuvee-Seed": str(seed), "Cuvee-Reconstruction-Error": ", ".join(f"{error:.3f}" for error in missed)}
    headers |= {"Vary": "Accept", **warning_header([*served.warnings, *warnings])}
    return Response(b"".join(CHUNKS[media_type]([Sheet(varied)], ())), headers=headers, media_type=media_type)


def _check(asked: VariationsRequest) -> None:
    """``InvalidInput`` for a number of wines that makes no sense for so many rows."""
    if asked.steps is not None and len(asked.rows) == 1:
        detail = "steps: one wine has no way to go; give a second row, or say with n how many wines near it are wanted"
        raise InvalidInput(detail, [Fault("/body/steps", detail, expected="none for one row", found=str(asked.steps))])
    if asked.steps is not None and "n" in asked.model_fields_set:
        detail = f"expected n or steps, which say the same, found n {asked.n} and steps {asked.steps}"
        raise InvalidInput(detail, [Fault("/body/steps", detail, expected="n or steps", found="both")])
    if len(asked.rows) == 2 and asked.count < 2:
        detail = f"n: expected at least 2 for two rows, since both ends are part of the way, found {asked.count}"
        raise InvalidInput(detail, [Fault("/body/n", detail, expected="at least 2", found=str(asked.count))])


async def _open(use: Services, name: str) -> Served:
    try:
        return await use.open(name)
    except NotFound as error:
        if name != AUTOENCODER:
            raise
        raise NotFound(f"there is no autoencoder to vary wines with yet; {TRAIN_ONE}") from error


def _vary(model: OpenModel, asked: VariationsRequest, seed: int) -> tuple[Wines, list[float], list[str]]:
    """The wines, how far each given one is from its reconstruction, and what must be said of them."""
    wines = wines_of(asked.rows)
    warnings = model.variations.check(wines, quality=asked.quality)
    varied = model.variations.vary(wines, n=asked.count, spread=asked.distance, quality=asked.quality, seed=seed)
    return varied, model.variations.missed(wines), warnings
