"""Whether generated wines are training wines in disguise.

The floor of these measures is a copier, a bootstrap of the training rows: shuffled columns copy nothing, so they
would be no floor. The ceiling is the rate of real wines that training never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial import KDTree

from app.bundle import Measure
from app.wine import Floats, Wines, concatenate
from worker.evaluate.between import MIN_ROWS, between, copied, drawn, once, standardised

QUANTILES = (1, 5, 50)  # per cent of wines that are nearer
NEAR = 0.05  # a near copy is nearer to a training row than this share of the held-out wines is
LOOKED_AT = 3000  # rows of a table whose nearest rows on both sides are compared
SAME = 1e-9  # standard deviations; equal rows are at exactly 0, and a search that need not look further is a hundred times faster


def privacy(holdout: Wines, train: Wines, generated: Sequence[Wines]) -> dict[str, Measure]:
    """``near_copies``, ``exact_copies``, ``nndr``, ``dcr_p1`` and so on, ``dcr_closer_to_train``; distances on columns standardised by the training rows.

    ``exact_copies``: rows equal to a training row, score included. ``nndr``: distance to the nearest training wine
    over that to the second nearest, mean (1: in the open between wines; 0: a copy). ``train`` must be all the rows that
    were trained on: a copy of one that is left out is not found.
    """
    standard = standardised(train)
    to_train, to_wines = KDTree(standard(train)), KDTree(standard(once(train)))  # a row that repeats would be first and second nearest
    limit = np.quantile(to_train.query(standard(holdout))[0], NEAR)

    def copies(other: Wines, _: int) -> dict[str, float]:
        nearest = to_train.query(standard(other))[0]
        first, second = to_wines.query(standard(other), k=2)[0].T
        return {
            "near_copies": float((nearest < limit).mean()),
            "exact_copies": float((nearest == 0).mean()),
            "nndr": float((first / second).mean()),
            **{f"dcr_p{percent}": float(np.percentile(nearest, percent)) for percent in QUANTILES},
        }

    measures = between(copies, generated, floor=[copied(train)], ceiling=[holdout])
    return measures | _closer_to_train(holdout, train, generated, standard)


def exact_copies(train: Wines, generated: Sequence[Wines]) -> dict[str, Measure]:
    """``exact_copies`` alone: without unseen wines there is nothing to say how near is too near."""
    standard = standardised(train)
    to_train = KDTree(standard(train))

    def at(other: Wines) -> Floats:
        return np.asarray(to_train.query(standard(other), distance_upper_bound=SAME)[0])

    return between(lambda other, _: {"exact_copies": float((at(other) == 0).mean())}, generated, floor=[copied(train)])


def _closer_to_train(holdout: Wines, train: Wines, generated: Sequence[Wines], standard: Callable[[Wines], Floats]) -> dict[str, Measure]:
    """``dcr_closer_to_train``: rows nearer to a training row than to a held-out one, of equally many each; half of those equally near.

    Its ceiling are the wines on neither side; null where hardly any are left.
    """
    n = min(len(train), len(holdout))
    seen, unseen = drawn(train, n, seed=0), drawn(holdout, n, seed=0)
    to_seen, to_unseen = KDTree(standard(seen)), KDTree(standard(unseen))

    def closer(other: Wines, _: int) -> dict[str, float]:
        rows = standard(drawn(other, LOOKED_AT, seed=0))
        seen_at, unseen_at = to_seen.query(rows)[0], to_unseen.query(rows)[0]
        return {"dcr_closer_to_train": float((seen_at < unseen_at).mean() + (seen_at == unseen_at).mean() / 2)}

    keys = concatenate([seen, train]).keys()
    others = once(train.take(~np.isin(keys[n:], keys[:n])))
    return between(closer, generated, floor=[copied(train)], ceiling=[others] if len(others) >= MIN_ROWS else [])
