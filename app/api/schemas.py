"""What goes over the wire, typed: requests with their bounds, views of what the core returns."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationInfo, WithJsonSchema, computed_field, create_model, field_validator

from app import jobs
from app.bundle import Measure, Report
from app.jobs import Promote
from app.noise import MAX_ROW, MAX_SEED
from app.params import METHODS
from app.wine import COLUMNS, QUALITY_RANGE

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
    promote: Promote = Field("auto", description="whether the model may become the champion; auto: if it beats it")


class SampleQuery(Request):
    """Which rows of which model."""

    n: int = Field(100, ge=1, description="rows")
    quality: list[Quality] = Field([], max_length=11, description="repeatable; none: the training data's own mix")
    type: list[Type] = Field([], max_length=2, description="repeatable; none: the training data's own mix")
    seed: Seed | None = Field(None, description="which table; none: the server picks one and says it")
    offset: int = Field(0, ge=0, lt=MAX_ROW, description="the first row")
    model: Name = Field("champion", description="a model's id or an alias")
    format: Literal["json", "csv"] | None = Field(None, description="none: as the Accept header asks, else JSON")


class _Row(Request):
    @field_validator("total_sulfur_dioxide", check_fields=False)  # the fields are made below
    @classmethod
    def _total_holds_the_free(cls, total: float, info: ValidationInfo) -> float:
        if (free := info.data.get("free_sulfur_dioxide", 0.0)) > total:
            raise ValueError(f"at least the free_sulfur_dioxide, {free:g}")
        return total


_ROW_FIELDS: dict[str, Any] = {
    **{c.name: (Annotated[float, Field(strict=True, ge=c.low, le=c.high, description=f"{c.unit}: {c.meaning}")], ...) for c in COLUMNS},
    "quality": (Annotated[int, Field(strict=True, ge=QUALITY_RANGE[0], le=QUALITY_RANGE[1])], ...),
    "type": (Type, ...),
}
Row = create_model("Row", __base__=_Row, __doc__="A wine: 11 measurements, its score and its type.", **_ROW_FIELDS)


class ScoreRequest(Request):
    """Wines to be scored, and by which model."""

    rows: Annotated[list[Row], FailFast()] = Field(min_length=1)  # a thousand bad rows would make ten thousand faults
    model: Name = "champion"


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


class ScoreAnswer(BaseModel):
    """One score per row, in the rows' order."""

    model: str
    rows: list[ScoreView]


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
    """Whether a finished model became champion: better in one measure of the gate at least, worse in none, beyond the spread."""

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
    verdict: VerdictView | None = Field(description="whether the model became champion, and why")
    error: str | None
    created_at: datetime
    started_at: datetime | None
    last_progress_at: datetime | None
    finished_at: datetime | None


class _ModelHead(View):
    id: str
    method: str
    aliases: list[str]
    dataset: str = Field(validation_alias="dataset_id")
    job_id: str | None
    created_at: datetime
    sha256: str
    size: int = Field(description="bytes of its bundle")


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
    lineage: ReportLineage


class ReportQuery(Request):
    """How a report is shown."""

    format: Literal["json", "html"] | None = Field(None, description="none: as the Accept header asks, else JSON")


class RowsQuery(Request):
    """Which of the real rows behind a model."""

    part: Literal["train", "holdout"] = Field("holdout", description="what it was trained on, or what its report was measured on")
    format: Literal["json", "csv"] | None = Field(None, description="none: as the Accept header asks, else JSON")


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
