"""What a judge's word is worth: logits become p_real, and p_real is held against wines that neither has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from app.bundle import Bin, Calibration, Discernment
from app.wine import Floats, Wines
from worker.evaluate.between import drawn, once, shuffled

BINS = 10  # of the reliability diagram, equally many rows in each


@dataclass(frozen=True)
class Judge:
    """``logits``: wines -> (rows,), higher where they look more real.

    ``calibration`` is the one that is served, where it was made without the holdout, and ``others`` are the rows that
    it tells real ones from. A judge without is calibrated here, against the model's own rows.
    """

    logits: Callable[[Wines], Floats]
    calibration: Calibration | None = None
    others: Wines | None = None


def calibrate(real: Floats, generated: Floats, *, in_sample: bool) -> Calibration:
    """p_real from discriminator logits, (rows,) each: logistic regression (Platt 1999), each kind weighing the same.

    A discriminator that a trained generator has beaten knows nothing on average, or less: a negative slope would
    call the less real-looking wine the real one, so the slope ends at zero, where p_real is 0.5 for all.
    """
    logits = np.concatenate([real, generated])[:, None]
    is_real = np.repeat([1, 0], [len(real), len(generated)])
    fit = LogisticRegression(C=1e6, class_weight="balanced").fit(logits, is_real)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope <= 0:
        slope, intercept = 0.0, 0.0
    return Calibration(slope=slope, intercept=intercept, rows=len(logits), in_sample=in_sample)


def discernment(judge: Judge, holdout: Wines, train: Wines, generated: Wines) -> Discernment:
    """How well the judge tells held-out wines from generated ones and from shuffled columns, and how far its p_real can be taken at its word."""
    unseen = once(holdout)
    n = min(len(unseen), len(generated), len(train))
    real, fake, wrong = (judge.logits(drawn(wines, n, seed=0)) for wines in (unseen, generated, shuffled(train)))
    if judge.calibration is None or judge.others is None:
        predicted, observed = _calibrated_here(real, fake)
    else:
        p_real = [judge.calibration.p_real(logits) for logits in (real, judge.logits(drawn(judge.others, n, seed=0)))]
        predicted, observed = np.concatenate(p_real), np.repeat([1.0, 0.0], [len(p) for p in p_real])
    return Discernment(
        auc=auc(real, fake),
        auc_shuffled=auc(real, wrong),
        brier=float(np.mean((predicted - observed) ** 2)),
        reliability=_reliability(predicted, observed),
    )


def _calibrated_here(real: Floats, fake: Floats) -> tuple[Floats, Floats]:
    """p_real and whether it was, both (rows,): the calibration is fitted on one half and looked at on the other, both ways round."""
    halves = np.arange(len(real)) < len(real) // 2, np.arange(len(real)) >= len(real) // 2
    predicted, observed = [], []
    for fit_on, held in (halves, halves[::-1]):
        calibration = calibrate(real[fit_on], fake[fit_on], in_sample=False)
        for logits, is_real in ((real[held], 1.0), (fake[held], 0.0)):
            predicted.append(calibration.p_real(logits))
            observed.append(np.full(len(logits), is_real))
    return np.concatenate(predicted), np.concatenate(observed)


def auc(real: Floats, other: Floats) -> float:
    """How often a real row, of (rows,) logits or probabilities, has more than another; .5 is not told apart."""
    return float(roc_auc_score(np.repeat([1, 0], [len(real), len(other)]), np.concatenate([real, other])))


def _reliability(predicted: Floats, observed: Floats) -> list[Bin]:
    """Rows in order of what was predicted, in ``BINS`` parts; equal predictions are never parted, so there may be fewer."""
    borders = np.unique(np.quantile(predicted, np.arange(1, BINS) / BINS))
    part = np.searchsorted(borders, predicted, side="left")
    bins = [part == k for k in np.unique(part)]
    return [Bin(predicted=float(predicted[rows].mean()), observed=float(observed[rows].mean()), rows=int(rows.sum())) for rows in bins]
