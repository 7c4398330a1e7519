"""What may be asked of rows, and what that would cost: told by ``POST /samples/check``, and the reason why ``GET /samples`` refuses what costs too much."""

from __future__ import annotations

import math
import time
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool

from app import datasets, noise, provenance
from app.api.bodies import takes_json
from app.api.schemas import Asked, Body, Name, Quality, Type
from app.api.services import Services, UseServices, authorised
from app.cellar import OpenModel
from app.dcr import MAX_DCR
from app.errors import Conflict, DatasetDamaged, Fault, InvalidInput, NotFound
from app.sampler import BLOCK, MIN_DCR, PROBE_SEED, Condition, Odds, Range
from app.settings import Settings
from app.wine import COLUMNS, HIGH_TICKS, LOW_TICKS, Column

router = APIRouter(tags=["samples"])

ROUNDING = 1e-6  # ticks


class Conditions(Asked):
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


LIMITS: dict[str, Any] = {
    f"{c.name}_{end}": (float | None, Field(None, ge=c.low, le=c.high, description=f"{c.unit}; {word} this"))
    for c in COLUMNS
    for end, word in (("min", "not below"), ("max", "not above"))
}


class _CheckRequest(Conditions, Body):
    """A sample that somebody thinks of asking for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 500, "quality": [7], "alcohol_min": 13}]})

    _place: ClassVar[str] = "body"

    n: int = Field(100, ge=1, le=noise.MAX_ROW, description="rows")
    model: Name = Field("champion", description="a model's id or an alias")


CheckRequest = create_model("CheckRequest", __base__=_CheckRequest, __doc__=_CheckRequest.__doc__, **LIMITS)


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


@router.post("/samples/check", dependencies=[Depends(takes_json)])
async def check(asked: CheckRequest, request: Request, use: UseServices) -> CheckView:
    """What a sample under these conditions would cost and rest on, before it is asked for; nothing is poured."""
    limit = None if authorised(request, use.settings) else use.settings.max_rows
    served = await use.open(asked.model)
    model, condition = served.model, wanted(asked, use.settings)
    held, why = await run_in_threadpool(_training_rows, use, model, condition)
    view = await use.pour(lambda: _check(model, condition, n=asked.n, limit=limit, held=held, why=why))
    return view.model_copy(update={"warnings": [*served.warnings, *view.warnings]})


def wanted(asked: Any, settings: Settings) -> Condition:
    """What is asked for; ``Conflict`` if this deployment does not do it."""
    condition: Condition = asked.condition()
    if condition.min_dcr and not settings.dcr_step:
        raise Conflict("min_dcr is turned off in this deployment, since its answers tell where training rows lie (CUVEE_DCR_STEP is 0); leave it out")
    return condition


def warnings_of(model: OpenModel, condition: Condition, include: tuple[str, ...], *, n: int, limit: int | None) -> list[str]:
    """What must be said of the condition; a typed error if it can't be met."""
    warnings = model.sampler.check(condition)
    if lacking := [column for column in include if column != "row" and column not in model.scorer.columns]:
        method = model.bundle.manifest.method
        raise Conflict(f"model {model.bundle.id} was trained by method {method!r} and has nothing to tell {' or '.join(lacking)} with; leave it out of include")
    if condition.limited:
        odds = model.sampler.odds(condition)
        if (reason := _too_much(odds, n, limit)) is not None:
            raise InvalidInput(reason, [Fault(f"/query/{_binding(odds, condition)}", reason, expected="limits that more rows pass", found=_shown(odds))])
    return warnings


def _binding(odds: Odds, condition: Condition) -> str:
    """The parameter that costs the most rows."""
    if odds.binding == MIN_DCR:
        return MIN_DCR
    binding = next(r for r in condition.ranges if r.name == odds.binding)
    return f"{binding.name}_{'min' if binding.low > LOW_TICKS[binding.column] else 'max'}"


def _too_much(odds: Odds, n: int, limit: int | None) -> str | None:
    """Why so many rows within the limits can't be had; None if they can."""
    needed = odds.rows_for(n)
    if needed is not None and (limit is None or needed <= limit):
        return None
    if not odds.without:
        return f"n: expected at most {limit} rows in one answer, found {n}"
    loosen = ", ".join(f"{name} ({passed / odds.probed:.2%})" for name, passed in odds.without.items())
    advice = f"loosen a limit; without those of one measurement would pass: {loosen}"
    if needed is None or limit is None:
        return f"expected limits that some rows pass, found that {_shown(odds)} do; {advice}"
    most = int(limit * odds.share)
    return f"{_shown(odds)} are within these limits, so {n} rows mean making about {needed} where {limit} are allowed; ask for at most {most}, or {advice}"


def _shown(odds: Odds) -> str:
    return f"{odds.passed} of {odds.probed} rows"


def _check(model: OpenModel, condition: Condition, *, n: int, limit: int | None, held: int | None, why: str | None) -> CheckView:
    warnings = model.sampler.check(condition)
    odds = model.sampler.odds(condition)
    reason = _too_much(odds, n, limit)
    if condition.limited and reason is None and odds.passed < n and odds.share < 1:
        warnings.append(f"the share is an estimate from {_shown(odds)}")
    needed = odds.rows_for(n)
    return CheckView(
        feasible=reason is None,
        model=model.bundle.id,
        acceptance=odds.share,
        probed=odds.probed,
        rows_scanned=needed,
        max_rows=limit or noise.MAX_ROW,
        seconds=None if needed is None else round(needed * _seconds_per_row(model, condition.min_dcr), 3),
        binding=odds.binding,
        without={name: passed / odds.probed for name, passed in odds.without.items()},
        redrawn=odds.redrawn,
        training_rows=held,
        warnings=[
            *warnings,
            *([reason] if reason else []),
            *([why] if why else []),
            *(["no training row meets this: what is poured is a guess"] if held == 0 else []),
        ],
    )


def _seconds_per_row(model: OpenModel, min_dcr: float) -> float:
    start = time.perf_counter()
    next(model.sampler.blocks(Condition(min_dcr=min_dcr), seed=PROBE_SEED, offset=0, n=BLOCK))
    return (time.perf_counter() - start) / BLOCK


def _training_rows(use: Services, model: OpenModel, condition: Condition) -> tuple[int | None, str | None]:
    lineage = model.bundle.manifest.lineage.model_dump()
    try:
        with use.db.read() as tx:
            content = datasets.content(tx, provenance.dataset(tx, model.bundle.id, lineage).id)
    except (NotFound, Conflict, DatasetDamaged) as error:
        return None, error.detail
    return int(condition.holds(provenance.rows(content, lineage).train).sum()), None
