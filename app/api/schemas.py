"""What goes over the wire, typed: requests with their bounds, views of what the core returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, WithJsonSchema, computed_field, create_model, field_validator
from typing_extensions import TypedDict

from app import jobs, leaderboard
from app.bundle import Measure, Report
from app.dcr import MAX_DCR
from app.errors import Fault, InvalidInput
from app.jobs import Promote
from app.noise import MAX_ROW, MAX_SEED
from app.params import METHODS
from app.registry import AUTOENCODER
from app.sampler import Condition, Range
from app.wine import COLUMNS, FREE_SO2, HIGH_TICKS, LOW_TICKS, MEASUREMENTS, QUALITY_RANGE, TOTAL_SO2, Column, Wines, to_ticks

MAX_PAGE = 200

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Quality = Annotated[int, Field(ge=QUALITY_RANGE[0], le=QUALITY_RANGE[1])]
Type = Literal["red", "white"]
Printable = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]  # PostgreSQL holds no NUL, and nobody means the others
Name = Annotated[Printable, Field(max_length=64)]


class Request(BaseModel):
    """Unknown names are errors everywhere."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Page(Request):
    """Which part of a list."""

    limit: int = Field(50, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, lt=2**31)


class JobPage(Page):
    """Which part of the jobs, newest first."""

    state: jobs.State | None = None


class NewDataset(Request):
    """What an upload says beside its bytes."""

    name: Printable = Field("upload", max_length=200)


class DeleteDataset(Request):
    """How much a deletion may break."""

    force: bool = Field(False, description="also where jobs and models refer to it; their rows can't be shown or trained on any more")


Format = Literal["json", "ndjson", "csv", "parquet", "arrow"]
Include = Literal["row", "p_real", "predicted_quality"]
ROUNDING = 1e-6  # ticks

PARAMS_SCHEMA = {
    "type": "object",
    "description": "the method's own params over those of its preset; unknown names and values out of range are refused",
    "anyOf": [params.model_json_schema() | {"title": f"params of {method}"} for method, params in METHODS.items()],
    "default": {},
    "examples": [{"preset": "quick"}],
}


class TrainRequest(Request):
    """A training job; every field has a default."""

    method: str = Field("gan", max_length=32, description=" or ".join(METHODS))
    dataset: Name | None = Field(None, description="a dataset's id; null: `uci`, or `starter` with a warning where the original can't be had")
    params: Annotated[dict[str, Any], WithJsonSchema(PARAMS_SCHEMA)] = {}
    seed: Seed | None = Field(None, description="null: the server picks one")
    priority: int = Field(0, ge=-100, le=100, description="higher is sooner")
    promote: Promote = Field("auto", description="whether the model may become the champion (an autoencoder: the `autoencoder`); auto: if it beats it")


class _Conditions(Request):
    """What rows must be."""

    _place: ClassVar[str] = "query"

    quality: list[Quality] = Field([], max_length=11, description="repeatable; none: as `mix` says")
    type: list[Type] = Field([], max_length=2, description="repeatable; none: the training data's own mix")
    mix: Literal["data", "balanced"] = Field(
        "data", description="data: qualities as often as in the training data; balanced: all that are asked for equally often"
    )

    min_dcr: float = Field(
        0.0,
        ge=0,
        le=MAX_DCR,
        description="standard deviations to the closest training row, at least; in thousandths, rounded up; the report's dcr_p5 is a measure",
    )

    def condition(self) -> Condition:
        """The same, in ticks and without repeats; ``InvalidInput`` for limits that no value of the grid is between."""
        ranges = (self._range(j, column) for j, column in enumerate(COLUMNS))
        min_dcr = float(Decimal(repr(self.min_dcr)).quantize(Decimal("0.001"), ROUND_CEILING))  # so that a URL says all of it
        return Condition(tuple(sorted(set(self.quality))), tuple(sorted(set(self.type))), tuple(r for r in ranges if r), self.mix == "balanced", min_dcr)

    def _range(self, j: int, column: Column) -> Range | None:
        low, high = (getattr(self, f"{column.name}_{end}") for end in ("min", "max"))
        if low is None and high is None:
            return None
        # limits between two points of the grid move inwards; the small number is there for decimals that no float holds
        lowest = LOW_TICKS[j] if low is None else math.ceil(low * column.scale - ROUNDING)
        highest = HIGH_TICKS[j] if high is None else math.floor(high * column.scale + ROUNDING)
        if lowest > highest:
            name = f"{column.name}_min"
            expected = f"limits with a value of the grid (steps of {1 / column.scale:g}) between them"
            detail = f"{name}, {column.name}_max: expected {expected}, found {low:g} and {high:g}"
            raise InvalidInput(detail, [Fault(f"/{self._place}/{name}", detail, expected=expected, found=f"{low:g} and {high:g}")])
        return Range(j, int(lowest), int(highest))


_LIMITS: dict[str, Any] = {
    f"{c.name}_{end}": (float | None, Field(None, ge=c.low, le=c.high, description=f"{c.unit}; {word} this"))
    for c in COLUMNS
    for end, word in (("min", "not below"), ("max", "not above"))
}


class _SampleQuery(_Conditions):
    """Which rows of which model."""

    n: int = Field(100, ge=1, description="rows")
    seed: Seed | None = Field(None, description="which table; none: the server picks one and says it")
    offset: int = Field(0, ge=0, lt=MAX_ROW, description="the first position in the table; rows beyond the limits keep theirs")
    model: Name = Field("champion", description="a model's id or an alias")
    include: list[Include] = Field([], max_length=3, description="repeatable; further columns: the position in the table, and what the model's own judges say")
    format: Format | None = Field(None, description="none: as the Accept header asks, else JSON")


SampleQuery = create_model("SampleQuery", __base__=_SampleQuery, __doc__=_SampleQuery.__doc__, **_LIMITS)


class _CheckRequest(_Conditions):
    """A sample that somebody thinks of asking for."""

    _place: ClassVar[str] = "body"

    n: int = Field(100, ge=1, description="rows")
    model: Name = Field("champion", description="a model's id or an alias")


CheckRequest = create_model("CheckRequest", __base__=_CheckRequest, __doc__=_CheckRequest.__doc__, **_LIMITS)


class CheckView(BaseModel):
    """What asking for such a sample would mean."""

    feasible: bool = Field(description="whether GET /samples would answer with rows")
    model: str
    acceptance: float = Field(ge=0, le=1, description="share of the table's rows of these labels that are within the limits")
    probed: int = Field(description="rows that this was tried on")
    rows_scanned: int | None = Field(description="rows that would be made for n that pass, about; null: no probed row passed")
    max_rows: int = Field(description="rows that one request may make")
    seconds: float | None = Field(description="of one core, about")
    binding: str | None = Field(description="the measurement whose limits cost the most rows, or `min_dcr`; null: there are none")
    without: dict[str, float] = Field(description="acceptance if the limits of one measurement, or `min_dcr`, were dropped")
    redrawn: float = Field(ge=0, le=1, description="share of the rows within all other limits that `min_dcr` passes over")
    training_rows: int | None = Field(description="training rows that meet the condition; null: not stored here, or damaged, as `warnings` says")
    warnings: list[str]


_ROW_FIELDS: dict[str, Any] = {
    **{c.name: Annotated[float, Field(strict=True, ge=c.low, le=c.high, description=f"{c.unit}: {c.meaning}")] for c in COLUMNS},
    "quality": Annotated[int, Field(strict=True, ge=QUALITY_RANGE[0], le=QUALITY_RANGE[1])],
    "type": Type,
}
Row = TypedDict("Row", _ROW_FIELDS)  # type: ignore[misc]  # a third faster to read than an object of a class
Row.__doc__ = "A wine: 11 measurements, its score and its type."
Row.__pydantic_config__ = Request.model_config  # type: ignore[attr-defined]
ROW_SCHEMA = TypeAdapter(Row).json_schema()

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


class ScoreRequest(Request):
    """Wines to be scored, and by which model."""

    rows: Annotated[list[Row], FailFast()] = Field(min_length=1)  # a thousand bad rows would make ten thousand faults
    model: Name = "champion"
    explain: bool = Field(False, description="say for each wine which measurements look off")


class ScoreQuery(Request):
    """What a table to be scored can't say itself; a JSON body says it in its own fields."""

    model: Name | None = Field(None, description="a model's id or an alias; none: champion")
    explain: bool | None = Field(None, description="say for each wine which measurement looks off")
    format: Format | None = Field(None, description="none: as the Accept header asks, else as the body came")


class ReasonView(BaseModel):
    """A measurement that does not go with a wine's others."""

    measurement: str
    found: float
    expected: float = Field(description="what would go with the others")
    surprise: float = Field(description="how far off it is, in standard deviations given the others")


class ScoreView(BaseModel):
    """What a model thinks of one wine."""

    p_real: float | None = Field(None, ge=0, le=1, description="the critic's, or the discriminator's where the model has no critic; null: it has neither")
    discriminator: float | None = Field(
        None, ge=0, le=1, description="the share of real wines among those and as many of the model's own rows; null: the model has no discriminator"
    )
    critic: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the share of real wines among those and as many that are none, a third the model's own rows, half real wines with one to three columns "
        "tampered with, a sixth columns shuffled; null: the model was trained on too few wines for a critic",
    )
    percentile: float | None = Field(
        None, ge=0, le=1, description="the share of real wines, of those that the critic has not seen, that look less real to it; null: no critic"
    )
    predicted_quality: int | None = Field(None, description="the classifier's; null: the model has none")
    reasons: list[ReasonView] | None = Field(None, description="what looks off, the strongest first, at most three; null: nobody asked (explain)")


class ScoreAnswer(BaseModel):
    """One score per row, in the rows' order."""

    model: str
    rows: list[ScoreView]


class VariationsRequest(Request):
    """One wine to vary, or two to go from one to the other."""

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


class View(BaseModel):
    """What a client sees of a value of the core, read from its attributes; seconds since 1970 become ISO dates."""

    model_config = ConfigDict(from_attributes=True)


class ComparisonView(View):
    """One measure of a model beside the champion's."""

    metric: str
    challenger: float
    champion: float
    spread: float = Field(description="of the difference, one standard deviation; less than this is even")
    outcome: jobs.Outcome


class VerdictView(View):
    """Whether a finished model became champion (an autoencoder: the `autoencoder`): better in one measure at least, worse in none, beyond the spread."""

    promoted: bool
    reason: str
    champion: str | None = Field(description="the model that it met; null: none")
    gate: list[ComparisonView] = Field(description="empty where nothing was compared: `reason` says why")


class JobView(View):
    """A training job."""

    id: str
    state: jobs.State
    stalled: bool = Field(description="its worker let the lease run out; another may take it over")
    method: str
    dataset: str = Field(validation_alias="dataset_id")
    params: dict[str, Any]
    seed: int
    priority: int
    promote: Promote
    warnings: list[str]
    progress: float = Field(ge=0, le=1)
    stage: str | None
    eta_s: float | None = Field(description="seconds left at the pace so far")
    metrics: dict[str, float]
    attempts: int = Field(validation_alias="attempt")
    failures: int
    worker: str | None
    model_id: str | None
    model_deleted_at: datetime | None = Field(description="when that model was deleted: GET /models/{model_id} says by whom and why; null: it is there")
    verdict: VerdictView | None = Field(description="whether the model became champion, and why")
    error: str | None
    created_at: datetime
    started_at: datetime | None
    last_progress_at: datetime | None
    finished_at: datetime | None

    @computed_field(description="where it can be watched, and where its curves are")  # type: ignore[prop-decorator]
    @property
    def links(self) -> dict[str, str]:
        """Addresses by what is there."""
        return {what: f"/jobs/{self.id}/{what}" for what in ("events", "metrics")}


class _ModelHead(View):
    id: str
    method: str
    aliases: list[str]
    dataset: str = Field(validation_alias="dataset_id")
    job_id: str | None
    created_at: datetime
    sha256: str
    size: int = Field(description="bytes of its bundle")
    pool: int = Field(description="rows made in advance, which are poured again and again; 0: a network pours new ones")


class ModelSummary(_ModelHead):
    """A registered model in a list: what its report measured, without floors, ceilings and spreads."""

    measures: dict[str, float]

    @field_validator("measures", mode="before")
    @classmethod
    def _values(cls, measures: dict[str, dict[str, float]]) -> dict[str, float]:
        return {name: measure["value"] for name, measure in measures.items()}


class ModelView(_ModelHead):
    """A registered model: what was measured of it, where it comes from, how it fared against the champion of its day."""

    measures: dict[str, Measure]
    lineage: dict[str, Any]
    verdict: VerdictView | None = Field(description="of the job that made it; null: it came with the package")

    @computed_field(description="where its whole report is")  # type: ignore[prop-decorator]
    @property
    def report(self) -> str:
        return f"/models/{self.id}/report"

    @computed_field(description="where its bundle is")  # type: ignore[prop-decorator]
    @property
    def bundle(self) -> str:
        return f"/models/{self.id}/bundle"


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


class ReportQuery(Request):
    """How a report is shown."""

    format: Literal["json", "html"] | None = Field(None, description="none: as the Accept header asks, else JSON")


class RowsQuery(Request):
    """Which of the real rows behind a model."""

    part: Literal["train", "holdout"] = Field("holdout", description="what it was trained on, or what its report was measured on")
    format: Format | None = Field(None, description="none: as the Accept header asks, else JSON")


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


class DatasetView(View):
    """A stored dataset."""

    id: str
    name: str
    source: str
    synthetic: bool
    rows: int
    snapped: int = Field(description="values that were moved to the decimal grid when it came in")
    sha256: str
    created_at: datetime
