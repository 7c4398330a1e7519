"""Whether each wine could be one, by what is known of wine, whatever a detective says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from app.bundle import Rate
from app.codec import DENSITY_PER_TICK
from app.density import fit_density
from app.wine import COLUMNS, DENSITY, FREE_SO2, HIGH_TICKS, LOW_TICKS, TOTAL_SO2, TYPES, Floats, Wines
from worker.evaluate.between import standardised

BAND = 0.99  # of the training rows' residuals of density
NEARBY = 0.995  # of the training rows lie so near to a held-out wine

Check = Callable[[Wines], NDArray[np.bool_]]


def plausibility(holdout: Wines, train: Wines, generated: Wines, *, known: Wines) -> dict[str, Rate]:
    """The share of generated and of held-out wines for which each of these holds.

    - ``free_within_total``: free SO2 is not above the total
    - ``within_bounds``: every measurement lies inside the bounds of ``app.wine.COLUMNS``
    - ``known_values``: every measurement has a value that some wine of ``known`` has, all that was trained on
    - ``density_explained``: density differs from what the other ten measurements say (``app.density``, fitted on the
      training rows of the type) by no more than 99 % of the training rows do
    - ``near_real_wines``: a held-out wine lies as near as one does to 99.5 % of the training rows (which stand for
      the real ones here)
    """
    checks: dict[str, Check] = {
        "free_within_total": lambda wines: np.asarray(wines.ticks[:, FREE_SO2] <= wines.ticks[:, TOTAL_SO2]),
        "within_bounds": lambda wines: np.asarray(((wines.ticks >= LOW_TICKS) & (wines.ticks <= HIGH_TICKS)).all(axis=1)),
        "known_values": partial(_values_known, known),
        "density_explained": _density_explained(train),
    }
    rates = {name: Rate(generated=float(holds(generated).mean()), real=float(holds(holdout).mean())) for name, holds in checks.items()}
    return rates | {"near_real_wines": _near_real(holdout, train, generated)}


def _values_known(known: Wines, wines: Wines) -> NDArray[np.bool_]:
    found = [np.isin(wines.ticks[:, j], known.ticks[:, j]) for j in range(len(COLUMNS))]
    return np.asarray(np.column_stack(found).all(axis=1))


def _density_explained(train: Wines) -> Check:
    bands = {}
    for red in range(len(TYPES)):
        rows = train.take(train.red == bool(red))
        if len(rows):
            others, density = _composition(rows)
            model = fit_density(others, density)
            bands[red] = model, np.quantile(density - model.predict(others), [(1 - BAND) / 2, (1 + BAND) / 2])

    def check(wines: Wines) -> NDArray[np.bool_]:
        holds = np.zeros(len(wines), dtype=bool)
        for red, (model, (low, high)) in bands.items():
            of_type = wines.red == bool(red)
            others, density = _composition(wines.take(of_type))
            residual = density - model.predict(others)
            holds[of_type] = (residual >= low) & (residual <= high)
        return holds

    return check


def _composition(wines: Wines) -> tuple[Floats, Floats]:
    """The other ten measurements in ticks, (rows, 10), and density in g/dm3, (rows,)."""
    return np.delete(wines.ticks, DENSITY, axis=1).astype(np.float64), np.asarray(wines.ticks[:, DENSITY] * DENSITY_PER_TICK, dtype=np.float64)


def _near_real(holdout: Wines, train: Wines, generated: Wines) -> Rate:
    standard = standardised(train)
    to_holdout = KDTree(standard(holdout))
    real, poured = to_holdout.query(standard(train))[0], to_holdout.query(standard(generated))[0]
    limit = np.quantile(real, NEARBY)
    return Rate(generated=float((poured <= limit).mean()), real=float((real <= limit).mean()))
