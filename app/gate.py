"""The gate: whether a finished model takes the place of the one that answers. ``docs/decisions/0008-gate.md`` says why so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app import aliases
from app.bundle import ENCODER, Bundle, Manifest, Measure, Report
from app.db import aliases as named
from app.db import models
from app.jobs import Comparison, Outcome, Promote, Verdict
from app.measures import MEASURES
from app.registry import AUTOENCODER, CHAMPION, SPLIT


@dataclass(frozen=True)
class GateMeasure:
    """A measure that decides on promotion. What lies beyond ``best`` is luck, not merit, and counts as ``best``.

    Which way is better, ``app.measures`` knows. ``real_is_best``: the ceiling, what real wines of the same holdout reach, is the best where it was measured.
    """

    name: str
    best: float | None
    real_is_best: bool = False

    def shortfall(self, value: float, *, best: float) -> float:
        """How far the value is from the best, in the measure's unit; 0 at the best and beyond."""
        return max(0.0, value - best if MEASURES[self.name].better == "lower" else best - value)


LOSS = 0.5  # of the spread: who wants the place must prove its gains, and may not make up for likely losses with them
# likeness, utility, privacy; docs/decisions/0008-gate.md says why these and why so
GATE = (
    GateMeasure("c2st", best=0.5),
    GateMeasure("tstr_r2", best=1.0),
    GateMeasure("dcr_closer_to_train", best=0.5, real_is_best=True),
    GateMeasure("near_copies", best=None, real_is_best=True),
)


def judge(tx: Connection, challenger: Bundle, promote: Promote) -> Verdict:
    """Whether the challenger gets the alias that it contests: asked for, or measured better on the holder's own holdout.

    Holds the alias until the transaction ends: of two models that finish together the second meets the first.
    """
    aliases.hold(tx)
    if not challenger.pours:
        return Verdict(False, "not promoted: it does not generate wines, and a champion must pour")
    if promote != "auto":
        return Verdict(promote == "always", f"{'promoted' if promote == 'always' else 'not promoted'}: promote was {promote!r}")
    alias = contested(challenger)
    champion = tx.execute(_holder(alias)).one_or_none()
    if champion is None:
        return Verdict(True, f"promoted: there was no {alias} to compare with")
    return _compare(challenger.manifest, champion, alias)


def contested(model: Bundle) -> str:
    """The alias that a finished model may get: one that can vary wines is compared with its like only."""
    return AUTOENCODER if ENCODER in model.parts else CHAMPION


def _compare(challenger: Manifest, champion: Row[Any], alias: str) -> Verdict:
    """Whether the challenger's report beats that of the ``alias``'s holder; reports of other rows are no match."""
    if challenger.report.in_sample:
        return Verdict(False, f"not promoted: its report is in-sample, so there is nothing to compare with the {alias}'s", champion.id)
    own, its = _measured_on(challenger.lineage.model_dump(), challenger.report.model_dump()), _measured_on(champion.lineage, champion.report)
    if differing := [key for key in own if own[key] != its[key]]:
        return Verdict(
            False, f"not promoted: the {alias} was measured otherwise ({', '.join(differing)} differ); PUT /aliases/{alias} decides by hand", champion.id
        )
    its_report = Report.model_validate(champion.report)
    compared = {gate.name: compare(gate, challenger.report.measures.get(gate.name), its_report.measures.get(gate.name)) for gate in GATE}
    if lacking := [name for name, comparison in compared.items() if comparison is None]:
        why = "; ".join([f"{', '.join(lacking)} and its spread are not in both reports", *challenger.report.notes])
        return Verdict(False, f"not promoted: {why}; PUT /aliases/{alias} decides by hand", champion.id)
    return _gate(champion.id, alias, tuple(comparison for comparison in compared.values() if comparison is not None))


def compare(gate: GateMeasure, challenger: Measure | None, champion: Measure | None) -> Comparison | None:
    """The two on one measure; None unless both were measured, and repeatedly.

    Better is a lead beyond the spread of both together, the root of the sum of their squares; worse is a lag beyond ``LOSS`` of it.
    """
    if challenger is None or champion is None or challenger.spread is None or champion.spread is None:
        return None
    best = challenger.ceiling if gate.real_is_best and challenger.ceiling is not None else gate.best  # either report's ceiling is that of these rows
    if best is None:
        return None
    lead = gate.shortfall(champion.value, best=best) - gate.shortfall(challenger.value, best=best)
    spread = math.hypot(challenger.spread, champion.spread)
    outcome: Outcome = "better" if lead > spread else "worse" if lead < -LOSS * spread else "even"
    return Comparison(gate.name, challenger.value, champion.value, spread, outcome)


def _gate(champion: str, alias: str, comparisons: tuple[Comparison, ...]) -> Verdict:
    """Better in one measure at least, worse in none."""
    better, worse = (_figures(c for c in comparisons if c.outcome == outcome) for outcome in ("better", "worse"))
    if worse:
        though = f", though better in {better}" if better else ""
        return Verdict(False, f"not promoted: worse than the {alias}, by more than half the spread, in {worse}{though}", champion, comparisons)
    if not better:
        return Verdict(False, f"not promoted: even with the {alias} in {_figures(comparisons)}", champion, comparisons)
    return Verdict(True, f"promoted: better than the {alias} in {better}, worse in nothing that the gate compares", champion, comparisons)


def _figures(comparisons: Iterable[Comparison]) -> str:
    return ", ".join(f"{c.metric} ({c.challenger:.4f} against {c.champion:.4f}, spread {c.spread:.4f})" for c in comparisons)


def _holder(alias: str) -> sa.Select[Any]:
    held = sa.select(named.c.model_id).where(named.c.alias == alias).scalar_subquery()
    return sa.select(models.c.id, models.c.job_id, models.c.lineage, models.c.report).where(models.c.id == held)


def _measured_on(lineage: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """What two reports must have in common for their numbers to be compared."""
    split = {key: lineage["params"][key] for key in SPLIT}
    return {"dataset_sha256": lineage["dataset_sha256"], **split, "protocol": report["protocol"], "in_sample": report["in_sample"]}
