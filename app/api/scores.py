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
    """For each row the discriminator's calibrated `p_real` and the classifier's `predicted_quality`."""
    if len(asked.rows) > use.settings.max_score_rows:
        limit = use.settings.max_score_rows
        detail = f"rows: expected at most {limit} in one request, found {len(asked.rows)}"
        raise InvalidInput(detail, [Fault("/body/rows", detail, expected=f"at most {limit}", found=str(len(asked.rows)))])
    model_id, scores = await use.pour(lambda: _score(use, asked))
    pairs = zip(scores.p_real.tolist(), scores.predicted_quality.tolist(), strict=True)
    return ScoreAnswer(model=model_id, rows=[ScoreView(p_real=p, predicted_quality=q) for p, q in pairs])


def _score(use: Services, asked: ScoreRequest) -> tuple[str, Scores]:
    model = use.cellar.get(asked.model)
    return model.bundle.id, model.scorer.score(_wines(asked))


def _wines(asked: ScoreRequest) -> Wines:
    rows = [row.model_dump() for row in asked.rows]
    measurements = np.array([[row[name] for name in MEASUREMENTS] for row in rows], dtype=np.float64)
    quality = np.array([row["quality"] for row in rows], dtype=np.int64)
    return Wines(to_ticks(measurements), quality, np.array([row["type"] == "red" for row in rows]))
