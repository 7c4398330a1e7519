"""The names that models answer to, and the log of every change of them. Functions run in their caller's transaction.

Each alias has changes numbered from 1, and nothing in the log is ever altered. It is also an undo stack: a change to
another model lies on the one before it (``below``), and a rollback takes the topmost off, by a change of its own. So two
rollbacks go two models back, and the way forward is to set the alias again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.db import REGISTRY_LOCK, alias_history, aliases, alone, models, now
from app.errors import NotFound, Stale

SERVICE = "cuvee"  # who changes an alias where nobody says who

Action = Literal["set", "rollback", "delete"]


@dataclass(frozen=True)
class Change:
    """One entry of the log; ``changed_at`` in seconds since 1970 on the database's clock. ``model_id`` is None where the alias was deleted."""

    alias: str
    version: int
    action: Action
    model_id: str | None
    below: int | None
    reason: str
    changed_by: str
    changed_at: float
    model_exists: bool


@dataclass(frozen=True)
class Alias:
    """What an alias stands for, since when and why; ``version`` counts its changes, ``below`` is the one that a rollback leads back to."""

    alias: str
    model_id: str
    version: int
    below: int | None
    reason: str
    changed_by: str
    changed_at: float


_CURRENT = sa.select(
    aliases.c.alias,
    aliases.c.model_id,
    aliases.c.version,
    *(alias_history.c[name] for name in ("below", "reason", "changed_by", "changed_at")),
).join(alias_history, sa.and_(alias_history.c.alias == aliases.c.alias, alias_history.c.version == aliases.c.version))
_LOG = sa.select(*alias_history.c, models.c.id.is_not(None).label("model_exists")).outerjoin(models, models.c.id == alias_history.c.model_id)


def hold(tx: Connection) -> None:
    """Keeps every alias, and every model that one may come to stand for, from others' changes until the transaction ends."""
    alone(tx, REGISTRY_LOCK)


def find(tx: Connection, alias: str) -> Alias | None:
    """The alias, None if there is none of that name."""
    row = tx.execute(_CURRENT.where(aliases.c.alias == alias)).one_or_none()
    return None if row is None else Alias(**row._mapping)


def get(tx: Connection, alias: str) -> Alias:
    """The alias; ``NotFound``."""
    if (found := find(tx, alias)) is None:
        raise NotFound(f"no alias is called {alias!r}; GET /aliases lists them")
    return found


def expect(tx: Connection, alias: str, version: int | None) -> None:
    """``Stale`` unless the alias is still as it was at that version; 0 expects that there is none yet, None nothing. To be asked while it is held."""
    found = find(tx, alias)
    if version is not None and version != (0 if found is None else found.version):
        is_now = "there is no such alias now" if found is None else f"it is at version {found.version} now, model {found.model_id}, by {found.changed_by}"
        wanted = f"version {version}" if version else "no such alias"
        raise Stale(f"{alias}: expected {wanted}, but somebody changed it meanwhile: {is_now}; look at GET /aliases/{alias} and decide again")


def page(tx: Connection, *, limit: int, offset: int) -> list[Alias]:
    """Aliases in the order of the alphabet."""
    return [Alias(**row._mapping) for row in tx.execute(_CURRENT.order_by(aliases.c.alias).limit(limit).offset(offset))]


def these(tx: Connection, names: list[str]) -> dict[str, Alias]:
    """Those of the names that are aliases, by name."""
    return {row.alias: Alias(**row._mapping) for row in tx.execute(_CURRENT.where(aliases.c.alias.in_(names)))}


def history(tx: Connection, alias: str, *, limit: int, offset: int) -> list[Change]:
    """The changes of an alias, newest first; those of one that was deleted too."""
    rows = tx.execute(_LOG.where(alias_history.c.alias == alias).order_by(alias_history.c.version.desc()).limit(limit).offset(offset))
    return [Change(**row._mapping) for row in rows]


def names_of(tx: Connection, model_ids: list[str]) -> dict[str, list[str]]:
    """The aliases of each of these models that has any, in the order of the alphabet."""
    names: dict[str, list[str]] = {}
    for alias, model_id in tx.execute(sa.select(aliases.c.alias, aliases.c.model_id).where(aliases.c.model_id.in_(model_ids)).order_by(aliases.c.alias)):
        names.setdefault(model_id, []).append(alias)
    return names


def beneath(tx: Connection, alias: Alias) -> Iterator[Change]:
    """What the alias stood for before, as a rollback would go back: the last first, without what was rolled back itself."""
    below = alias.below
    while below is not None:
        row = tx.execute(_LOG.where(alias_history.c.alias == alias.alias, alias_history.c.version == below)).one()
        yield Change(**row._mapping)
        below = row.below


def point(tx: Connection, alias: str, model_id: str, *, reason: str, by: str) -> None:
    """Makes the alias stand for the model, on top of what it stood for. To be asked while it is held."""
    current = find(tx, alias)
    version = _log(tx, alias, "set", model_id=model_id, below=None if current is None else current.version, reason=reason, changed_by=by)
    if current is None:
        tx.execute(sa.insert(aliases).values(alias=alias, model_id=model_id, version=version))
    else:
        _move(tx, alias, model_id, version)


def back(tx: Connection, alias: str, to: Change, *, reason: str, by: str) -> None:
    """Makes the alias stand for what it stood for at an earlier change, on top of what lay beneath that. To be asked while it is held."""
    _move(tx, alias, str(to.model_id), _log(tx, alias, "rollback", model_id=to.model_id, below=to.below, reason=reason, changed_by=by))


def remove(tx: Connection, alias: str, *, reason: str, by: str) -> None:
    """Deletes the alias; its history stays, and goes on if the name is used again. To be asked while it is held."""
    _log(tx, alias, "delete", model_id=None, below=None, reason=reason, changed_by=by)
    tx.execute(sa.delete(aliases).where(aliases.c.alias == alias))


def _log(tx: Connection, alias: str, action: Action, **values: Any) -> int:
    """The version that the change got."""
    last = sa.select(sa.func.max(alias_history.c.version)).where(alias_history.c.alias == alias)
    version = (tx.execute(last).scalar_one() or 0) + 1
    tx.execute(sa.insert(alias_history).values(alias=alias, version=version, action=action, changed_at=now(), **values))
    return int(version)


def _move(tx: Connection, alias: str, model_id: str, version: int) -> None:
    tx.execute(sa.update(aliases).where(aliases.c.alias == alias).values(model_id=model_id, version=version))
