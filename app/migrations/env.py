"""Alembic's entry: runs the revisions on the database it is handed, in one transaction that nobody can share."""

from alembic import context

from app.db import MIGRATION_LOCK, Database, alone, metadata

database: Database = context.config.attributes["database"]
with database.write() as connection:
    alone(connection, MIGRATION_LOCK)
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
