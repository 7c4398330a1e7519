"""The one thread that runs networks over more than a few rows, and what it pours ahead while nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Response
from starlette.background import BackgroundTask

log = logging.getLogger("cuvee.api")

Result = TypeVar("Result")

SHELVES = 8  # kinds of answers that are poured ahead, those that were asked for last


class Pouring:
    """One thread: networks run one at a time, so that each has a core and its cache to itself."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pouring")
        self._asked = self._begun = 0  # each is counted by one thread only: the one that asks, and the one that works

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of ``work``; to be asked from the event loop."""

        def begun() -> Result:
            self._begun += 1
            return work()

        self._asked += 1
        future = self._thread.submit(begun)
        try:
            return await asyncio.wrap_future(future)
        finally:
            if future.cancelled():  # whoever asked has left before it began
                self._asked -= 1

    @property
    def idle(self) -> bool:
        """Whether nobody waits for the thread, as seen from it."""
        return self._begun == self._asked

    def later(self, work: Callable[[], None]) -> None:
        """Runs ``work`` when all that was asked for until now is done."""
        self._thread.submit(_logged, work)

    def close(self) -> None:
        """Waits for what was asked for."""
        self._thread.shutdown()


class Ahead:
    """Whole answers, poured ahead for what is asked again and again with the seed left open.

    An answer goes to one asker only. ``keep`` of a kind are made in advance, 0 makes none; a kind is one from the second time on.
    The event loop looks for them and takes them, so that one that lies ready costs no turn on the pouring thread, which makes them.
    """

    def __init__(self, pouring: Pouring, *, keep: int) -> None:
        self._pouring, self._keep = pouring, keep
        self._shelves: OrderedDict[Hashable, deque[Response]] = OrderedDict()

    async def answer(self, kind: Hashable, make: Callable[[], Response]) -> Response:
        """One that lies ready, or else one made now."""
        shelf = self._shelves.get(kind)
        if shelf is None:
            self._shelves[kind] = deque()
            if len(self._shelves) > SHELVES:
                self._shelves.popitem(last=False)
            return await self._pouring.run(make)
        self._shelves.move_to_end(kind)
        answer = shelf.popleft() if shelf else await self._pouring.run(make)
        if self._keep:
            answer.background = BackgroundTask(self._refill, shelf, make)  # once it is sent: who waits for it comes first
        return answer

    async def _refill(self, shelf: deque[Response], make: Callable[[], Response]) -> None:  # async, or Starlette sends it to a thread
        self._pouring.later(lambda: self._fill(shelf, make))

    def _fill(self, shelf: deque[Response], make: Callable[[], Response]) -> None:
        while len(shelf) < self._keep and self._pouring.idle:
            shelf.append(make())


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("what should have been poured ahead could not be; whoever asks for it next will be told why")
