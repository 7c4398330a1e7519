"""The schema's revisions, and the way to the newest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.db import Database
from app.errors import DatabaseNotReady

FOLDER = Path(__file__).parent


def upgrade(db: Database, revision: str = "head") -> None:
    """Brings the schema to ``revision``; on a schema that is there already it does nothing."""
    try:
        command.upgrade(_config(db), revision)
    except sa.exc.OperationalError as error:
        raise _silent(error) from error


def downgrade(db: Database, revision: str) -> None:
    """Takes the schema back to ``revision`` (``base``: no tables at all)."""
    command.downgrade(_config(db), revision)


def check(db: Database) -> None:
    """``DatabaseNotReady`` unless the schema is the one that this version needs."""
    expected = _newest()
    try:
        with db.read() as tx:
            found = MigrationContext.configure(tx).get_current_revision()
    except sa.exc.OperationalError as error:
        raise _silent(error) from error
    if found != expected:
        raise DatabaseNotReady(
            f"expected schema revision {expected}, found {found or 'an empty database'}; run `cuvee migrate` with the same CUVEE_DATABASE_URL"
        )


@cache
def _newest() -> str | None:
    """The revision that this version needs; read once, for every look at /readyz asks for it."""
    return ScriptDirectory(str(FOLDER)).get_current_head()


def _silent(error: sa.exc.OperationalError) -> DatabaseNotReady:
    return DatabaseNotReady(f"the database in CUVEE_DATABASE_URL does not answer: {str(error.orig).strip()}")


def _config(db: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["database"] = db
    return config
