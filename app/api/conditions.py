"""What a condition would cost: told beforehand by ``POST /samples/check``, and the reason why ``GET /samples`` refuses what costs too much."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from app import noise, provenance
from app.api.bodies import takes_json
from app.api.schemas import CheckRequest, CheckView
from app.api.services import Services, UseServices, authorised
from app.cellar import OpenModel
from app.errors import Conflict, DatasetDamaged, Fault, InvalidInput, NotFound
from app.sampler import BLOCK, MIN_DCR, PROBE_SEED, Condition, Odds
from app.settings import Settings
from app.wine import LOW_TICKS

router = APIRouter(tags=["samples"])


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
    advice = f"share that would pass without the limits of: {loosen}"
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
            rows = provenance.rows(tx, provenance.dataset(tx, model.bundle.id, lineage), lineage)
    except (NotFound, Conflict, DatasetDamaged) as error:
        return None, error.detail
    return int(condition.holds(rows.train).sum()), None
