"""The model registry: bundles as rows, and the aliases that point to them. Functions run in their caller's transaction."""

from __future__ import annotations

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
from app.bundle import ENCODER, Bundle, digest, model_id, unpack
from app.db import STARTER_LOCK, alone, deleted_models, jobs, models, now
from app.errors import BundleInvalid, Conflict, CuveeError, Deleted, NotFound
from app.jobs import Verdict, verdict_from

CHAMPION = "champion"  # pours where no model is named
AUTOENCODER = "autoencoder"  # likewise varies wines
SPLIT = ("holdout", "split_seed")  # the params that decide which rows are held out
STARTER = "starter.cuvee"


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
    try:
        bundle = unpack(data)
    except BundleInvalid as error:
        if digest(data) == sha256:  # it was published like that: another version's
            raise
        raise BundleInvalid(f"it was damaged where it is stored: {error.detail}") from error
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
    champion = aliases.find(tx, CHAMPION)
    if champion is None or (champion.changed_by == aliases.SERVICE and _shipped(tx, champion.model_id)):  # an older package's, which nobody chose by hand
        point(tx, CHAMPION, bundle.id, reason="the starter model, shipped with the package")
    return bundle.id


@cache
def starter_id() -> str:
    """The id of the model that is shipped with the package."""
    return model_id(starter_bytes())


def starter_bytes() -> bytes:
    """The bundle that is shipped with the package."""
    return resources.files("app.starter").joinpath(STARTER).read_bytes()


def _shipped(tx: Connection, model_id: str) -> bool:
    """Whether a package brought the model, and no job."""
    return tx.execute(sa.select(models.c.job_id).where(models.c.id == model_id)).scalar_one() is None


def _model(row: Row[Any], names: dict[str, list[str]]) -> Model:
    return Model(**{**row._mapping, "verdict": verdict_from(row.verdict)}, aliases=tuple(names.get(row.id, ())))
