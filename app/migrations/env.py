"""Alembic's entry: runs the revisions on the database it is handed, in one transaction that nobody can share."""

from alembic import context
from sqlalchemy import text

from app.db import Database, metadata

MIGRATION_LOCK = 0x6375766565  # "cuvee": any number that nobody else uses

database: Database = context.config.attributes["database"]
with database.write() as connection:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
