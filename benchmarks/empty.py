"""An ASGI application that answers everything with nothing: what HTTP alone costs here. ``python -m benchmarks.empty``."""

from __future__ import annotations

import os

import uvicorn
from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """200 and no body."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["CUVEE_PORT"]), log_level="warning", lifespan="off")
