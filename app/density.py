"""What density should be, given the rest of a wine: ridge regression on the quadratic features of ten fields.

Density is nearly a function of sugar, alcohol and acids (R2 .98 on white, .91 on red wines), too nearly for a network
to learn from a few thousand rows. So models learn what is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.wine import COLUMNS, DENSITY, Floats

RIDGE = 3.0  # penalty on standardised quadratic features
_PAIRS = np.triu_indices(len(COLUMNS) - 1)


@dataclass(frozen=True)
class DensityModel:
    """Density (g/dm3) of one type from its other ten fields: a polynomial of the second degree, in the terms that it was fitted in."""

    mean: Floats  # (10,)
    std: Floats  # (10,)
    feature_mean: Floats  # (65,)
    feature_std: Floats  # (65,)
    weights: Floats  # (65,)
    intercept: float

    def predict(self, others: Floats) -> Floats:
        """g/dm3, (rows,), from the other ten fields in ticks, (rows, 10)."""
        features = _quadratic((others - self.mean) / self.std)  # (rows, 65)
        return np.asarray((features - self.feature_mean) / self.feature_std @ self.weights + self.intercept)

    def form(self) -> Floats:
        """The same polynomial as a quadratic form F, (11, 11): x F x for a row x of all eleven fields in ticks, with 1 in density's place."""
        weights = self.weights / self.feature_std  # of the terms in standardised fields
        products = np.zeros((len(self.mean), len(self.mean)))
        products[_PAIRS] = weights[len(self.mean) :] / np.outer(self.std, self.std)[_PAIRS]
        linear = weights[: len(self.mean)] / self.std
        form = np.zeros((len(COLUMNS), len(COLUMNS)))
        ours, one = np.delete(np.arange(len(COLUMNS)), DENSITY), DENSITY
        form[np.ix_(ours, ours)] = products
        form[one, ours] = linear - (products + products.T) @ self.mean  # about the means
        form[one, one] = self.intercept - self.feature_mean @ weights - linear @ self.mean + self.mean @ products @ self.mean
        return form


def fit_density(others: Floats, density: Floats) -> DensityModel:
    """The model of ``density``, (rows,) in g/dm3, from the other fields, (rows, 10) in ticks."""
    mean, std = others.mean(0), _spread(others)
    features = _quadratic((others - mean) / std)
    feature_mean, feature_std = features.mean(0), _spread(features)
    x = (features - feature_mean) / feature_std
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (density - density.mean()))
    return DensityModel(mean, std, feature_mean, feature_std, weights, float(density.mean()))


def _spread(columns: Floats) -> Floats:
    """The standard deviation of each column, 1 where it is constant."""
    std = columns.std(0)
    return np.where(std > 0, std, 1.0)


def _quadratic(x: Floats) -> Floats:
    """x and every product of two of its columns: (rows, 10) -> (rows, 65)."""
    return np.concatenate([x, x[:, _PAIRS[0]] * x[:, _PAIRS[1]]], axis=1)
