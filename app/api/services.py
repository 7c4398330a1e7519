"""What handlers share: made once by ``create_app``, handed to each handler that asks for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from secrets import compare_digest
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from app.api.feed import Feed
from app.api.pouring import Ahead, Pouring
from app.cellar import Cellar, Served
from app.db import Database
from app.errors import Unauthorised
from app.settings import Settings

Result = TypeVar("Result")

TURN_S = 0.005  # of a stream on the pouring thread: what others may have to wait for it; each turn costs some .1 ms


@dataclass(frozen=True)
class Services:
    """One of each."""

    settings: Settings
    db: Database
    cellar: Cellar
    pouring: Pouring
    ahead: Ahead
    feed: Feed

    async def open(self, name: str) -> Served:
        """The model that answers to the name. Who asks for one that is not open yet waits for it, off the pouring thread, and nobody else does."""
        known = self.cellar.known(name)
        return known if known is not None else await run_in_threadpool(self.cellar.get, name)

    async def pour(self, work: Callable[[], Result]) -> Result:
        """The result of ``work``, run on the pouring thread."""
        return await self.pouring.run(work)

    async def stream(self, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        """The chunks, as many together as a short turn on the pouring thread makes.

        A turn begins when the client has taken what the one before made; between two, others have theirs. An empty
        chunk is a step that made nothing yet.
        """
        more = True
        while more:
            made, more = await self.pour(lambda: _turn(chunks))
            if made:
                yield made


def _turn(chunks: Iterator[bytes]) -> tuple[bytes, bool]:
    """What is made in ``TURN_S``, one chunk at least, and whether there may be more."""
    made, until = [], time.perf_counter() + TURN_S
    for chunk in chunks:
        made.append(chunk)
        if time.perf_counter() >= until:
            return b"".join(made), True
    return b"".join(made), False


async def services(request: Request) -> Services:  # async, or FastAPI sends it to a thread and back
    """The services of the app that serves this request."""
    found: Services = request.app.state.services
    return found


def authorised(request: Request, settings: Settings) -> bool:
    """Whether the request carries the deployment's token, where it has one; ``Unauthorised`` if it carries another."""
    given = request.headers.get("authorization")
    if given is None or settings.token is None:
        return False
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not compare_digest(token.strip().encode(), settings.token.get_secret_value().encode()):
        raise Unauthorised("expected 'Authorization: Bearer' with this deployment's CUVEE_TOKEN, found another one; without the header the usual limits hold")
    return True


def warning_header(warnings: Sequence[str]) -> dict[str, str]:
    """``Cuvee-Warning`` for what an answer must be read with; nothing where there is nothing to say."""
    text = " ".join("; ".join(warnings).split())
    return {"Cuvee-Warning": text.encode("ascii", "backslashreplace").decode()} if text else {}


UseServices = Annotated[Services, Depends(services)]
