"""Which models go: those that somebody deletes, and the oldest of more than are to be kept. Functions run in their caller's transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app import aliases, registry
from app.aliases import Alias
from app.db import OPEN_STATES, deleted_models, jobs, models, now
from app.db import aliases as named
from app.errors import Conflict


def delete(tx: Connection, name: str, *, reason: str, by: str) -> None:
    """Deletes a model, and remembers that it was there.

    ``NotFound``, ``Deleted``; ``Conflict`` while an alias stands for it or a job that is not over starts from it, and for
    the model that comes with the package.
    """
    aliases.hold(tx)
    model_id = registry.resolve(tx, name)
    if model_id == registry.starter_id():
        raise Conflict(f"model {model_id} is the starter, shipped with the package: `cuvee migrate` would install it again, so it stays")
    if names := aliases.names_of(tx, [model_id]).get(model_id):
        raise Conflict(f"model {model_id} is what {', '.join(names)} stands for: point it elsewhere first (PUT /aliases/{names[0]})")
    if waiting := [job for job, classifier in _started_from(tx) if classifier == model_id]:
        raise Conflict(f"model {model_id} is the classifier that job {', '.join(waiting)} starts from: wait for it, or cancel it")
    _delete(tx, [model_id], reason=reason, by=by)


def prune(tx: Connection, *, keep: int | None, spare: str | None = None) -> list[str]:
    """The ids of the models that it deleted: all but the newest ``keep``, and but those that are needed. None keeps all.

    Needed are what aliases stand for, what one rollback of each would bring back, what a job that is not over starts
    from, the starter, and ``spare``, which was registered a moment ago though others may have come later and been faster.
    They count among the newest, where they are, but stay where they are not.
    """
    if keep is None:
        return []
    aliases.hold(tx)  # a second worker that finishes at the same time prunes after us
    old = tx.execute(sa.select(models.c.id).order_by(models.c.created_at.desc(), models.c.id).offset(keep)).scalars().all()
    needed = _needed(tx) | {spare}
    doomed = [model_id for model_id in old if model_id not in needed]
    _delete(tx, doomed, reason=f"CUVEE_KEEP_MODELS is {keep}, and it was the oldest that nobody needed", by=aliases.SERVICE)
    return doomed


def _needed(tx: Connection) -> set[str]:
    started_from = {classifier for _, classifier in _started_from(tx) if classifier}
    names = tx.execute(sa.select(named.c.alias)).scalars().all()
    pointed = aliases.these(tx, list(names)).values()
    return {registry.starter_id(), *started_from, *(alias.model_id for alias in pointed), *filter(None, (_before(tx, alias) for alias in pointed))}


def _before(tx: Connection, alias: Alias) -> str | None:
    """What a rollback of the alias would bring back; None if there is nothing."""
    earlier = (change.model_id for change in aliases.beneath(tx, alias) if change.model_exists and change.model_id != alias.model_id)
    return next(earlier, None)


def _started_from(tx: Connection) -> list[tuple[str, str | None]]:
    """Each job that is not over, and the classifier that it starts from."""
    rows = tx.execute(sa.select(jobs.c.id, jobs.c.params["classifier"].as_string()).where(jobs.c.state.in_(OPEN_STATES)))
    return [(job, classifier) for job, classifier in rows]


def _delete(tx: Connection, ids: list[str], *, reason: str, by: str) -> None:
    for model_id in ids:
        tx.execute(sa.delete(models).where(models.c.id == model_id))
        tx.execute(sa.insert(deleted_models).values(id=model_id, reason=reason, deleted_by=by, deleted_at=now()))
