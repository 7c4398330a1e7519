"""How much generated wines are like real ones: detectives, marginals, dependence, and the ground that they cover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp, rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from app.bundle import Measure
from app.dcr import columns
from app.wine import COLUMNS, Floats, Wines, concatenate
from worker.evaluate.between import DETECTIVE_ROWS, REPEATS, as_far_as_fresh, between, drawn, once, shuffled, standardised

FOLDS = 5
NEIGHBOURS = 5  # k of Naeem et al.


def likeness(real: Wines, train: Wines, generated: Sequence[Wines]) -> dict[str, Measure]:
    """All of these measures of ``generated`` tables against wines that training never saw (``real``) and those that it did.

    Without detectives where one of them has fewer than ``DETECTIVE_ROWS``.
    """
    floor, fresh = [shuffled(train)], once(train)
    measures = {}
    if min(map(len, (once(real), fresh, *generated))) >= DETECTIVE_ROWS:
        distinct = [once(stretch) for stretch in generated]  # twins would give each other away, as real ones would
        told_apart = distinct if min(map(len, distinct)) >= DETECTIVE_ROWS else generated
        measures = _detectives(once(real), told_apart, floor=floor, ceiling=[fresh] * REPEATS)

    everything = concatenate([train, real])
    measures |= between(
        lambda other, _: {"spearman_gap": spearman_gap(everything, other)},
        generated,
        floor=floor,
        ceiling=as_far_as_fresh(everything, len(generated[0])),
    )
    measures |= between(lambda other, _: {"ks": ks(real, other)}, generated, ceiling=[train])  # shuffled columns have the right marginals: no floor
    reordered = [drawn(fresh, len(fresh), seed=seed) for seed in range(REPEATS)]
    return measures | between(lambda other, _: prdc(real, other), generated, floor=floor, ceiling=reordered)


def _detectives(real: Wines, generated: Sequence[Wines], *, floor: Sequence[Wines], ceiling: Sequence[Wines]) -> dict[str, Measure]:
    """``c2st``, ``c2st_excess`` (what is left of it above its ceiling) and ``c2st_logistic``."""

    def auc(other: Wines, repeat: int) -> dict[str, float]:
        return {
            "c2st": c2st(real, other, trees(repeat), seed=repeat),
            "c2st_logistic": c2st(real, other, make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), seed=repeat),
        }

    measures = between(auc, generated, floor=floor, ceiling=ceiling)
    all_of_it, best = measures["c2st"], measures["c2st"].ceiling
    if best is not None and all_of_it.floor is not None:
        excess = {"value": all_of_it.value - best, "floor": all_of_it.floor - best, "ceiling": 0.0}
        measures["c2st_excess"] = all_of_it.model_copy(update=excess)
    return measures


def trees(seed: int) -> XGBClassifier:
    """The boosted trees of every classification here; one thread, so that the same numbers come out everywhere."""
    return XGBClassifier(n_estimators=200, max_depth=4, learning_rate=0.1, subsample=0.8, colsample_bytree=0.8, n_jobs=1, random_state=seed)


def c2st(real: Wines, other: Wines, detective: Any, *, seed: int) -> float:
    """The detective's cross-validated AUC on equally many rows of each; 0.5 is indistinguishable.

    Lopez-Paz and Oquab, *Revisiting classifier two-sample tests*, ICLR 2017, with AUC.
    """
    n = min(len(real), len(other))
    x = np.concatenate([columns(drawn(wines, n, seed=seed)) for wines in (real, other)])
    y = np.repeat([0, 1], n)
    suspicion = np.zeros(2 * n)
    for learn, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=seed + 1000).split(x, y):
        suspicion[judge] = detective.fit(x[learn], y[learn]).predict_proba(x[judge])[:, 1]
    return float(roc_auc_score(y, suspicion))


def spearman_gap(real: Wines, other: Wines) -> float:
    """Mean absolute difference of the Spearman correlations over all pairs of columns that vary among the real wines; 0 where there is no pair."""
    varies = np.ptp(columns(real), axis=0) > 0
    if varies.sum() < 2:
        return 0.0
    pairs = np.triu_indices(int(varies.sum()), 1)
    return float(np.abs(_spearman(columns(real)[:, varies]) - _spearman(columns(other)[:, varies]))[pairs].mean())


def _spearman(x: Floats) -> Floats:
    """Rank correlations of all columns with each other; those of a constant column are 0."""
    ranks = rankdata(x, axis=0) - (len(x) + 1) / 2
    norms = np.sqrt((ranks**2).sum(axis=0))
    ranks /= np.where(norms > 0, norms, 1.0)
    return np.asarray(ranks.T @ ranks)


def ks(real: Wines, other: Wines) -> float:
    """The Kolmogorov-Smirnov distance of the two distributions of a measurement, mean over the eleven."""
    # "asymp" is about the p-value, which nobody asks for
    return float(np.mean([ks_2samp(real.ticks[:, j], other.ticks[:, j], method="asymp").statistic for j in range(len(COLUMNS))]))


def prdc(real: Wines, other: Wines) -> dict[str, float]:
    """Precision, recall, density and coverage on standardised columns, of as many first rows of ``other`` as there are real ones.

    Naeem et al., *Reliable fidelity and diversity metrics for generative models*, ICML 2020.
    """
    n = min(len(real), len(other))
    standard = standardised(real)
    a, b = (standard(wines) for wines in (drawn(real, n, seed=0), other.take(slice(n))))
    around_a, around_b = _radii(a), _radii(b)
    distances = cdist(a, b)  # (n, n)
    within = distances < around_a[:, None]
    return {
        "precision": float(within.any(axis=0).mean()),
        "recall": float((distances < around_b[None]).any(axis=1).mean()),
        "density": float(within.sum(axis=0).mean() / NEIGHBOURS),
        "coverage": float((distances.min(axis=1) < around_a).mean()),
    }


def _radii(x: Floats) -> Floats:
    """The distance of each row to its k-th neighbour, (rows,)."""
    return np.asarray(KDTree(x).query(x, k=[NEIGHBOURS + 1])[0][:, 0])
