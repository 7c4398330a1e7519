"""Datasets as rows of the database, so that a worker anywhere can read them: the original, our own, and uploads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from app import uci, uploads
from app.bundle import digest
from app.db import DATASET_LOCK, OPEN_STATES, Database, alone, datasets, jobs, models, now
from app.errors import Conflict, DatasetDamaged, DatasetUnavailable, NotFound
from app.settings import Settings
from app.tables import read_csv
from app.uploads import Canonical

UCI = "uci"
STARTER = "starter"
STARTER_FILE = "starter.csv"
UPLOAD = "upload"
LISTED = 20  # ids that a refusal names

_COLUMNS = tuple(c for c in datasets.c if c.name not in ("content", "deleted_at"))
_HERE = datasets.c.deleted_at.is_(None)
_MENDED_BY = {STARTER: "`cuvee migrate` mends it", UCI: "DELETE /datasets/uci?force=true, and the next training on it brings it back"}
_BROUGHT_BY = {UCI: "POST /train with dataset 'uci' brings it back"}


@dataclass(frozen=True)
class Dataset:
    """A stored dataset without its rows. ``snapped`` counts values that were moved to the grid when it came in."""

    id: str
    sha256: str
    source: str
    name: str
    rows: int
    synthetic: bool
    snapped: int
    created_at: float


def get(tx: Connection, dataset_id: str) -> Dataset:
    """The dataset; ``NotFound`` if none has that id, or if it was deleted."""
    row = tx.execute(sa.select(*_COLUMNS, datasets.c.deleted_at).where(datasets.c.id == dataset_id)).one_or_none()
    if row is None:
        raise NotFound(f"no dataset has the id {dataset_id!r}; GET /datasets lists them, and POST /datasets takes a table of your own")
    if row.deleted_at is not None:
        raise NotFound(f"dataset {dataset_id!r} was deleted; {_BROUGHT_BY.get(dataset_id, 'POST /datasets with the same rows brings it back')}")
    return _dataset(row._mapping)


def page(tx: Connection, *, limit: int, offset: int) -> list[Dataset]:
    """Datasets, newest first."""
    newest = sa.select(*_COLUMNS).where(_HERE).order_by(datasets.c.created_at.desc(), datasets.c.id)
    return [_dataset(row._mapping) for row in tx.execute(newest.limit(limit).offset(offset))]


def content(tx: Connection, dataset_id: str) -> bytes:
    """The rows of a dataset as canonical CSV; ``NotFound`` as ``get``, ``DatasetDamaged`` if they are not those that were stored."""
    expected = get(tx, dataset_id).sha256
    data: bytes = tx.execute(sa.select(datasets.c.content).where(datasets.c.id == dataset_id)).scalar_one()
    if (found := digest(data)) != expected:
        how = _MENDED_BY.get(dataset_id, "POST /datasets with the same rows mends it")
        raise DatasetDamaged(f"dataset {dataset_id!r} can't be read: it was damaged where it is stored (expected SHA-256 {expected}, found {found}); {how}")
    return data


def hold(tx: Connection, dataset_id: str) -> None:
    """Keeps the dataset from being deleted before the transaction ends; ``NotFound`` as ``get``."""
    tx.execute(sa.select(datasets.c.id).where(datasets.c.id == dataset_id).with_for_update(read=True))
    get(tx, dataset_id)


def choose(db: Database, settings: Settings, requested: str | None) -> tuple[Dataset, list[str]]:
    """The dataset to train on, and what the asker must be told about the choice.

    Nothing requested means the original data, or ours with a warning where the original can't be had.
    ``NotFound``, ``DatasetUnavailable`` and ``DatasetDamaged`` as the request deserves.
    """
    if requested is not None:
        return _named(db, settings, requested), []
    try:
        return _named(db, settings, UCI), []
    except DatasetUnavailable as error:
        warning = f"training on 'starter', which is synthetic (poured by Cuvée's own model), because {error.detail}"
        return _named(db, settings, STARTER), [warning]


def add(tx: Connection, upload: Canonical, *, name: str) -> tuple[Dataset, bool]:
    """The dataset of these rows, and whether it is new: the same rows uploaded again are the dataset that they were, under its first name."""
    return _store(tx, upload.sha256[:16], upload, source=UPLOAD, name=name, synthetic=False)


def install_starter(db: Database) -> Dataset:
    """The dataset shipped with the package, stored if it was not."""
    data = resources.files("app.starter").joinpath(STARTER_FILE).read_bytes()
    name = "6,497 synthetic wines poured by Cuvée's own model"
    with db.write() as tx:
        return _store(tx, STARTER, uploads.canonical(read_csv(data)), source=STARTER, name=name, synthetic=True)[0]


def delete(tx: Connection, dataset_id: str, *, force: bool) -> None:
    """Drops a dataset's rows; its id stays taken, since jobs refer to it.

    ``NotFound`` as ``get``. ``Conflict`` for the starter, while a job on it is not over, and, unless ``force``, while
    any job or model is of it: they keep what they have, but their rows can't be shown or trained on any more.
    """
    if dataset_id == STARTER:
        raise Conflict("dataset 'starter' comes with the package and is always there: it can't be deleted")
    alone(tx, DATASET_LOCK)
    get(tx, dataset_id)
    # written before it is looked for jobs: whoever queues one at this moment holds the row, or waits for it
    tx.execute(sa.update(datasets).where(datasets.c.id == dataset_id).values(content=b"", deleted_at=now()))
    of_it = sa.select(jobs.c.id).where(jobs.c.dataset_id == dataset_id).order_by(jobs.c.created_at.desc())
    if waiting := _some(tx, of_it.where(jobs.c.state.in_(OPEN_STATES)), "job"):
        raise Conflict(f"dataset {dataset_id!r} is needed by {waiting}, not over yet; wait, or POST /jobs/{{id}}/cancel first")
    models_of_it = sa.select(models.c.id).where(models.c.dataset_id == dataset_id).order_by(models.c.created_at.desc())
    if not force and (users := [told for told in (_some(tx, of_it, "job"), _some(tx, models_of_it, "model")) if told]):
        raise Conflict(
            f"dataset {dataset_id!r} is referred to by {' and '.join(users)}; "
            f"DELETE /datasets/{dataset_id}?force=true drops its rows all the same: jobs, models and reports stay, GET /models/{{id}}/rows is 404 then"
        )


def _some(tx: Connection, ids: sa.Select[Any], noun: str) -> str:
    """How many there are, and the first by their ids; nothing where there are none."""
    count = tx.execute(sa.select(sa.func.count()).select_from(ids.order_by(None).subquery())).scalar_one()
    if count == 0:
        return ""
    first = ", ".join(tx.execute(ids.limit(LISTED)).scalars())
    return f"{count} {noun}{'' if count == 1 else 's'} ({first}{', ...' if count > LISTED else ''})"


def _named(db: Database, settings: Settings, dataset_id: str) -> Dataset:
    try:
        with db.read() as tx:
            return get(tx, dataset_id)
    except NotFound:
        if dataset_id == STARTER:
            return install_starter(db)
        if dataset_id != UCI:
            raise
    table = uci.fetch(settings)  # outside any transaction: it may wait for the network
    name = "UCI Wine Quality, red and white (Cortez et al. 2009, CC BY 4.0)"
    with db.write() as tx:
        return _store(tx, UCI, uploads.canonical(table), source=UCI, name=name, synthetic=False)[0]


def _store(tx: Connection, dataset_id: str, rows: Canonical, *, source: str, name: str, synthetic: bool) -> tuple[Dataset, bool]:
    """The dataset under that id, or, of an upload, the one that has these rows already; and whether it had to be stored."""
    alone(tx, DATASET_LOCK)
    same = sa.select(datasets.c.id).where(datasets.c.sha256 == rows.sha256, _HERE).order_by(datasets.c.id != dataset_id)
    known = tx.execute(same).scalars().first()
    if known == dataset_id or (known is not None and source == UPLOAD):  # the starter uploaded again stays synthetic
        _mend(tx, known, rows)
        return get(tx, known), False
    values: dict[str, Any] = {
        "id": dataset_id,
        "sha256": rows.sha256,
        "source": source,
        "name": name,
        "rows": rows.rows,
        "synthetic": synthetic,
        "snapped": rows.snapped,
        "content": rows.content,
        "created_at": now(),
        "deleted_at": None,
    }
    # there already: an older package's starter, or one that was deleted
    if tx.execute(sa.update(datasets).where(datasets.c.id == dataset_id).values(values)).rowcount == 0:
        tx.execute(sa.insert(datasets).values(values))
    return get(tx, dataset_id), True


def _mend(tx: Connection, dataset_id: str, rows: Canonical) -> None:
    """Puts back rows that were damaged where they are stored."""
    try:
        content(tx, dataset_id)
    except DatasetDamaged:
        tx.execute(sa.update(datasets).where(datasets.c.id == dataset_id).values(content=rows.content))


def _dataset(row: RowMapping) -> Dataset:
    return Dataset(**{name: row[name] for name in Dataset.__dataclass_fields__})
