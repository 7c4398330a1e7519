"""The marginal of one field: the values seen in training and how often, as normal scores on the way in and as cells on the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.wine import Floats, Ints

CELLS = 2**16  # resolution of u on the way out: 13 cells for one wine among 4,898
EDGE_U = 1e-4  # u stays inside [EDGE_U, 1 - EDGE_U]: scores within +-3.72, as in training
MAX_SPAN = 10**7  # ticks between the lowest and the highest value of a field; a density's residuals span 200,000 at most


@dataclass(frozen=True)
class FieldTable:
    """One field of one type: ``values`` (k,) ascending ticks, ``counts`` (k,) of training rows, ``ends`` (k,) cells.

    On the way out value ``k`` holds the cells from ``ends[k-1]`` (0 at first) up to ``ends[k]``, which it leaves out.
    """

    values: Ints
    counts: Ints
    ends: Ints

    def cdf(self) -> Floats:
        """P(X <= value) for each value, (k,), the last exactly 1."""
        total = np.cumsum(self.counts)
        return np.asarray(total / total[-1])

    def cells(self) -> NDArray[np.int32]:
        """The value of every cell, (CELLS,)."""
        return np.repeat(self.values, np.diff(self.ends, prepend=0)).astype(np.int32)

    def intervals(self, values: Ints) -> tuple[Floats, Floats]:
        """F(x-) and P(x) of values that training saw; both (rows,)."""
        at = np.searchsorted(self.values, values)
        cdf = self.cdf()
        below = np.where(at > 0, cdf[at - 1], 0.0)
        return below, cdf[at] - below

    def value_at(self, score: float) -> float:
        """The value in ticks whose normal score this is, in between interpolated, ends clipped."""
        return float(np.interp(score, self.known_scores, self.values))

    @cached_property
    def known_scores(self) -> Floats:
        """The normal score of each value's middle rank, (k,)."""
        cdf = self.cdf()
        middle = np.clip((cdf + np.r_[0.0, cdf[:-1]]) / 2, EDGE_U, 1 - EDGE_U)
        normal = NormalDist()
        return np.array([normal.inv_cdf(u) for u in middle])


class FieldScores:
    """Values of several fields -> normal scores, all fields at once: those of every value between the lowest and the highest that training saw lie ready.

    A value that training saw has its middle rank's, one in between is interpolated. Outside the range the score goes on
    with the slope of the whole range, so that a wine that is twice too strong does not look like the strongest one seen.
    """

    def __init__(self, tables: Sequence[FieldTable]) -> None:
        self._low, self._high = (np.array([t.values[end] for t in tables]) for end in (0, -1))  # each (fields,)
        self._scores = np.concatenate([np.interp(np.arange(t.values[0], t.values[-1] + 1), t.values, t.known_scores) for t in tables])
        lengths = self._high - self._low
        self._starts = np.cumsum(lengths + 1) - (lengths + 1) - self._low  # where a value of 0 would lie
        rises = np.array([t.known_scores[-1] - t.known_scores[0] for t in tables])
        self._slopes = np.where(lengths > 0, rises / np.maximum(lengths, 1), 1.0)

    def __call__(self, values: Ints) -> Floats:
        """Shape: values (rows, fields) -> scores (rows, fields)."""
        inside = values.clip(self._low, self._high)
        return np.asarray(self._scores.take(inside + self._starts) + self._slopes * (values - inside))


def field_table(values: Ints) -> FieldTable:
    """The values of one field in training rows, (rows,), each once with its count."""
    unique, counts = np.unique(values, return_counts=True)
    return FieldTable(unique, counts, ends_at(np.cumsum(counts) / len(values)))


def ends_at(u: Floats) -> Ints:
    """Cell borders at these non-decreasing places of [0, 1]; the last is the end of the last cell."""
    ends = np.rint(u * CELLS).astype(np.int64)
    ends[-1] = CELLS
    return ends


def cell_of(u: NDArray[Any]) -> NDArray[np.int32]:
    """The cell that each u in [0, 1] picks, in the precision of ``u``; the same shape."""
    return np.asarray(np.minimum(u * CELLS, CELLS - 1), dtype=np.int32)


def table_state(table: FieldTable) -> dict[str, Any]:
    """The table as plain JSON values; ``table_from`` is its inverse."""
    return {"values": table.values.tolist(), "counts": table.counts.tolist(), "ends": table.ends.tolist()}


def table_from(state: dict[str, Any]) -> FieldTable:
    """The table that ``table_state`` wrote; ``ValueError`` or ``KeyError`` if it is another thing."""
    table = FieldTable(*(np.array(state[k], dtype=np.int64) for k in ("values", "counts", "ends")))
    whole = len(table.values) == len(table.counts) == len(table.ends) > 0 and table.ends[-1] == CELLS
    rises = (np.diff(table.ends, prepend=0) >= 0).all() and (np.diff(table.values) > 0).all()
    if not whole or not rises or table.values[-1] - table.values[0] > MAX_SPAN:
        raise ValueError(f"expected as many rising values, counts and rising ends, the last {CELLS}, and values within {MAX_SPAN} of each other")
    return table
