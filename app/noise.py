"""Addressable noise: the noise of row ``i`` is a pure function of (seed, i), whatever else is asked for.

Philox (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) keyed by the seed, its counter set from
the row: each row owns a fixed run of 64-bit words. A latent component is 16 of those bits looked up in a table of
normal quantiles, so it is exact and the same on every machine, and costs a gather instead of logarithms and cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LAYOUT = 1  # bump when the mapping (seed, row) -> noise changes: every served row changes with it
UNIFORMS = 4  # label draws: type, quality, and two in reserve
MAX_SEED = 2**63 - 1
MAX_ROW = 2**53  # row indexes stay exact in every JSON reader
_WORDS_PER_COUNTER = 4  # Philox 4x64
_LATENTS_PER_WORD = 4  # 16 bits each
_LEVELS = 2**16


@dataclass(frozen=True)
class Noise:
    """``latent`` (rows, dims) float32, standard normal; ``uniform`` (rows, 4) float64 in [0, 1)."""

    latent: NDArray[np.float32]
    uniform: NDArray[np.float64]


def draw(seed: int, first: int, count: int, *, dims: int) -> Noise:
    """The noise of rows ``first`` to ``first + count - 1`` of the table that ``seed`` names.

    ``0 <= seed <= MAX_SEED`` and ``0 <= first``; ``dims`` must be a multiple of 16, so that rows start on a counter.
    """
    latent_words = dims // _LATENTS_PER_WORD
    words = latent_words + UNIFORMS
    stream = np.random.Philox(key=seed, counter=first * (words // _WORDS_PER_COUNTER))
    raw = stream.random_raw(count * words).reshape(count, words)  # (rows, words) uint64
    levels = np.ascontiguousarray(raw[:, :latent_words]).astype("<u8", copy=False).view("<u2")  # (rows, dims)
    uniform = (raw[:, latent_words:] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return Noise(_quantiles().take(levels), uniform)


@cache
def _quantiles() -> NDArray[np.float32]:
    """The normal quantile at the middle of each of 65,536 equal slices of probability, within +-4.33."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / _LEVELS) for i in range(_LEVELS)], dtype=np.float32)
