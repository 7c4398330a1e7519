"""A service that has its answer ready: what a request costs where nothing is poured. ``python -m benchmarks.ready``."""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI, Response

from app import registry
from app.bundle import unpack
from app.formats import JSON, Sheet, json_chunks
from app.sampler import Condition, Sampler

app = FastAPI()
ROWS = b"".join(json_chunks([Sheet(Sampler(unpack(registry.starter_bytes())).wines(Condition((7,)), seed=1, offset=0, n=500))]))


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """It answers."""
    return {"status": "ok"}


@app.get("/samples")
async def samples(n: int, quality: int) -> Response:
    """The same rows for everybody."""
    return Response(ROWS, media_type=JSON)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["CUVEE_PORT"]), log_level="warning")
