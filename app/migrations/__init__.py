"""The schema's revisions, and the way to the newest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.db import UNAVAILABLE, Database
from app.errors import DatabaseNotReady

FOLDER = Path(__file__).parent


def upgrade(db: Database, revision: str = "head") -> None:
    """Brings the schema to ``revision``; on a schema that is there already it does nothing. ``DatabaseNotReady`` if it is one of a later version."""
    try:
        _found(db)
        command.upgrade(_config(db), revision)
    except UNAVAILABLE as error:
        raise _silent(error) from error


def downgrade(db: Database, revision: str) -> None:
    """Takes the schema back to ``revision`` (``base``: no tables at all)."""
    command.downgrade(_config(db), revision)


def check(db: Database) -> None:
    """``DatabaseNotReady`` unless the schema is the one that this version needs."""
    expected = _revisions()[0]
    try:
        found = _found(db)
    except UNAVAILABLE as error:
        raise _silent(error) from error
    if found != expected:
        raise DatabaseNotReady(
            f"expected schema revision {expected}, found {found or 'an empty database'}; run `cuvee migrate` with the same CUVEE_DATABASE_URL"
        )


def _found(db: Database) -> str | None:
    """The revision of the schema that is there, None if there is none."""
    with db.read() as tx:
        found = MigrationContext.configure(tx).get_current_revision()
    if found is not None and found not in _revisions():
        raise DatabaseNotReady(
            f"expected schema revision {_revisions()[0]} or an earlier one, found {found}: a newer version of Cuvée migrated this database; run that version"
        )
    return found


@cache
def _revisions() -> tuple[str, ...]:
    """All that this version knows, newest first: the one that it needs. Read once, for every look at /readyz asks for it."""
    return tuple(script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions())


def _silent(error: sa.exc.SQLAlchemyError) -> DatabaseNotReady:
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return DatabaseNotReady(f"the database in CUVEE_DATABASE_URL does not answer, or takes no writes: {str(cause).strip()}")


def _config(db: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["database"] = db
    return config
