"""The composition root of the API."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from uvicorn.config import STARTUP_FAILURE

from app import __version__, migrations
from app.api import aliases, conditions, datasets, events, health, jobs, leaderboard, models, problems, samples, scores, variations
from app.api.answers import Compressed
from app.api.bodies import BodyLimit
from app.api.feed import Feed
from app.api.pouring import Ahead, Pouring
from app.api.queries import no_strangers
from app.api.services import Services
from app.cellar import Cellar
from app.db import Database
from app.errors import CuveeError
from app.settings import Settings, read_settings

GRACE_S = 10  # for answers under way when asked to stop; a slow reader of a long one is cut off then
SUMMARY = "Synthetic wine: train a GAN on the UCI wine-quality data, pour rows from it, score rows with it."


def create_app(settings: Settings) -> FastAPI:
    """The API on one database, whose schema must be there; ``DatabaseNotReady`` when it starts, if it is not."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        db = Database(settings.database_url)
        migrations.check(db)
        cellar = Cellar(db)
        with closing(Pouring()) as pouring, cellar.watching():
            app.state.services = Services(settings, db, cellar, pouring, Ahead(pouring, keep=settings.pour_ahead), Feed(db))
            yield
        db.close()

    app = FastAPIOffline(
        title="Cuvée",
        summary=SUMMARY,
        version=__version__,
        lifespan=lifespan,
        responses={status: {"model": problems.Problem} for status in problems.RANGES},
        dependencies=[Depends(no_strangers)],
    )
    app.add_middleware(BodyLimit, json=settings.max_json_bytes, table=settings.max_upload_bytes)
    app.add_middleware(Compressed)
    problems.install(app)
    for noun in (samples, conditions, scores, variations, jobs, events, models, aliases, leaderboard, datasets, health):
        app.include_router(noun.router)
    # builds the routes, which FastAPI would do at their first request: too late to learn of a fault in one. It also mutes warnings of
    # the whole process meanwhile, so that two apps of one process (the tests') trip over each other
    problems.document(app.openapi())
    return app


class Server(uvicorn.Server):
    """Uvicorn, which when asked to stop first ends the streams of events: they would go on as long as their jobs.

    Whoever watched goes on at another replica, from the last event that came.
    """

    def __init__(self, app: FastAPI, **options: Any) -> None:
        super().__init__(uvicorn.Config(app, **options))
        self._served = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once, in the loop that serves, after SIGINT or SIGTERM."""
        self._served.state.services.feed.stop()
        await super().shutdown(sockets)


def main() -> int:
    """Serves until it is stopped; exit status 1 with a message if it can't start, 3 if its port is taken."""
    try:
        settings = read_settings()
        with closing(Database(settings.database_url)) as db:
            migrations.check(db)
    except CuveeError as error:
        print(f"cuvee api: {error.detail}", file=sys.stderr)
        return 1
    server = Server(create_app(settings), host=settings.host, port=settings.port, log_level=settings.log_level, timeout_graceful_shutdown=GRACE_S)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly end
        server.run()
    return 0 if server.started else STARTUP_FAILURE


if __name__ == "__main__":
    sys.exit(main())
