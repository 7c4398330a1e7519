"""What generated wines are good for: learning from them what makes a wine good, and asking for a quality and getting it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import cohen_kappa_score, r2_score
from xgboost import XGBRegressor

from app.bundle import Confusion, Measure
from app.wine import Floats, Ints, Wines, concatenate
from worker.evaluate.between import REPEATS, as_far_as_fresh, between, features, once, shuffled
from worker.evaluate.likeness import trees

TEACHABLE_R2 = 0.05  # where real wines teach less, their share that generated ones teach is noise


def teaching(holdout: Wines, train: Wines, generated: Sequence[Wines]) -> dict[str, Measure]:
    """Train on synthetic, test on real (Esteban et al. 2017): quality of held-out wines predicted by boosted trees.

    ``tstr_r2`` and ``tstr_qwk`` (quadratic weighted kappa of the rounded prediction); their ceilings are the same
    trees trained on the training rows (TRTR), and ``tstr_ratio`` is the share of that R2. Nothing where there is
    nothing to predict, and no ratio where real wines teach less than ``TEACHABLE_R2``.
    """
    if len(np.unique(holdout.quality)) < 2:
        return {}
    scale = int(train.quality.min()), int(train.quality.max())

    def taught_by(teacher: Wines, repeat: int) -> dict[str, float]:
        model = XGBRegressor(n_estimators=300, max_depth=6, learning_rate=0.05, subsample=0.8, colsample_bytree=0.8, n_jobs=1, random_state=repeat)
        predicted = model.fit(features(teacher), teacher.quality.astype(float)).predict(features(holdout))
        rounded = np.clip(np.rint(predicted), *scale).astype(np.int64)
        return {
            "tstr_r2": float(r2_score(holdout.quality, predicted)),
            "tstr_qwk": float(cohen_kappa_score(holdout.quality, rounded, weights="quadratic")),
        }

    measures = between(taught_by, generated, floor=[shuffled(train)], ceiling=[train] * REPEATS)
    r2 = measures["tstr_r2"]
    if r2.ceiling is not None and r2.ceiling >= TEACHABLE_R2:
        measures["tstr_ratio"] = Measure(**{name: None if x is None else x / r2.ceiling for name, x in r2.model_dump().items()})
    return measures


def confusion(holdout: Wines, train: Wines, generated: Sequence[Wines]) -> tuple[Confusion, Measure] | None:
    """How tasters rate generated wines of each quality beside real ones, and how far apart that is.

    The measure is the table's ``gap``, between shuffled columns and what chance does to as many real wines.
    None if the held-out wines have only one of the qualities that real and generated wines share.
    """
    poured, unseen = concatenate(list(generated)), once(train)
    qualities = np.intersect1d(poured.quality, unseen.quality)
    lessons = _of(once(holdout), qualities)
    if len(np.unique(lessons.quality)) < 2:
        return None
    tasters = _Tasters(lessons, qualities)
    real = tasters.table(unseen)
    table = Confusion(
        qualities=qualities.tolist(),
        generated=tasters.table(poured).tolist(),
        real=real.tolist(),
        real_rows=[int((unseen.quality == q).sum()) for q in qualities],
        gap=tasters.gap(poured, real),
    )
    ceiling = as_far_as_fresh(unseen, len(generated[0]))
    measures = between(lambda other, _: {"gap": tasters.gap(other, real)}, generated, floor=[shuffled(train)], ceiling=ceiling)
    return table, measures["gap"]


class _Tasters:
    """Boosted trees that learned to rate wines, and never saw those that they are asked about."""

    def __init__(self, lessons: Wines, qualities: Ints) -> None:
        """``qualities`` (k,), ascending, are those of the tables; ``lessons`` hold at least two of them and no other."""
        self._qualities = qualities
        self._known, labels = np.unique(lessons.quality, return_inverse=True)
        self._trees = trees(0).fit(features(lessons), labels)

    def table(self, wines: Wines) -> Floats:
        """Which share of the wines asked for as one quality is rated as another, (asked, rated); every row sums to 1.

        A quality without wines has a row of zeros.
        """
        wines = _of(wines, self._qualities)
        rated = self._known[self._trees.predict(features(wines))]
        counts = np.zeros((len(self._qualities), len(self._qualities)))
        np.add.at(counts, (np.searchsorted(self._qualities, wines.quality), np.searchsorted(self._qualities, rated)), 1)
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    def gap(self, wines: Wines, real: Floats) -> float:
        """The total variation between a wine's row of its own table and of the ``real`` one, mean over the wines."""
        wines = _of(wines, self._qualities)
        distance = np.abs(self.table(wines) - real).sum(axis=1) / 2  # (qualities,)
        return float(distance[np.searchsorted(self._qualities, wines.quality)].mean())


def _of(wines: Wines, qualities: Ints) -> Wines:
    return wines.take(np.isin(wines.quality, qualities))
