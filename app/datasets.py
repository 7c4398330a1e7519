"""Datasets as rows of the database, so that a worker anywhere can read them: the original, our own, and uploads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app import formats, uci
from app.bundle import digest
from app.db import DATASET_LOCK, Database, alone, datasets, now
from app.errors import DatasetUnavailable, Fault, InvalidInput, NotFound
from app.settings import Settings
from app.tables import Table, read_csv
from app.wine import Wines

UCI = "uci"
STARTER = "starter"
STARTER_FILE = "starter.csv"
MIN_ROWS = 200  # below, a holdout and a generator both mean little

_COLUMNS = tuple(c for c in datasets.c if c.name != "content")


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
    """The dataset; ``NotFound`` if none has that id."""
    row = tx.execute(sa.select(*_COLUMNS).where(datasets.c.id == dataset_id)).one_or_none()
    if row is None:
        raise NotFound(f"no dataset has the id {dataset_id!r}; GET /datasets lists them, and POST /datasets takes a CSV of your own")
    return _dataset(row)


def page(tx: Connection, *, limit: int, offset: int) -> list[Dataset]:
    """Datasets, newest first."""
    return [_dataset(row) for row in tx.execute(sa.select(*_COLUMNS).order_by(datasets.c.created_at.desc(), datasets.c.id).limit(limit).offset(offset))]


def content(tx: Connection, dataset_id: str) -> bytes:
    """The rows of a dataset as canonical CSV; ``NotFound`` as ``get``."""
    get(tx, dataset_id)
    data: bytes = tx.execute(sa.select(datasets.c.content).where(datasets.c.id == dataset_id)).scalar_one()
    return data


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


def upload(db: Database, data: bytes, *, name: str) -> Dataset:
    """The dataset made of these CSV bytes; the same rows uploaded again are the same dataset.

    ``InvalidInput`` if a cell is wrong or there are fewer than ``MIN_ROWS`` rows.
    """
    table = read_csv(data)
    if len(table.wines) < MIN_ROWS:
        detail = f"a dataset needs at least {MIN_ROWS} rows, and this one has {len(table.wines)}"
        raise InvalidInput(detail, [Fault("/body", detail, expected=f"at least {MIN_ROWS} rows", found=str(len(table.wines)))])
    canonical = _canonical(table.wines)
    return _store(db, digest(canonical)[:16], canonical, table, source="upload", name=name, synthetic=False)


def install_starter(db: Database) -> Dataset:
    """The dataset shipped with the package, stored if it was not."""
    data = resources.files("app.starter").joinpath(STARTER_FILE).read_bytes()
    name = "6,497 synthetic wines poured by Cuvée's own model"
    return _store(db, STARTER, data, read_csv(data), source=STARTER, name=name, synthetic=True)


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
    return _store(db, UCI, _canonical(table.wines), table, source=UCI, name=name, synthetic=False)


def _store(db: Database, dataset_id: str, canonical: bytes, table: Table, *, source: str, name: str, synthetic: bool) -> Dataset:
    values: dict[str, Any] = {
        "id": dataset_id,
        "sha256": digest(canonical),
        "source": source,
        "name": name,
        "rows": len(table.wines),
        "synthetic": synthetic,
        "snapped": table.snapped,
        "content": canonical,
        "created_at": now(),
    }
    with db.write() as tx:
        alone(tx, DATASET_LOCK)
        same = sa.select(datasets.c.id).where(datasets.c.sha256 == values["sha256"]).order_by(datasets.c.id != dataset_id)
        known = tx.execute(same).scalars().first()
        if known == dataset_id or (known is not None and source == "upload"):  # the starter uploaded again stays synthetic
            return get(tx, known)
        if tx.execute(sa.update(datasets).where(datasets.c.id == dataset_id).values(values)).rowcount == 0:  # an older package's starter
            tx.execute(sa.insert(datasets).values(values))
        return get(tx, dataset_id)


def _canonical(wines: Wines) -> bytes:
    return formats.to_csv(wines)


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(**row._mapping)
