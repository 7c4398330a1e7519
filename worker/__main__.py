"""The composition root of the worker: settings, database, signals, supervisor."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading

from app import migrations
from app.db import Database
from app.errors import CuveeError
from app.settings import read_settings
from worker.supervisor import Supervisor


def main() -> int:
    """Exit status 0 after SIGTERM, SIGINT or a drained queue; 1 with a message if it can't start."""
    arguments = argparse.ArgumentParser(prog="python -m worker", description="takes training jobs from the database until stopped")
    arguments.add_argument("--drain", action="store_true", help="stop when no job is ready")
    drain = arguments.parse_args().drain
    try:
        settings = read_settings()
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s")
        db = Database(settings.database_url)
        migrations.check(db)
    except CuveeError as error:
        print(f"cuvee worker: {error.detail}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    name = f"{socket.gethostname()}:{os.getpid()}"
    logging.getLogger("cuvee.worker").info("worker %s is ready", name)
    Supervisor(db, settings, name=name, stop=stop).run(drain=drain)
    db.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
