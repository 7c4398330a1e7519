"""Rows of the infinite table: (model, seed, row) -> wine, a pure function whatever else was asked for.

Networks run on whole, aligned blocks of the table, so that the same shapes are computed for a row however it is
asked for; noise does not depend on the condition, so the same row at quality 5 and at quality 8 of one type is the
same wine, made worse or better. Where the type is left open, it follows the mix of the asked qualities.

What no network can pour was made in advance and lies in a pool: there a row's noise picks one of the wines that have
its labels, so the table is as endless and as addressable, but its wines come again and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app import codec, noise
from app.bundle import GENERATOR, POOL, Bundle
from app.errors import BundleInvalid, Conflict, Fault, InvalidInput
from app.inference import session
from app.noise import Noise
from app.tables import read_csv
from app.wine import QUALITY_RANGE, TYPES, Wines

BLOCK = 512  # rows; changing it may change the last bit of a row, so it is part of what a bundle format means
RARE = 50  # training rows of a quality; with fewer, what is served says so

_TYPE_DRAW, _QUALITY_DRAW, _POOL_DRAW = 0, 1, 2  # which of a row's uniforms picks its labels, and the wine of a pool that has them


@dataclass(frozen=True)
class Condition:
    """The labels that a sample may have; an empty tuple leaves them all."""

    qualities: tuple[int, ...] = ()
    types: tuple[str, ...] = ()


class _Source(Protocol):
    """Where the wines of a block come from."""

    latent: int  # noise components that it wants for each row

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        """A wine of these labels, both (rows,), for each row of noise."""


class _Generator:
    """A network that pours new wines."""

    def __init__(self, bundle: Bundle) -> None:
        self.latent = bundle.manifest.latent
        self._session = session(bundle.parts[GENERATOR])
        self._decode = codec.Decoder(codec.from_state(bundle.manifest.codec))

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        (u,) = self._session.run(None, {"latent": drawn.latent, "condition": codec.condition(quality, red)})
        return Wines(self._decode(u, red), quality, red)


class _Pool:
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


class Sampler:
    """The table of one model. Building it starts an inference session or reads a pool; asking it for rows keeps no state."""

    def __init__(self, bundle: Bundle) -> None:
        """``Conflict`` if the model has nothing to pour from, ``BundleInvalid`` if its pool is damaged."""
        manifest = bundle.manifest
        if not bundle.pours:
            raise Conflict(f"model {bundle.id} was trained by method {manifest.method!r}, which does not generate wines; GET /models lists others")
        counts = label_counts(manifest.labels)
        self._source: _Source
        if GENERATOR in bundle.parts:
            self._source, self._holder = _Generator(bundle), "the training data hold"
        else:
            pool = _Pool(bundle)
            counts[pool.counts == 0] = 0  # what it holds none of can't be poured, whatever the training data hold
            self._source, self._holder = pool, "this model's pool holds"
        self._counts = counts

    def check(self, condition: Condition) -> list[str]:
        """What the asker should know about a condition, in words; ``InvalidInput`` if the model can pour no such wine."""
        allowed = self._allowed(condition)
        qualities = condition.qualities or tuple(np.flatnonzero(allowed.sum(0)).tolist())
        missing = [q for q in qualities if allowed[:, q].sum() == 0]
        if missing or allowed.sum() == 0:
            raise self._unknown(condition, missing)
        if not condition.qualities:
            return []
        return [f"quality {q} rests on {n} training rows only" for q in qualities if (n := int(allowed[:, q].sum())) < RARE]

    def blocks(self, condition: Condition, *, seed: int, offset: int, n: int) -> Iterator[Wines]:
        """Rows ``offset`` to ``offset + n - 1`` of the table that ``seed`` names, in order, at most ``BLOCK`` at a time."""
        allowed = self._allowed(condition)
        for block in range(offset // BLOCK, (offset + n - 1) // BLOCK + 1):
            first = block * BLOCK
            wines = self._block(allowed, seed=seed, first=first)
            yield wines.take(slice(max(offset - first, 0), min(offset + n - first, BLOCK)))

    def _block(self, allowed: NDArray[np.float64], *, seed: int, first: int) -> Wines:
        drawn = noise.draw(seed, first, BLOCK, dims=self._source.latent)
        red, quality = draw_labels(allowed, drawn.uniform)
        return self._source.pour(drawn, quality, red)

    def _allowed(self, condition: Condition) -> NDArray[np.float64]:
        """Training rows of each (type, quality) that the condition leaves, (2, 11)."""
        types = np.isin(TYPES, condition.types or TYPES)
        qualities = np.isin(np.arange(self._counts.shape[1]), condition.qualities or np.arange(self._counts.shape[1]))
        return self._counts * types[:, None] * qualities

    def _unknown(self, condition: Condition, missing: list[int]) -> InvalidInput:
        held = {t: np.flatnonzero(row).tolist() for t, row in zip(TYPES, self._counts, strict=True) if row.any()}
        expected = "; ".join(f"{t}: {', '.join(map(str, q))}" for t, q in held.items())
        found = ", ".join(map(str, missing)) or "/".join(condition.types)
        pointer = "/query/quality" if missing else "/query/type"
        of = f" among {' and '.join(condition.types)} wines" if condition.types and missing else ""
        detail = f"{self._holder} no wine of {'quality ' if missing else 'type '}{found}{of}"
        return InvalidInput(detail, [Fault(pointer, detail, expected=f"one that is there ({expected})", found=found)])


def label_counts(labels: dict[str, dict[int, int]]) -> NDArray[np.float64]:
    """Training rows of each (type, quality), (2, 11), from those of each quality by type."""
    counts = np.zeros((len(TYPES), QUALITY_RANGE[1] + 1))
    for t, name in enumerate(TYPES):
        for quality, rows in labels.get(name, {}).items():
            counts[t, quality] = rows
    return counts


def draw_labels(allowed: NDArray[np.float64], uniform: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Type and quality of each row, both (rows,), drawn in the training mix of what is allowed."""
    by_type = allowed.sum(1)
    red = uniform[:, _TYPE_DRAW] * by_type.sum() >= by_type[0]
    within = np.cumsum(allowed, axis=1)  # (2, qualities)
    target = uniform[:, _QUALITY_DRAW] * within[red.astype(np.int64), -1]
    quality = (within[red.astype(np.int64)] <= target[:, None]).sum(1)
    return red, quality
