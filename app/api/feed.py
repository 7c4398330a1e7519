"""What jobs tell, as it happens: the database is asked once a tick for all watchers of a process who wait for the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from app import events
from app.db import UNAVAILABLE, Database
from app.events import Event, News

log = logging.getLogger("cuvee.api")

TICK_S = 0.5  # between two looks at the database
PAGE = 500  # events read at once


class Feed:
    """Follows jobs for any number of watchers. One who waits holds no thread and no connection; it belongs to one event loop."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stopping = asyncio.Event()
        self._reads: dict[tuple[str, int], asyncio.Task[News]] = {}

    def stop(self) -> None:
        """Ends everything that is followed, at once."""
        self._stopping.set()

    async def follow(self, job_id: str, *, after: int) -> AsyncIterator[Event]:
        """The job's events beyond number ``after``, until it is over or the feed is stopped.

        While the database does not answer nothing comes, and then it goes on. ``NotFound`` as ``events.news``.
        """
        while not self._stopping.is_set():
            try:
                news = await self._read(job_id, after)
            except UNAVAILABLE as error:
                log.warning("the database is unavailable, those who watch job %s wait: %s", job_id, error)
                await self._tick()
                continue
            for event in news.events:
                yield event
                after = event.number
            if len(news.events) == PAGE:
                continue
            if news.over:
                return
            await self._tick()

    async def _read(self, job_id: str, after: int) -> News:
        """What is new; whoever asks while somebody else's question is under way gets the same answer."""
        key = job_id, after
        if (read := self._reads.get(key)) is None:
            read = self._reads[key] = asyncio.create_task(run_in_threadpool(self._news, job_id, after))
            read.add_done_callback(lambda _: self._reads.pop(key))
        return await asyncio.shield(read)  # one watcher who leaves does not end it for the others

    def _news(self, job_id: str, after: int) -> News:
        with self._db.read() as tx:
            return events.news(tx, job_id, after=after, limit=PAGE)

    async def _tick(self) -> None:
        """Waits for the next tick, the same one for all, so that they ask together."""
        left = TICK_S - asyncio.get_running_loop().time() % TICK_S
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), left)
