"""Models side by side: those that were measured on the same wines in the same way, and what stands at both ends.

Every column is one SQL expression, which the database selects and sorts by, so that no bundle and no whole report is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app import aliases, datasets, registry
from app.db import models
from app.errors import Fault, InvalidInput, NotFound
from app.measures import MEASURES, Better

Order = Literal["asc", "desc"]

ENDS = ("floor", "ceiling")  # what the rows are called that follow the models


@dataclass(frozen=True)
class Column:
    """A value that every model has or lacks; ``better`` values come first unless asked otherwise."""

    name: str
    value: sa.ColumnElement[Any]
    better: Better
    meaning: str


@dataclass(frozen=True)
class Contest:
    """The wines that models are compared on: a dataset's holdout.

    The rows of a split also decide whether a report is in-sample, so that models of one contest agree on that.
    """

    dataset_id: str
    dataset_sha256: str
    holdout: float
    split_seed: int


@dataclass(frozen=True)
class Board:
    """One page of a leaderboard: for each model its ``COLUMNS`` and ``aliases``; then ``ENDS``, which have the measures alone.

    Empty where the page has no models. ``more`` models follow on the next page; ``left_out`` were measured by an older protocol.
    """

    rows: list[dict[str, Any]]
    more: bool
    left_out: int


def _measured(name: str, part: str) -> sa.ColumnElement[Any]:
    return cast(sa.ColumnElement[Any], models.c.report[("measures", name, part)].as_float())


def _lineage_number(*path: str) -> sa.ColumnElement[Any]:
    return sa.cast(models.c.lineage[path].as_string(), sa.BigInteger)  # a seed is larger than PostgreSQL's INTEGER


def _worst_quality() -> sa.ColumnElement[Any]:
    """The greatest ``c2st`` among the qualities that were measured by themselves."""
    parts = sa.func.json_each(models.c.report["by_quality"]).table_valued("key", sa.column("value", sa.JSON))  # both databases have it
    return sa.select(sa.func.max(parts.c.value[("c2st", "value")].as_float())).select_from(parts).scalar_subquery()


COLUMNS = (
    Column("model", models.c.id, "lower", "its id, or `floor` (mostly real wines with each column shuffled by itself) or `ceiling` (other real wines)"),
    Column("method", models.c.method, "lower", "null: floor or ceiling"),
    Column("preset", models.c.lineage[("params", "preset")].as_string(), "lower", "of its params"),
    Column("seed", _lineage_number("seed"), "lower", "of its training"),
    Column("created_at", models.c.created_at, "higher", "newest first"),
    *(Column(name, _measured(name, "value"), meaning.better, meaning.text) for name, meaning in MEASURES.items()),
    Column("c2st_worst", _worst_quality(), "lower", "c2st of the quality where it is worst, of those that were measured by themselves"),
    Column(
        "confidence",
        models.c.report[("findings", "confidence", "poured")].as_float(),
        "higher",
        "mean probability that its classifier gives to the quality each of its wines was asked for",
    ),
    Column("confidence_real", models.c.report[("findings", "confidence", "real")].as_float(), "higher", "the same on real wines that it never saw"),
    Column("classifier", models.c.lineage["classifier_model"].as_string(), "lower", "the registered classifier it started from; null: it has its own or none"),
    Column("pool", models.c.pool, "lower", "rows made in advance, which are poured again and again; 0: a network pours new ones"),
    Column("train_cpu_s", models.c.lineage["train_cpu_s"].as_float(), "lower", "CPU-seconds of its training since the last resume, without export and report"),
    Column("train_wall_s", models.c.lineage["train_wall_s"].as_float(), "lower", "seconds of its training, since the last resume"),
    Column("rows_per_cpu_s", models.c.report["rows_per_cpu_s"].as_float(), "higher", "rows poured in a CPU-second of the machine that trained it"),
    *(Column(f"{name}_spread", _measured(name, "spread"), "lower", f"one standard deviation of {name} over stretches of its rows") for name in MEASURES),
)


def contest(tx: Connection, *, dataset: str | None, holdout: float | None, split_seed: int | None) -> Contest:
    """What is asked for, and what the champion was measured on in the place of what is not.

    ``NotFound`` if neither a stored dataset nor a model is of that dataset, or if there is no champion where one is needed.
    """
    if dataset is not None and holdout is not None and split_seed is not None:
        return Contest(dataset, _sha256(tx, dataset), holdout, split_seed)
    lineage = registry.get(tx, registry.CHAMPION).lineage
    params = lineage["params"]
    return Contest(
        lineage["dataset_id"] if dataset is None else dataset,
        lineage["dataset_sha256"] if dataset is None else _sha256(tx, dataset),
        params["holdout"] if holdout is None else holdout,
        params["split_seed"] if split_seed is None else split_seed,
    )


def board(tx: Connection, contest: Contest, *, sort: str, order: Order | None, limit: int, offset: int) -> Board:
    """The models of a contest by one of their columns, better first unless ``order`` says otherwise, those that lack it last.

    Compared are models of the newest protocol alone. ``InvalidInput`` if there is no such column.
    """
    by = next((column for column in COLUMNS if column.name == sort), None)
    if by is None:
        known = ", ".join(column.name for column in COLUMNS)
        raise InvalidInput(f"sort: expected one of {known}; found {sort!r}", [Fault("/query/sort", f"there is no {sort!r} to sort by", known, sort)])
    protocol = models.c.report["protocol"].as_integer()
    own = _own(contest)
    measured = tx.execute(sa.select(protocol.label("protocol"), sa.func.count().label("models")).where(*own).group_by("protocol")).all()
    if not measured:
        return Board([], more=False, left_out=0)
    newest = max(measured, key=lambda row: int(row.protocol))
    compared = (*own, protocol == newest.protocol)
    descends = (by.better == "higher") if order is None else (order == "desc")
    ranking = (
        sa.select(models.c.id)
        .where(*compared)
        .order_by((by.value.desc() if descends else by.value.asc()).nulls_last(), models.c.created_at.desc(), models.c.id)
        .limit(limit + 1)
        .offset(offset)
    )
    found = list(tx.execute(ranking).scalars())
    rows = _rows(tx, found[:limit])
    left_out = sum(row.models for row in measured) - newest.models
    return Board([*rows, *_ends(tx, compared)] if rows else [], len(found) > limit, left_out)


def _sha256(tx: Connection, dataset_id: str) -> str:
    """Of the rows that go by that id: those stored here, or else those that the newest model was trained on."""
    try:
        return datasets.get(tx, dataset_id).sha256
    except NotFound:
        newest = sa.select(models.c.lineage["dataset_sha256"].as_string()).where(models.c.dataset_id == dataset_id).order_by(models.c.created_at.desc())
        known: str | None = tx.execute(newest.limit(1)).scalar_one_or_none()
        if known is None:
            raise
        return known


def _own(contest: Contest) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        models.c.lineage["dataset_sha256"].as_string() == contest.dataset_sha256,
        models.c.lineage[("params", "holdout")].as_float() == contest.holdout,
        _lineage_number("params", "split_seed") == contest.split_seed,
    )


def _rows(tx: Connection, ids: list[str]) -> list[dict[str, Any]]:
    """The rows of these models, in this order: asked for apart, since a column reads a report once more and only a page needs all of them."""
    query = sa.select(*(column.value.label(column.name) for column in COLUMNS)).where(models.c.id.in_(ids))
    rows = {row.model: dict(row._mapping) for row in tx.execute(query)}
    names = aliases.names_of(tx, ids)
    return [rows[model_id] | {"aliases": " ".join(names[model_id]) if model_id in names else None} for model_id in ids]


def _ends(tx: Connection, compared: tuple[sa.ColumnElement[bool], ...]) -> list[dict[str, Any]]:
    """Floor and ceiling of each measure: they are the wines' and no model's, so the newest report of a method speaks for all of it."""
    nth = sa.func.row_number().over(partition_by=models.c.method, order_by=(models.c.created_at.desc(), models.c.id))
    ranked = sa.select(models.c.report["measures"].label("measures"), models.c.method, nth.label("nth")).where(*compared).subquery()
    reports = tx.execute(sa.select(ranked.c.measures).where(ranked.c.nth == 1).order_by(ranked.c.method)).scalars().all()
    return [{"model": end} | {name: _end(reports, name, end) for name in MEASURES} for end in ENDS]


def _end(reports: Sequence[dict[str, Any]], name: str, end: str) -> float | None:
    return next((report[name][end] for report in reports if name in report and report[name][end] is not None), None)
