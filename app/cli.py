"""The ``cuvee`` command: migrate, api, worker, or all of it at once."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from typing import NoReturn

from app import datasets, main, migrations, registry
from app.db import Database
from app.errors import CuveeError
from app.settings import read_settings

STOP_AFTER_S = 15.0  # from asking a process to stop to ending it
WATCH_INTERVAL_S = 0.2


def run() -> int:
    """The exit status of the command that was asked for."""
    parser = argparse.ArgumentParser(prog="cuvee", description="synthetic wine as a service; settings come from CUVEE_* variables")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="migrate, then API and worker together, until Ctrl-C")
    commands.add_parser("migrate", help="bring the database to this version and install the starter model and dataset")
    commands.add_parser("api", help="the API alone")
    commands.add_parser("worker", help="a worker alone").add_argument("--drain", action="store_true", help="stop when no job is ready")
    arguments = parser.parse_args()
    match arguments.command:
        case "migrate":
            return migrate()
        case "api":
            return main.main()
        case "worker":
            return worker(drain=arguments.drain)
        case _:
            return migrate() or up()


def migrate() -> int:
    """Brings the database up to date; safe to run at any time and from several machines at once."""
    try:
        with closing(Database(read_settings().database_url)) as db:
            migrations.upgrade(db)
            with db.write() as tx:
                model_id = registry.install_starter(tx)
            datasets.install_starter(db)
    except CuveeError as error:
        print(f"cuvee migrate: {error.detail}", file=sys.stderr)
        return 1
    print(f"database ready; starter model {model_id}", file=sys.stderr)
    return 0


def worker(*, drain: bool) -> NoReturn:
    """Becomes the worker: not its parent, for signals are meant for the worker itself."""
    command = [*_worker_command(), *(["--drain"] if drain else [])]
    os.execv(command[0], command)


def up() -> int:
    """API and worker as two processes; when one ends or a signal comes, both do. The status of whoever ended by itself."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    # sessions of their own: Ctrl-C comes here alone, and each is stopped once and in order
    children = [subprocess.Popen(command, start_new_session=True) for command in ([sys.executable, "-m", "app.main"], _worker_command())]
    while not stop.is_set() and all(child.poll() is None for child in children):
        stop.wait(WATCH_INTERVAL_S)
    ended = next((child.returncode for child in children if child.returncode is not None), 0)
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(STOP_AFTER_S)
        except subprocess.TimeoutExpired:
            child.kill()
    return ended


def _worker_command() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        sys.exit("cuvee: the worker needs torch, which is not installed here: pip install -c constraints.txt 'cuvee[worker]'")
    return [sys.executable, "-m", "worker"]


if __name__ == "__main__":
    sys.exit(run())
