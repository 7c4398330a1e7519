"""What an autoencoder loses of a wine on the way through its bottleneck and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from app.dcr import deviations
from app.wine import MEASUREMENTS, TYPES, Floats, Wines

ERROR, OF_MEDIAN = "reconstruction error", "reconstruction error of the median"


def reconstruction(wines: Wines, train: Wines, reconstructed: Callable[[Wines], Wines]) -> dict[str, dict[str, float]]:
    """How far off the reconstructions of ``wines`` are, by measurement and on the ``mean``; and how far the median of the training rows of the type is.

    Mean absolute error, in units of the standard deviation that the measurement has among the training rows; all
    types together. A measurement that does not vary counts in its own unit.
    """
    medians = np.stack([_median(train.take(train.red == bool(t))) for t in range(len(TYPES))])[wines.red.astype(np.int64)]  # (rows, 11)
    return {ERROR: _errors(wines, reconstructed(wines).measurements(), train), OF_MEDIAN: _errors(wines, medians, train)}


def _median(wines: Wines) -> Floats:
    """Of each measurement, (11,); zeros without wines, of whose type none are held out either."""
    return np.asarray(np.median(wines.measurements(), axis=0)) if len(wines) else np.zeros(len(MEASUREMENTS))


def _errors(wines: Wines, guesses: Floats, train: Wines) -> dict[str, float]:
    errors = np.abs(guesses - wines.measurements()).mean(axis=0) / deviations(train.measurements())  # (11,)
    return dict(zip(MEASUREMENTS, errors.tolist(), strict=True)) | {"mean": float(errors.mean())}
