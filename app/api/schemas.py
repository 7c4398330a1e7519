"""What several modules take or answer, typed; all else that goes over the wire stands beside its handler."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from app.bundle import Report
from app.errors import Fault, InvalidInput
from app.faults import PRINTABLE
from app.jobs import Outcome
from app.noise import MAX_SEED
from app.wine import COLUMNS, FREE_SO2, MEASUREMENTS, NAMES, QUALITY_RANGE, TOTAL_SO2, Wines, to_ticks

MAX_PAGE = 200

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Quality = Annotated[int, Field(ge=QUALITY_RANGE[0], le=QUALITY_RANGE[1])]
Type = Literal["red", "white"]
Printable = Annotated[str, Field(min_length=1, pattern=f"^{PRINTABLE}+$")]  # PostgreSQL holds no NUL, and nobody means the others
Name = Annotated[Printable, Field(max_length=64)]
Format = Literal["json", "ndjson", "csv", "parquet", "arrow"]


class Asked(BaseModel):
    """What a client asks; unknown names are errors everywhere."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Body(Asked):
    """What a client asks in JSON, where a number is a number: no text that reads like one, and no truth value."""

    model_config = ConfigDict(strict=True)


class Page(Asked):
    """Which part of a list."""

    limit: int = Field(50, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, lt=2**31)


ROW_FIELDS: dict[str, Any] = {
    **{c.name: Annotated[float, Field(strict=True, ge=c.low, le=c.high, description=f"{c.unit}: {c.meaning}")] for c in COLUMNS},
    "quality": Annotated[int, Field(strict=True, ge=QUALITY_RANGE[0], le=QUALITY_RANGE[1])],
    "type": Type,
}
EXAMPLE: dict[str, Any] = dict(zip(NAMES, [7.4, 0.7, 0.0, 1.9, 0.076, 11.0, 34.0, 0.9978, 3.51, 0.56, 9.4, 5, "red"], strict=True))
Row = TypedDict("Row", ROW_FIELDS)  # type: ignore[misc]  # a third faster to read than an object of a class
Row.__doc__ = "A wine: 11 measurements, its score and its type."
Row.__pydantic_config__ = ConfigDict(**Asked.model_config, json_schema_extra={"examples": [EXAMPLE]})  # type: ignore[attr-defined]

_measured = itemgetter(*MEASUREMENTS)


def wines_of(rows: Sequence[Any]) -> Wines:
    """``Row`` objects as wines, moved to the grid; ``InvalidInput`` for a total sulfur dioxide that does not hold the free."""
    measurements = np.array([_measured(row) for row in rows], dtype=np.float64)
    if len(wrong := np.flatnonzero(measurements[:, FREE_SO2] > measurements[:, TOTAL_SO2])):
        free, total = measurements[wrong[0], [FREE_SO2, TOTAL_SO2]].tolist()
        expected, place = f"at least the {MEASUREMENTS[FREE_SO2]}, {free:g}", ("rows", str(wrong[0]), MEASUREMENTS[TOTAL_SO2])
        detail = f"{'.'.join(place)}: expected {expected}, found {total!r}"
        raise InvalidInput(detail, [Fault("/body/" + "/".join(place), detail, expected=expected, found=repr(total))])
    quality = np.array([row["quality"] for row in rows], dtype=np.int64)
    return Wines(to_ticks(measurements), quality, np.array([row["type"] == "red" for row in rows]))


class View(BaseModel):
    """What a client sees of a value of the core, read from its attributes; seconds since 1970 become ISO dates."""

    model_config = ConfigDict(from_attributes=True)


class ComparisonView(View):
    """One measure of a model beside the champion's."""

    metric: str
    challenger: float
    champion: float
    spread: float = Field(description="of the difference, one standard deviation; a gain counts beyond it, a loss beyond half of it")
    outcome: Outcome


class VerdictView(View):
    """Whether a finished model became champion (an autoencoder: the `autoencoder`): better in one measure at least, worse in none."""

    promoted: bool
    reason: str
    champion: str | None = Field(description="the model that it met; null: none")
    gate: list[ComparisonView] = Field(description="empty where nothing was compared: `reason` says why")


class ReportLineage(BaseModel):
    """What a report's numbers rest on: `GET /models/{model}/rows` shows the rows themselves."""

    dataset_id: str
    dataset_sha256: str
    dataset_synthetic: bool
    holdout: float = Field(description="share of rows that training never saw")
    split_seed: int
    seed: int
    train_rows: int
    holdout_rows: int
    train_wall_s: float
    train_cpu_s: float
    device: str
    code_version: str
    warnings: list[str]


class ReportView(Report):
    """The whole report of a model."""

    model: str
    method: str
    pool: int = Field(description="rows made in advance, which are poured again and again; 0: a network pours new ones")
    lineage: ReportLineage
