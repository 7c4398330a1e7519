"""``POST /score``: how real do these wines look, and which quality do they deserve?"""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Depends

from app.api.bodies import takes_json
from app.api.schemas import ScoreAnswer, ScoreRequest, ScoreView
from app.api.services import Services, UseServices
from app.errors import Fault, InvalidInput
from app.scorer import Scores
from app.wine import MEASUREMENTS, Wines, to_ticks

router = APIRouter(tags=["score"])


@router.post("/score", dependencies=[Depends(takes_json)])
async def score(asked: ScoreRequest, use: UseServices) -> ScoreAnswer:
    """How real each row looks to the critic (`p_real`, `percentile`) and to the discriminator, and the classifier's `predicted_quality`.

    The critic was taught after the GAN to tell real wines from the model's own rows, from real wines with one to
    three columns tampered with, and from columns shuffled: `p_real` is the share of real wines among as many of each,
    of those that look like this one. A real wine is mostly given about 0.6, because the model's own rows look as
    real; one that no winery makes comes near 0. `percentile` ranks it among real wines.
    """
    if len(asked.rows) > use.settings.max_score_rows:
        limit = use.settings.max_score_rows
        detail = f"rows: expected at most {limit} in one request, found {len(asked.rows)}"
        raise InvalidInput(detail, [Fault("/body/rows", detail, expected=f"at most {limit}", found=str(len(asked.rows)))])
    model_id, scores = await use.pour(lambda: _score(use, asked))
    return ScoreAnswer(model=model_id, rows=_views(scores))


def _score(use: Services, asked: ScoreRequest) -> tuple[str, Scores]:
    model = use.cellar.get(asked.model)
    return model.bundle.id, model.scorer.score(_wines(asked))


def _views(scores: Scores) -> list[ScoreView]:
    columns = {name: values.tolist() for name, values in vars(scores).items() if values is not None}
    return [ScoreView(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _wines(asked: ScoreRequest) -> Wines:
    rows = [row.model_dump() for row in asked.rows]
    measurements = np.array([[row[name] for name in MEASUREMENTS] for row in rows], dtype=np.float64)
    quality = np.array([row["quality"] for row in rows], dtype=np.int64)
    return Wines(to_ticks(measurements), quality, np.array([row["type"] == "red" for row in rows]))
