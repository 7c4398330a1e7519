"""``GET /leaderboard``: models side by side, as a table."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, create_model

from app import leaderboard
from app.api.answers import REVALIDATE, conditional, media_type_of
from app.api.schemas import Name, Page
from app.api.services import UseServices, warning_header
from app.formats import CSV, JSON
from app.leaderboard import Board, Contest

router = APIRouter(tags=["models"])

FORMATS = {"json": JSON, "csv": CSV}


class LeaderboardQuery(Page):
    """Which models are compared, and in which order."""

    dataset: Name | None = Field(None, description="a dataset's id; none: the champion's")
    holdout: float | None = Field(None, ge=0, le=0.5, description="share of rows held out; none: the champion's")
    split_seed: int | None = Field(None, ge=0, lt=2**32, description="which rows; none: the champion's")
    sort: str = Field(
        "c2st", max_length=64, json_schema_extra={"enum": [column.name for column in leaderboard.COLUMNS]}, description="models without it come last"
    )
    order: leaderboard.Order | None = Field(None, description="none: better first, of two names the first in the alphabet")
    format: Literal["json", "csv"] | None = Field(None, description="none: as the Accept header asks, else JSON")


_BOARD: dict[str, Any] = {
    "model": (str, ...),
    "aliases": (str | None, Field(None, description="names that it answers to, with spaces between")),
    **{column.name: (column.value.type.python_type | None, Field(None, description=column.meaning)) for column in leaderboard.COLUMNS},
    "created_at": (datetime | None, None),
}
LeaderboardRow = create_model("LeaderboardRow", __doc__="A model beside others, or the floor or ceiling of each measure.", **_BOARD)


_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"model": list[LeaderboardRow], "content": {JSON: {}, CSV: {"schema": {"type": "string"}}}},
    304: {"description": "the bytes that If-None-Match names"},
}


@router.get("/leaderboard", responses=_RESPONSES, response_class=Response)
def show_leaderboard(asked: Annotated[LeaderboardQuery, Query()], request: Request, use: UseServices) -> Response:
    """Models that were measured on the same wines in the same way, a row each, by any column; then the measures' `floor` and `ceiling` as two more rows.

    A bare array, or CSV. `Content-Location` says on which dataset and split; `limit` counts models.
    """
    media_type = media_type_of(request, asked.format, FORMATS)
    with use.db.read() as tx:
        contest = leaderboard.contest(tx, dataset=asked.dataset, holdout=asked.holdout, split_seed=asked.split_seed)
        board = leaderboard.board(tx, contest, sort=asked.sort, order=asked.order, limit=asked.limit, offset=asked.offset)
    rows = [LeaderboardRow.model_validate(row).model_dump(mode="json") for row in board.rows]
    body = _csv(rows) if media_type == CSV else json.dumps(rows)
    return conditional(request, body.encode(), media_type=media_type, headers=_headers(asked, contest, board, media_type=media_type))


def _headers(asked: LeaderboardQuery, contest: Contest, board: Board, *, media_type: str) -> dict[str, str]:
    own = {"dataset": contest.dataset_id, "holdout": contest.holdout, "split_seed": contest.split_seed, "sort": asked.sort}
    own |= {"order": asked.order} if asked.order else {}
    own |= {"limit": asked.limit, "format": next(short for short, known in FORMATS.items() if known == media_type)}

    def url(offset: int) -> str:
        return f"/leaderboard?{urlencode(own | {'offset': offset})}"

    older = [f"{board.left_out} models of this split were measured by an older protocol and are left out: train them again"] if board.left_out else []
    return {
        "Content-Location": url(asked.offset),
        **({"Link": f'<{url(asked.offset + asked.limit)}>; rel="next"'} if board.more else {}),
        "Cache-Control": REVALIDATE,
        "Vary": "Accept",
        **warning_header(older),
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(LeaderboardRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
