"""The model registry: bundles as rows, and the aliases that point to them. Functions run in their caller's transaction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app import aliases
from app.aliases import Alias
from app.bundle import ENCODER, Bundle, Manifest, Measure, Report, model_id, unpack
from app.db import STARTER_LOCK, alone, deleted_models, jobs, models, now
from app.db import aliases as named
from app.errors import BundleInvalid, Conflict, CuveeError, Deleted, NotFound
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
    tx.execute(sa.delete(deleted_models).where(deleted_models.c.id == bundle.id))  # it is back


def resolve(tx: Connection, name: str) -> str:
    """The id of the model that ``name``, an alias or an id, stands for; ``NotFound`` if nothing does, ``Deleted`` if that model is gone."""
    if (alias := aliases.find(tx, name)) is not None:
        return alias.model_id
    if not existing(tx, [name]):
        raise _missing(tx, name)
    return name


def existing(tx: Connection, ids: Iterable[str]) -> set[str]:
    """Those of the ids that are registered models."""
    return set(tx.execute(sa.select(models.c.id).where(models.c.id.in_(list(ids)))).scalars())


def _missing(tx: Connection, name: str) -> NotFound:
    gone = tx.execute(sa.select(deleted_models).where(deleted_models.c.id == name)).one_or_none()
    if gone is None:
        return NotFound(f"no model or alias is called {name!r}; GET /models lists them")
    at = datetime.fromtimestamp(gone.deleted_at, UTC).isoformat(timespec="seconds")
    return Deleted(f"model {name} was deleted at {at} by {gone.deleted_by}: {gone.reason}; GET /models lists those that are there")


def get(tx: Connection, name: str) -> Model:
    """The model that ``name``, an alias or an id, stands for; ``NotFound`` if nothing does."""
    row = tx.execute(_HEADS.where(models.c.id == resolve(tx, name))).one()
    return _model(row, aliases.names_of(tx, [row.id]))


def page(tx: Connection, *, limit: int, offset: int) -> list[Model]:
    """Models, newest first."""
    rows = tx.execute(_HEADS.order_by(models.c.created_at.desc(), models.c.id).limit(limit).offset(offset)).all()
    names = aliases.names_of(tx, [row.id for row in rows])
    return [_model(row, names) for row in rows]


def load(tx: Connection, model_id: str) -> Bundle:
    """The verified bundle of a model; ``NotFound`` or ``Deleted``, or ``BundleInvalid`` if a single byte of it is not what was published."""
    try:
        return opened(model_id, *stored(tx, model_id))
    except BundleInvalid as error:
        raise BundleInvalid(f"model {model_id} can't be opened: {error.detail}") from error


def stored(tx: Connection, model_id: str) -> tuple[bytes, str]:
    """A model's bundle as it is stored, and the SHA-256 that it was published with; ``NotFound`` or ``Deleted``."""
    row = tx.execute(sa.select(models.c.bundle, models.c.sha256).where(models.c.id == model_id)).one_or_none()
    if row is None:
        raise _missing(tx, model_id)
    return row.bundle, row.sha256


def opened(model_id: str, data: bytes, sha256: str) -> Bundle:
    """The bundle in bytes that ``stored`` returned, verified outside of any transaction; ``BundleInvalid`` as ``load``."""
    bundle = unpack(data)
    if bundle.sha256 != sha256 or bundle.id != model_id:
        where = "its parts are whole, so its container was damaged, or its row in the registry"
        raise BundleInvalid(f"expected a bundle with SHA-256 {sha256}, found {bundle.sha256}: {where}")
    return bundle


def point(tx: Connection, alias: str, name: str, *, reason: str, by: str = aliases.SERVICE, expected: int | None = None) -> Alias:
    """The alias, which now stands for the model of that name; where it did so already, nothing changes.

    ``Stale`` if the alias is not at the ``expected`` version; ``NotFound`` or ``Deleted``; ``BundleInvalid`` if the model
    can't be opened, ``Conflict`` if it can't do what the alias is for.
    """
    aliases.hold(tx)
    aliases.expect(tx, alias, expected)
    wanted, current = resolve(tx, name), aliases.find(tx, alias)
    if current is None or current.model_id != wanted:
        _check_fit(alias, load(tx, wanted))
        aliases.point(tx, alias, wanted, reason=reason, by=by)
    return aliases.get(tx, alias)


def rollback(tx: Connection, alias: str, *, reason: str | None = None, by: str = aliases.SERVICE, expected: int | None = None) -> Alias:
    """The alias, which now stands for the model that it stood for before: again, and it goes back one more.

    Models that were deleted or can't be opened are passed over, and the reason in the history names them. ``NotFound``,
    ``Stale`` as ``point``; ``Conflict`` if there is nothing to go back to.
    """
    aliases.hold(tx)
    aliases.expect(tx, alias, expected)
    current, passed = aliases.get(tx, alias), []
    for change in aliases.beneath(tx, current):
        if change.model_id == current.model_id:  # what lay between was passed over, or deleted
            continue
        try:
            _check_fit(alias, load(tx, str(change.model_id)))
        except CuveeError as unfit:
            passed.append(unfit.detail)
            continue
        why = [reason or f"rolled back from {current.model_id}", *(f"passed over: {detail}" for detail in passed)]
        aliases.back(tx, alias, change, reason="; ".join(why), by=by)
        return aliases.get(tx, alias)
    why_not = "".join(f"; passed over: {detail}" for detail in passed)
    raise Conflict(f"{alias} has no earlier model to go back to: it stands for {current.model_id} since version {current.version}{why_not}")


def _check_fit(alias: str, model: Bundle) -> None:
    """``Conflict`` if the model can't do what the alias is for, where the service itself asks for it."""
    if alias == CHAMPION and not model.pours:
        raise Conflict(f"model {model.id} was trained by method {model.manifest.method!r}, which does not generate wines, and a champion must pour")
    if alias == AUTOENCODER and ENCODER not in model.parts:
        raise Conflict(f"model {model.id} was trained by method {model.manifest.method!r} and has no latent space, which the alias {AUTOENCODER} is for")


def judge(tx: Connection, challenger: Bundle, promote: Promote) -> Verdict:
    """Whether the challenger gets the alias that it contests: asked for, or measured better on the holder's own holdout, beyond the spread.

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
    champion, alias = tx.execute(_holder(CHAMPION)).one_or_none(), aliases.find(tx, CHAMPION)
    older = champion is not None and champion.job_id is None and champion.id != bundle.id
    if alias is None or (older and alias.changed_by == aliases.SERVICE):  # an older package's, which nobody chose by hand
        point(tx, CHAMPION, bundle.id, reason="the starter model, shipped with the package")
    return bundle.id


@cache
def starter_id() -> str:
    """The id of the model that is shipped with the package."""
    return model_id(starter_bytes())


def starter_bytes() -> bytes:
    """The bundle that is shipped with the package."""
    return resources.files("app.starter").joinpath(STARTER).read_bytes()


def _holder(alias: str) -> sa.Select[Any]:
    held = sa.select(named.c.model_id).where(named.c.alias == alias).scalar_subquery()
    return sa.select(models.c.id, models.c.job_id, models.c.lineage, models.c.report).where(models.c.id == held)


def _measured_on(lineage: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """What two reports must have in common for their numbers to be compared."""
    split = {key: lineage["params"][key] for key in SPLIT}
    return {"dataset_sha256": lineage["dataset_sha256"], **split, "protocol": report["protocol"], "in_sample": report["in_sample"]}


def _model(row: Row[Any], names: dict[str, list[str]]) -> Model:
    return Model(**{**row._mapping, "verdict": verdict_from(row.verdict)}, aliases=tuple(names.get(row.id, ())))
