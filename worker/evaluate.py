"""The report: can a boosted-tree detective tell generated wines from real ones that training never saw?

A number never stands alone: each measure comes with its floor (the training rows, every column shuffled by itself)
and its ceiling (other real wines in the place of the generated ones), and with its spread over repeats. Real wines
count once each; the split keeps a wine's repeats together, so floor, value and ceiling are free of them.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from app.bundle import Calibration, Measure, Report
from app.wine import Floats, Wines
from worker.split import Split, split

PROTOCOL = 1  # bump when a measure's meaning changes: reports of two protocols are never compared
REPEATS = 3
FOLDS = 5
TREES = 100
DEPTH = 4
MIN_ROWS = 50  # of each kind; a detective with fewer has nothing to learn from
IN_SAMPLE = "holdout 0: measured on the training rows themselves, so it flatters the model"


def report(generated: Wines, rows: Split) -> Report:
    """The measures of a model's ``generated`` rows; ``rows`` is the split that it was trained on."""
    in_sample = len(rows.holdout) == 0
    reference = split(rows.train, holdout=0.5, seed=0) if in_sample else rows
    real, others = _once(reference.holdout), _once(reference.train)
    notes = [IN_SAMPLE] if in_sample else []
    if min(len(real), len(others), len(generated)) < MIN_ROWS:
        notes.append(f"fewer than {MIN_ROWS} rows to compare with: nothing was measured")
        return Report(protocol=PROTOCOL, in_sample=in_sample, rows=len(real), measures={}, notes=notes)
    values = [c2st(real, generated, seed=seed) for seed in range(REPEATS)]
    measure = Measure(
        value=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)),
        floor=c2st(real, _shuffled(rows.train), seed=0),
        ceiling=float(np.mean([c2st(real, others, seed=seed) for seed in range(REPEATS)])),
    )
    return Report(protocol=PROTOCOL, in_sample=in_sample, rows=len(real), measures={"c2st": measure}, notes=notes)


def c2st(real: Wines, other: Wines, *, seed: int) -> float:
    """The detective's cross-validated AUC on equally many rows of each; 0.5 is indistinguishable.

    Lopez-Paz and Oquab, *Revisiting classifier two-sample tests*, ICLR 2017, with boosted trees and AUC.
    """
    random = np.random.default_rng(seed)
    n = min(len(real), len(other))
    x = np.concatenate([_columns(w.take(random.permutation(len(w))[:n])) for w in (real, other)])
    y = np.repeat([0, 1], n)
    trees = HistGradientBoostingClassifier(max_iter=TREES, max_depth=DEPTH, early_stopping=False, random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return float(roc_auc_score(y, cross_val_predict(trees, x, y, cv=folds, method="predict_proba")[:, 1]))


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


def _columns(wines: Wines) -> Floats:
    """All 13 columns as numbers, (rows, 13)."""
    return np.column_stack([wines.measurements(), wines.quality, wines.red])


def _once(wines: Wines) -> Wines:
    """Each wine once: a fifth of the original rows repeat another, and a detective that finds repeats calls them real."""
    return wines.take(np.unique(wines.keys(), return_index=True)[1])


def _shuffled(wines: Wines) -> Wines:
    """Every column shuffled by itself: right marginals, no dependence."""
    random = np.random.default_rng(0)
    return Wines(random.permuted(wines.ticks, axis=0), random.permutation(wines.quality), random.permutation(wines.red))
