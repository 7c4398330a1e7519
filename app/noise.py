"""Addressable noise: the noise of row ``i`` is a pure function of (seed, i), whatever else is asked for.

The labels and the first 32 latent components are even (``app.sobol``): any run of rows represents the model better
than as many independent draws would. Further components are independent: Philox (Salmon et al., *Parallel random
numbers: as easy as 1, 2, 3*, SC 2011) keyed by the seed, its counter set from the row. A latent component is 16 bits
looked up in a table of normal quantiles, so it is exact and the same on every machine, and costs a gather instead of
logarithms and cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from app import sobol

LAYOUT = 2  # bump when the mapping (seed, row) -> noise changes: every served row changes with it
UNIFORMS = 4  # label draws: type, quality, and two in reserve
MAX_SEED = 2**63 - 1
MAX_ROW = 2**53  # row indexes stay exact in every JSON reader
_EVEN = sobol.DIMS - UNIFORMS  # latent components
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
    points = sobol.points(seed, first, count)  # (rows, 36)
    levels = (points[:, UNIFORMS : UNIFORMS + min(dims, _EVEN)] >> np.uint32(16)).astype(np.uint16)
    if dims > _EVEN:
        levels = np.concatenate([levels, _independent(seed, first, count, dims - _EVEN)], axis=1)
    return Noise(_quantiles().take(levels), points[:, :UNIFORMS].astype(np.float64) * 2.0**-32)


def _independent(seed: int, first: int, count: int, dims: int) -> NDArray[np.uint16]:
    """Philox bits, (count, dims); ``dims`` a multiple of 16."""
    words = dims // _LATENTS_PER_WORD
    stream = np.random.Philox(key=np.array([seed, 1], dtype=np.uint64), counter=first * (words // _WORDS_PER_COUNTER))
    raw = stream.random_raw(count * words).reshape(count, words)
    return raw.astype("<u8", copy=False).view("<u2")


@cache
def _quantiles() -> NDArray[np.float32]:
    """The normal quantile at the middle of each of 65,536 equal slices of probability, within +-4.33."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / _LEVELS) for i in range(_LEVELS)], dtype=np.float32)
