"""Where the wines of a block come from: a network that pours new ones, or a pool of wines that were made in advance."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app import codec
from app.bundle import GENERATOR, POOL, Bundle
from app.errors import BundleInvalid, InvalidInput
from app.inference import session
from app.noise import Noise
from app.tables import read_csv
from app.wine import QUALITY_RANGE, TYPES, Wines

_POOL_DRAW = 2  # which of a row's uniforms picks one of the wines of its labels; those before pick the labels


class Source(Protocol):
    """Where the wines of a block come from."""

    latent: int  # noise components that it wants for each row

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        """A wine of these labels, both (rows,), for each row of noise."""


class Generator:
    """A network that pours new wines."""

    def __init__(self, bundle: Bundle) -> None:
        self.latent = bundle.manifest.latent
        self._session = session(bundle.parts[GENERATOR])
        self._decode = codec.Decoder(codec.from_state(bundle.manifest.codec))

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        (u,) = self._session.run(None, {"latent": drawn.latent, "condition": codec.condition(quality, red)})
        return Wines(self._decode(u, red), quality, red)


class Pool:
    """Wines made in advance, the same ones again and again."""

    latent = 0

    def __init__(self, bundle: Bundle) -> None:
        """``BundleInvalid`` if the pool can't be read, or is not as large as the manifest says."""
        try:
            wines = read_csv(bundle.parts[POOL]).wines
        except InvalidInput as error:
            raise BundleInvalid(f"{POOL} is damaged: {error.detail}") from error
        if len(wines) != bundle.manifest.pool or not len(wines):
            raise BundleInvalid(f"expected {bundle.manifest.pool} rows in {POOL}, found {len(wines)}")
        self._wines = wines.take(np.lexsort((wines.quality, wines.red)))  # stable: by type, then quality, then as they came
        self.counts = np.zeros((len(TYPES), QUALITY_RANGE[1] + 1), dtype=np.int64)
        np.add.at(self.counts, (wines.red.astype(np.int64), wines.quality), 1)
        self._first = (np.cumsum(self.counts) - self.counts.reshape(-1)).reshape(self.counts.shape)

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        cell = red.astype(np.int64), quality
        return self._wines.take(self._first[cell] + (drawn.uniform[:, _POOL_DRAW] * self.counts[cell]).astype(np.int64))
