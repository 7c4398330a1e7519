"""The model registry: bundles as rows, and the aliases that point to them. Functions run in their caller's transaction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app.bundle import ENCODER, Bundle, Manifest, Measure, Report, unpack
from app.db import CHAMPION_LOCK, STARTER_LOCK, aliases, alone, jobs, models, now
from app.errors import BundleInvalid, Conflict, NotFound
from app.jobs import Comparison, Outcome, Promote, Verdict, verdict_from
from app.measures import MEASURES

CHAMPION = "champion"  # pours where no model is named
AUTOENCODER = "autoencoder"  # likewise varies wines
SPLIT = ("holdout", "split_seed")  # the params that decide which rows are held out
STARTER = "starter.cuvee"


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


# likeness, utility, privacy; docs/decisions/0008-gate.md says why these and why so
GATE = (
    GateMeasure("c2st", best=0.5),
    GateMeasure("tstr_r2", best=1.0),
    GateMeasure("dcr_closer_to_train", best=0.5, real_is_best=True),
    GateMeasure("near_copies", best=None, real_is_best=True),
)


@dataclass(frozen=True)
class Model:
    """A registered model without its bytes; ``created_at`` in seconds since 1970 on the database's clock, ``pool`` as in its manifest."""

    id: str
    job_id: str | None
    method: str
    dataset_id: str
    sha256: str
    size: int
    report: dict[str, Any]
    lineage: dict[str, Any]
    created_at: float
    pool: int
    verdict: Verdict | None
    aliases: tuple[str, ...]

    @property
    def measures(self) -> dict[str, Any]:
        """What its report measured, by name."""
        measures: dict[str, Any] = self.report["measures"]
        return measures


_HEAD = (*(c for c in models.c if c.name != "bundle"), sa.func.length(models.c.bundle).label("size"), jobs.c.verdict)
_HEADS = sa.select(*_HEAD).select_from(models.outerjoin(jobs, jobs.c.id == models.c.job_id))


def publish(tx: Connection, bundle: Bundle, data: bytes, *, job_id: str | None) -> None:
    """Registers a bundle under its own id; a job registers one model at most (``IntegrityError`` on the second)."""
    values = {
        "id": bundle.id,
        "job_id": job_id,
        "method": bundle.manifest.method,
        "dataset_id": bundle.manifest.lineage.dataset_id,
        "sha256": bundle.sha256,
        "bundle": data,
        "report": bundle.manifest.report.model_dump(),
        "lineage": bundle.manifest.lineage.model_dump(),
        "pool": bundle.manifest.pool,
        "created_at": now(),
    }
    tx.execute(sa.insert(models).values(values))


def resolve(tx: Connection, name: str) -> str:
    """The id of the model that ``name``, an alias or an id, stands for; ``NotFound`` if nothing does."""
    alias = tx.execute(sa.select(aliases.c.model_id).where(aliases.c.alias == name)).scalar_one_or_none()
    known = alias or tx.execute(sa.select(models.c.id).where(models.c.id == name)).scalar_one_or_none()
    if known is None:
        raise NotFound(f"no model or alias is called {name!r}; GET /models lists them")
    return str(known)


def get(tx: Connection, name: str) -> Model:
    """The model that ``name``, an alias or an id, stands for; ``NotFound`` if nothing does."""
    row = tx.execute(_HEADS.where(models.c.id == resolve(tx, name))).one()
    return _model(row, _aliases_of(tx, [row.id]))


def page(tx: Connection, *, limit: int, offset: int) -> list[Model]:
    """Models, newest first."""
    rows = tx.execute(_HEADS.order_by(models.c.created_at.desc(), models.c.id).limit(limit).offset(offset)).all()
    names = _aliases_of(tx, [row.id for row in rows])
    return [_model(row, names) for row in rows]


def load(tx: Connection, model_id: str) -> Bundle:
    """The verified bundle of a model; ``NotFound``, or ``BundleInvalid`` if its bytes were damaged."""
    try:
        return unpack(content(tx, model_id))
    except BundleInvalid as error:
        raise BundleInvalid(f"model {model_id} can't be opened: {error.detail}") from error


def content(tx: Connection, model_id: str) -> bytes:
    """The bytes of a model's bundle, as they are stored; ``NotFound``."""
    data: bytes | None = tx.execute(sa.select(models.c.bundle).where(models.c.id == model_id)).scalar_one_or_none()
    if data is None:
        raise NotFound(f"no model has the id {model_id!r}; GET /models lists them")
    return data


def point(tx: Connection, alias: str, model_id: str, *, reason: str) -> None:
    """Makes ``alias`` stand for the model."""
    values = {"model_id": model_id, "reason": reason, "changed_at": now()}
    if tx.execute(sa.update(aliases).where(aliases.c.alias == alias).values(values)).rowcount == 0:
        tx.execute(sa.insert(aliases).values(alias=alias, **values))


def judge(tx: Connection, challenger: Bundle, promote: Promote) -> Verdict:
    """Whether the challenger gets the alias that it contests: asked for, or measured better on the holder's own holdout, beyond the spread.

    Holds the alias until the transaction ends: of two models that finish together the second meets the first.
    """
    alone(tx, CHAMPION_LOCK)
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
            False, f"not promoted: the {alias} was measured otherwise ({', '.join(differing)} differ); promote 'always' decides by hand", champion.id
        )
    its_report = Report.model_validate(champion.report)
    compared = {gate.name: compare(gate, challenger.report.measures.get(gate.name), its_report.measures.get(gate.name)) for gate in GATE}
    if lacking := [name for name, comparison in compared.items() if comparison is None]:
        why = "; ".join([f"{', '.join(lacking)} and its spread are not in both reports", *challenger.report.notes])
        return Verdict(False, f"not promoted: {why}; promote 'always' decides by hand", champion.id)
    return _gate(champion.id, alias, tuple(comparison for comparison in compared.values() if comparison is not None))


def compare(gate: GateMeasure, challenger: Measure | None, champion: Measure | None) -> Comparison | None:
    """The two on one measure; None unless both were measured, and repeatedly.

    Better and worse are differences beyond the spread of both together, the root of the sum of their squares.
    """
    if challenger is None or champion is None or challenger.spread is None or champion.spread is None:
        return None
    best = challenger.ceiling if gate.real_is_best and challenger.ceiling is not None else gate.best  # either report's ceiling is that of these rows
    if best is None:
        return None
    lead = gate.shortfall(champion.value, best=best) - gate.shortfall(challenger.value, best=best)
    spread = math.hypot(challenger.spread, champion.spread)
    outcome: Outcome = "better" if lead > spread else "worse" if lead < -spread else "even"
    return Comparison(gate.name, challenger.value, champion.value, spread, outcome)


def _gate(champion: str, alias: str, comparisons: tuple[Comparison, ...]) -> Verdict:
    """Better beyond the spread in one measure at least, worse beyond it in none."""
    better, worse = (_figures(c for c in comparisons if c.outcome == outcome) for outcome in ("better", "worse"))
    if worse:
        return Verdict(False, f"not promoted: worse than the {alias} in {worse}" + (f", though better in {better}" if better else ""), champion, comparisons)
    if not better:
        return Verdict(False, f"not promoted: even with the {alias} in {_figures(comparisons)}", champion, comparisons)
    return Verdict(True, f"promoted: better than the {alias} in {better}, worse in nothing that the gate compares", champion, comparisons)


def _figures(comparisons: Iterable[Comparison]) -> str:
    return ", ".join(f"{c.metric} ({c.challenger:.4f} against {c.champion:.4f}, spread {c.spread:.4f})" for c in comparisons)


def pin_classifier(tx: Connection, name: str, *, dataset_sha256: str, params: dict[str, Any]) -> str:
    """The id of the classifier that ``name`` stands for, fit to start a training with these params.

    ``NotFound``, or ``Conflict`` if it was trained on rows that this training holds out: they would not be unseen.
    """
    model = get(tx, name)
    own = {"dataset_sha256": model.lineage["dataset_sha256"], **{key: model.lineage["params"][key] for key in SPLIT}}
    wanted = {"dataset_sha256": dataset_sha256, **{key: params[key] for key in SPLIT}}
    if params["holdout"] > 0 and own != wanted:
        raise Conflict(f"classifier {model.id} may have seen what this training holds out: expected one trained with {wanted}, found {own}")
    return model.id


def install_starter(tx: Connection) -> str:
    """The id of the model shipped with the package, registered and made champion where there is none yet."""
    data = starter_bytes()
    bundle = unpack(data)
    alone(tx, STARTER_LOCK)
    if tx.execute(sa.select(models.c.id).where(models.c.id == bundle.id)).one_or_none() is None:
        publish(tx, bundle, data, job_id=None)
    champion = tx.execute(_holder(CHAMPION)).one_or_none()
    if champion is None or (champion.job_id is None and champion.id != bundle.id):  # none yet, or an older package's
        point(tx, CHAMPION, bundle.id, reason="the starter model, shipped with the package")
    return bundle.id


def starter_bytes() -> bytes:
    """The bundle that is shipped with the package."""
    return resources.files("app.starter").joinpath(STARTER).read_bytes()


def _holder(alias: str) -> sa.Select[Any]:
    return (
        sa.select(models.c.id, models.c.job_id, models.c.lineage, models.c.report)
        .join(aliases, aliases.c.model_id == models.c.id)
        .where(aliases.c.alias == alias)
    )


def _measured_on(lineage: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """What two reports must have in common for their numbers to be compared."""
    split = {key: lineage["params"][key] for key in SPLIT}
    return {"dataset_sha256": lineage["dataset_sha256"], **split, "protocol": report["protocol"], "in_sample": report["in_sample"]}


def _aliases_of(tx: Connection, ids: list[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for alias, model_id in tx.execute(sa.select(aliases.c.alias, aliases.c.model_id).where(aliases.c.model_id.in_(ids)).order_by(aliases.c.alias)):
        names.setdefault(model_id, []).append(alias)
    return names


def _model(row: Row[Any], names: dict[str, list[str]]) -> Model:
    return Model(**{**row._mapping, "verdict": verdict_from(row.verdict)}, aliases=tuple(names.get(row.id, ())))
