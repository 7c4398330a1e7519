"""What looks off about a wine: a Gaussian copula of the eleven measurements of each type.

Every measurement becomes the normal score of its rank among the training wines of its type; the scores' covariance
then tells what each is expected to be given the other ten, and how far from that it may lie. (Gaussian graphical
model: the residual of one given all others is (P d)_j / P_jj with variance 1 / P_jj, P the precision matrix;
Lauritzen, *Graphical Models*, 1996, chapter 5.) It is no judge of forgeries, but it can point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from app.errors import BundleInvalid
from app.marginals import FieldScores, FieldTable, field_table, table_from, table_state
from app.wine import COLUMNS, HIGH_TICKS, LOW_TICKS, TYPES, Floats, Ticks, Wines

RIDGE = 0.05  # on the diagonal: sugar, alcohol and density nearly determine each other
MOST = 3  # reasons for a wine
SURPRISING = 2.0  # standard deviations; less is no reason


@dataclass(frozen=True)
class Reason:
    """A measurement that does not go with the others: ``expected`` (ticks) in its place would; ``surprise`` in standard deviations."""

    column: int
    expected: int
    surprise: float


@dataclass(frozen=True)
class Copula:
    """Of one type: the values of each measurement with their counts, and mean (11,) and covariance (11, 11) of their normal scores."""

    tables: tuple[FieldTable, ...]
    mean: Floats
    covariance: Floats

    @cached_property
    def scores(self) -> FieldScores:
        """Of the measurements."""
        return FieldScores(self.tables)

    @cached_property
    def precision(self) -> Floats:
        """Of the scores, (11, 11)."""
        return np.asarray(np.linalg.inv(self.covariance + RIDGE * np.eye(len(COLUMNS))))

    def reasons(self, ticks: Ticks) -> list[list[Reason]]:
        """For each row of ``ticks``, (rows, 11), at most ``MOST``, the strongest first, each given that those before it are mended."""
        rows, found = np.arange(len(ticks)), [list[Reason]() for _ in range(len(ticks))]
        scores = self.scores(ticks.astype(np.int64))
        mended, going = np.zeros(scores.shape, dtype=np.bool_), np.ones(len(ticks), dtype=np.bool_)
        spread = 1 / np.sqrt(np.diag(self.precision))  # of each given the other ten
        for _ in range(MOST):
            residual = ((scores - self.mean)[:, :, None] * self.precision).sum(1) * spread**2  # no matrix product: its bits would depend on the other rows
            surprise = np.where(mended, 0.0, np.abs(residual) / spread)
            worst = surprise.argmax(1)
            scores[rows, worst] -= residual[rows, worst]
            mended[rows, worst] = True
            going &= surprise[rows, worst] >= SURPRISING
            for i in np.flatnonzero(going):
                found[i].append(self._reason(int(worst[i]), float(scores[i, worst[i]]), float(surprise[i, worst[i]])))
        return found

    def _reason(self, column: int, score: float, surprise: float) -> Reason:
        expected = self.tables[column].value_at(score)
        return Reason(column, int(np.clip(np.rint(expected), LOW_TICKS[column], HIGH_TICKS[column])), surprise)


def fit(wines: Wines) -> dict[str, Copula]:
    """The copula of each type that these training rows hold."""
    return {name: _fit(wines.ticks[wines.red == bool(red)]) for red, name in enumerate(TYPES) if (wines.red == bool(red)).any()}


def reasons(copulas: dict[str, Copula], wines: Wines) -> list[list[Reason]]:
    """Why each wine looks off, the strongest reason first; none for one that does not. Its type must be among the copulas."""
    found = [list[Reason]() for _ in range(len(wines))]
    for red, name in enumerate(TYPES):
        at = np.flatnonzero(wines.red == bool(red))
        for i, of_row in zip(at, copulas[name].reasons(wines.ticks[at]) if len(at) else [], strict=True):
            found[i] = of_row
    return found


def _fit(ticks: Ticks) -> Copula:
    tables = tuple(field_table(ticks[:, j].astype(np.int64)) for j in range(len(COLUMNS)))
    scores = FieldScores(tables)(ticks.astype(np.int64))
    return Copula(tables, scores.mean(0), np.cov(scores, rowvar=False))


def to_state(copulas: dict[str, Copula]) -> dict[str, Any]:
    """As plain JSON values; ``from_state`` is its inverse, bit for bit."""
    return {
        name: {"tables": [table_state(t) for t in copula.tables], "mean": copula.mean.tolist(), "covariance": copula.covariance.tolist()}
        for name, copula in copulas.items()
    }


def from_state(state: dict[str, Any]) -> dict[str, Copula]:
    """The copulas that ``to_state`` wrote; ``BundleInvalid`` if something is missing or of another shape."""
    size = len(COLUMNS)
    try:
        return {
            name: Copula(
                tuple(table_from(t) for _, t in zip(range(size), one["tables"], strict=True)),
                np.array(one["mean"], dtype=np.float64).reshape(size),
                np.array(one["covariance"], dtype=np.float64).reshape(size, size),
            )
            for name, one in state.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BundleInvalid(f"the manifest's copulas are damaged: {error!r}") from error
