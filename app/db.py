"""The database: engine, transactions, tables. SQLite and PostgreSQL behave alike from here on.

Two rules hold everywhere. Time is the database's clock (``now()``), never a machine's. And a transaction that may
write says so when it begins: SQLite then takes its write lock at once and cannot fail half-way for want of it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.errors import DatabaseDamaged, DatabaseNotReady

WAL_RETRY_S = 0.02
BUSY_TIMEOUT_S = 30  # how long a SQLite writer waits for another
POOL_RECYCLE_S = 1800
POSTGRES_SILENCE_S = 10  # in a transaction, after which PostgreSQL ends it: a process that was stopped must not keep for ever what it has locked
POSTGRES_PATIENCE = {  # a network that swallows packets must look like a database that does not answer, before a lease is over
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "options": f"-c statement_timeout=30000 -c idle_in_transaction_session_timeout={POSTGRES_SILENCE_S}s",
    "prepare_threshold": None,  # a statement that the server knows begins with its values, and sending a long one would count as silence
}

POSTGRES_DAMAGED = ("XX001", "XX002")  # data and index corrupted: to psycopg as internal as what may pass

# what drivers raise when the database is away, full, locked or read-only (psycopg calls the last an internal error): it may pass
UNAVAILABLE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)

OPEN_STATES = ("queued", "running", "cancelling")  # of a job that is not over

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("synthetic", sa.Boolean, nullable=False),
    sa.Column("snapped", sa.Integer, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("deleted_at", sa.Double),  # its rows are gone, its name is not: jobs refer to it
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("method", sa.String(32), nullable=False),
    sa.Column("dataset_id", sa.String(64), sa.ForeignKey("datasets.id"), nullable=False),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("promote", sa.String(16), nullable=False),
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),  # the fencing token: each claim raises it
    sa.Column("failures", sa.Integer, nullable=False),  # the retry budget spent
    sa.Column("worker", sa.String(128)),
    sa.Column("lease_expires_at", sa.Double),
    sa.Column("run_after", sa.Double, nullable=False),
    sa.Column("progress", sa.Double, nullable=False),
    sa.Column("stage", sa.String(64)),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("model_id", sa.String(32)),
    sa.Column("verdict", sa.JSON),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("last_progress_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.CheckConstraint("state IN ('queued','running','succeeded','failed','cancelling','cancelled')", name="state"),
)
sa.Index(
    "ix_jobs_open",
    jobs.c.priority.desc(),
    jobs.c.created_at,
    postgresql_where=jobs.c.state.in_(OPEN_STATES),
    sqlite_where=jobs.c.state.in_(OPEN_STATES),
)
sa.Index("ix_jobs_created_at", jobs.c.created_at.desc())

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),  # counts within the attempt
    sa.Column("state", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

job_events = sa.Table(  # app.events writes them
    "job_events",
    metadata,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),  # counts within the job, without gaps
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), unique=True),  # null: shipped with the package
    sa.Column("method", sa.String(32), nullable=False),
    sa.Column("dataset_id", sa.String(64), nullable=False),  # lineage: the dataset itself need not be here
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("bundle", sa.LargeBinary, nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
    sa.Column("lineage", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("pool", sa.Integer, nullable=False, server_default="0"),  # rows made in advance; 0: none
)

deleted_models = sa.Table(
    "deleted_models",  # so that who asks for one is told more than that it is unknown
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("deleted_by", sa.String(128), nullable=False),
    sa.Column("deleted_at", sa.Double, nullable=False),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("alias", sa.String(64), primary_key=True),
    sa.Column("model_id", sa.String(32), sa.ForeignKey("models.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # of the change in alias_history that it comes from
)

alias_history = sa.Table(
    "alias_history",  # only ever added to
    metadata,
    sa.Column("alias", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),  # counts the changes of this alias from 1
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("model_id", sa.String(32)),  # no foreign key: the history outlives the model; null: the alias was deleted
    sa.Column("below", sa.Integer),  # the version that undoing this one leads back to; null: none
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("changed_by", sa.String(128), nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
    sa.CheckConstraint("action IN ('set','rollback','delete')", name="action"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("call", sa.String(16), primary_key=True),  # the same key on two calls is two keys
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("resource", sa.String(64), nullable=False),  # the id of a job or dataset
    sa.Column("created", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)


class now(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function it is
    """Seconds since 1970 on the database's clock, fractions included."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


REGISTRY_LOCK = 0x63757660  # of aliases, and of the models that they may stand for; keys of advisory locks: any numbers, each with one purpose
STARTER_LOCK = 0x63757661
DATASET_LOCK = 0x63757662
MIGRATION_LOCK = 0x63757663
IDEMPOTENCY_LOCK = 0x63757665


def alone(tx: Connection, key: int) -> None:
    """Waits until no other transaction holds ``key``, and holds it until this one ends.

    SQLite has one writer at a time anyway.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def insert_new(tx: Connection, table: sa.Table, **values: Any) -> None:
    """Inserts a row, or leaves the one that has its key already; one that another transaction is just inserting is waited for."""
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    tx.execute(insert(table).values(values).on_conflict_do_nothing())


class Database:
    """One engine; ``read()`` and ``write()`` give a connection inside a transaction that commits at the end."""

    def __init__(self, url: str) -> None:
        try:
            self.url = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError) as error:  # the latter for a port that is no number
            raise DatabaseNotReady("CUVEE_DATABASE_URL: expected sqlite:///file or postgresql://..., found something that is no URL") from error
        self._engine = _sqlite(self.url) if self.url.get_backend_name() == "sqlite" else _postgresql(self.url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: on SQLite it holds the one write lock from its start."""
        with self._engine.connect().execution_options(cuvee_write=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Closes every pooled connection."""
        self._engine.dispose()


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database in (None, "", ":memory:"):
        raise DatabaseNotReady("API and worker meet in the database, so it must be a file: expected sqlite:///path/to/cuvee.db")
    folder = Path(url.database or "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseNotReady(f"CUVEE_DATABASE_URL: the folder {folder} can't be made: {error.strerror}") from error
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver's own implicit BEGIN comes too late for a write lock
        _use_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("cuvee_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turns a new file into one with a write-ahead log. SQLite does not wait there for another who does the same."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def _postgresql(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "postgresql":
        raise DatabaseNotReady(f"CUVEE_DATABASE_URL: expected sqlite:///file or postgresql://..., found {url.drivername}://")
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_recycle=POOL_RECYCLE_S, connect_args=POSTGRES_PATIENCE)

    @sa.event.listens_for(engine, "handle_error")
    def tell_damage(context: Any) -> None:
        error = context.original_exception
        if getattr(error, "sqlstate", None) in POSTGRES_DAMAGED:
            raise DatabaseDamaged(f"the database says that what it stores is damaged: {error}") from error

    return engine
