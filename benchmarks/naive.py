"""The naive reference: how a service of synthetic rows is usually written. Eager torch, every column turned back by itself, rows as objects.

``python -m benchmarks.naive`` serves GET /samples?n=&quality=&seed= on 127.0.0.1:$CUVEE_PORT. The network has the
default generator's shape and was never trained: what it costs is the same.
"""

from __future__ import annotations

import os

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from app import codec, registry
from app.bundle import unpack
from app.params import GanParams
from app.wine import MEASUREMENTS, SCALES
from worker.nets import Generator

app = FastAPI()


class Row(BaseModel):
    """A wine."""

    fixed_acidity: float
    volatile_acidity: float
    citric_acid: float
    residual_sugar: float
    chlorides: float
    free_sulfur_dioxide: float
    total_sulfur_dioxide: float
    density: float
    pH: float  # noqa: N815 - the column's name
    sulphates: float
    alcohol: float
    quality: int
    type: str


class Model:
    """A generator and the values of each column, spread over their quantiles."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        shape = GanParams()
        self.net = Generator(latent=shape.latent, channels=shape.channels, blocks=shape.blocks, hidden=shape.hidden).eval()
        white = codec.from_state(unpack(registry.starter_bytes()).manifest.codec).types[0]
        assert white is not None  # noqa: S101 - the starter model knows white wine
        self.tables = [(table.cdf(), table.values / scale) for table, scale in zip(white.fields, SCALES, strict=True)]


MODEL = Model()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """It answers."""
    return {"status": "ok"}


@app.get("/samples", response_model=list[Row])
def samples(n: int, quality: int, seed: int) -> list[Row]:
    """Rows of one quality."""
    random = torch.Generator().manual_seed(seed)
    condition = torch.from_numpy(codec.condition(np.full(n, quality), np.zeros(n, dtype=bool)))
    with torch.no_grad():
        u = torch.special.ndtr(MODEL.net(torch.randn(n, MODEL.net.latent, generator=random), condition)).numpy()
    columns = {name: np.round(np.interp(u[:, j], *MODEL.tables[j]), 5).tolist() for j, name in enumerate(MEASUREMENTS)}
    return [Row(**{name: values[i] for name, values in columns.items()}, quality=quality, type="white") for i in range(n)]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["CUVEE_PORT"]), log_level="warning")
