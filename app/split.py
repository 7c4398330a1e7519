"""Training rows and holdout: stratified by type and quality, and a wine's repeats never on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.wine import Wines


@dataclass(frozen=True)
class Split:
    """Disjoint rows that together are the dataset, each in the dataset's order; the holdout may be empty."""

    train: Wines
    holdout: Wines


def split(wines: Wines, *, holdout: float, seed: int) -> Split:
    """About ``holdout`` (a share) of each type and quality held out; the same for the same rows and seed.

    Repeats of a wine (the same measurements and type, whatever their scores) go where its first row goes, so the
    share of a stratum may be off by the repeats of one wine.
    """
    groups = wines.keys()
    _, first_rows = np.unique(groups, return_index=True)
    sizes = np.bincount(groups)
    stratum = wines.quality * 2 + wines.red
    random = np.random.default_rng(seed)
    held = np.zeros(len(sizes), dtype=bool)
    for value in np.unique(stratum):
        members = random.permutation(groups[first_rows[stratum[first_rows] == value]])
        target = round(float(sizes[members].sum()) * holdout)
        held[members[np.cumsum(sizes[members]) <= target]] = True
    mask = held[groups]
    return Split(wines.take(~mask), wines.take(mask))
