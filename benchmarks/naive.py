"""The naive reference: how a service of synthetic rows is usually written, over a library such as SDV.

A batch of the whole mix is made by eager torch, every column is turned back by a transformer of its own into a data
frame, rows of another quality than asked are thrown away and the next batch is made; what is left goes out through a
response model. ``python -m benchmarks.naive`` serves GET /samples?n=&quality=&seed= on 127.0.0.1:$CUVEE_PORT. The
network has the default generator's shape and was never trained: what it costs is the same.
"""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
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
    """A generator, the mix of qualities, and the values of each column over their quantiles."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        shape = GanParams()
        self.net = Generator(latent=shape.latent, channels=shape.channels, blocks=shape.blocks, hidden=shape.hidden).eval()
        manifest = unpack(registry.starter_bytes()).manifest
        white = codec.from_state(manifest.codec).types[0]
        assert white is not None  # noqa: S101 - the starter model knows white wine
        self.tables = [(table.cdf(), table.values / scale) for table, scale in zip(white.fields, SCALES, strict=True)]
        mix = manifest.labels["white"]
        self.qualities, counts = np.array(list(mix)), np.array(list(mix.values()))
        self.shares = counts / counts.sum()

    def batch(self, n: int, random: np.random.Generator) -> pd.DataFrame:
        """Rows of the whole mix."""
        quality = random.choice(self.qualities, n, p=self.shares)
        condition = torch.from_numpy(codec.condition(quality, np.zeros(n, dtype=bool)))
        with torch.no_grad():
            u = torch.special.ndtr(self.net(torch.from_numpy(random.standard_normal((n, self.net.latent), dtype=np.float32)), condition)).numpy()
        frame = pd.DataFrame({name: np.round(np.interp(u[:, j], *self.tables[j]), 5) for j, name in enumerate(MEASUREMENTS)})
        return frame.assign(quality=quality, type="white")


MODEL = Model()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """It answers."""
    return {"status": "ok"}


@app.get("/samples", response_model=list[Row])
def samples(n: int, quality: int, seed: int) -> list[dict[str, object]]:
    """Rows of one quality: batches of ``n`` until enough of their rows have it."""
    random = np.random.default_rng(seed)
    kept = pd.DataFrame()
    while len(kept) < n:
        made = MODEL.batch(n, random)
        kept = pd.concat([kept, made[made.quality == quality]])
    rows: list[dict[str, object]] = kept.head(n).to_dict("records")  # type: ignore[assignment]
    return rows


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["CUVEE_PORT"]), log_level="warning")
