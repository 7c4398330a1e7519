"""What handlers share: made once by ``create_app``, handed to each handler that asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from app.cellar import Cellar
from app.db import Database
from app.settings import Settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Services:
    """``pouring`` has one thread: networks run one at a time, so that each has a core and its cache to itself."""

    settings: Settings
    db: Database
    cellar: Cellar
    pouring: ThreadPoolExecutor

    async def pour(self, work: Callable[[], Result]) -> Result:
        """The result of ``work``, run on the pouring thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pouring, work)


def services(request: Request) -> Services:
    """The services of the app that serves this request."""
    found: Services = request.app.state.services
    return found


def warning_header(warnings: Sequence[str]) -> dict[str, str]:
    """``Cuvee-Warning`` for what an answer must be read with; nothing where there is nothing to say."""
    text = " ".join("; ".join(warnings).split())
    return {"Cuvee-Warning": text.encode("ascii", "backslashreplace").decode()} if text else {}


UseServices = Annotated[Services, Depends(services)]
