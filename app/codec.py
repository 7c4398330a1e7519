"""Rows <-> model space. Every measurement becomes a normal score within its type; integers in, integers out.

Model space has eleven *fields*, the measurements with two exchanged for what is left once others are known: total SO2
gives way to bound SO2 (total minus free, so free <= total by construction), density to its residual on the other ten
(ridge regression on their quadratic features). Each field has a table per type: the values seen in training (ticks)
and how often. The way in is the randomised rank transform u = F(x-) + V P(x), V uniform (Rueschendorf 2009); the way
out a lookup: u picks a cell, the cell holds the value. *Recalibration* moves the borders of the cells so that what
the generator actually emits has the marginals of the training rows.

The *condition* that networks see beside the fields is eight numbers: six thermometer bits of the quality (>= 4 ... >= 9),
the quality standardised, and the type as +-1.

Only numpy, and the state is plain integers and floats: it travels in the manifest of a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.density import DensityModel, fit_density
from app.errors import BundleInvalid
from app.marginals import CELLS, FieldScores, FieldTable, cell_of, ends_at, field_table, table_from, table_state
from app.wine import COLUMNS, DENSITY, FREE_SO2, HIGH_TICKS, QUALITY_RANGE, TOTAL_SO2, TYPES, Floats, Ints, Ticks, Wines

FIELDS = tuple({"total_sulfur_dioxide": "bound_sulfur_dioxide", "density": "density_residual"}.get(c.name, c.name) for c in COLUMNS)
RESIDUAL_SCALE = 1000.0  # ticks of the residual per g/dm3
DENSITY_PER_TICK = 1000.0 / COLUMNS[DENSITY].scale  # g/dm3
OUTSIDE_SCORE = 6.0  # a scored value far outside of what training saw is clipped here

CONDITION = 8  # numbers in a condition
NEUTRAL_QUALITY = 6  # what the classifier sees in place of the score that it has to tell
_QUALITY_MEAN, _QUALITY_STD = 5.8, 0.9  # of the UCI table
_QUALITY_NUMBERS = np.array(
    [[*(q >= bit for bit in range(4, 10)), (q - _QUALITY_MEAN) / _QUALITY_STD] for q in range(QUALITY_RANGE[1] + 1)], dtype=np.float32
)  # (11, 7)


def condition(quality: Ints, red: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The condition of each row, (rows, 8) float32, from scores (rows,) within 0..10 and types (rows,)."""
    return np.column_stack([_QUALITY_NUMBERS[quality], np.where(red, np.float32(1), np.float32(-1))])


def neutral_condition(red: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The condition with the score held at its neutral value, (rows, 8): what the classifier is given."""
    return condition(np.full(len(red), NEUTRAL_QUALITY), red)


@dataclass(frozen=True)
class DensityGrid:
    """The last step of density: a composed value (g/dm3) between ``low`` and ``high`` picks a cell of ``table``."""

    low: float
    high: float
    table: FieldTable


@dataclass(frozen=True)
class TypeCodec:
    """Everything that one type (white or red) needs: eleven field tables, and density's two stages."""

    fields: tuple[FieldTable, ...]
    density: DensityModel
    grid: DensityGrid

    @cached_property
    def scores(self) -> FieldScores:
        """Of the fields."""
        return FieldScores(self.fields)


@dataclass(frozen=True)
class Codec:
    """The codec of a model: one ``TypeCodec`` per entry of ``TYPES``; None for a type that training did not hold."""

    types: tuple[TypeCodec | None, ...]

    def intervals(self, wines: Wines) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """F(x-) and P(x) of training rows in every field, each (rows, 11) float32."""
        below = np.zeros((len(wines), len(FIELDS)), dtype=np.float32)
        width = np.zeros_like(below)
        for codec, rows in self._each(wines.red):
            fields = _to_fields(wines.ticks[rows], codec.density)
            for j, table in enumerate(codec.fields):
                below[rows, j], width[rows, j] = table.intervals(fields[:, j])
        return below, width

    def scores(self, wines: Wines) -> NDArray[np.float32]:
        """Normal scores (rows, 11) float32 of any wines of types that training held, deterministic."""
        scores = np.zeros((len(wines), len(FIELDS)), dtype=np.float32)
        for codec, rows in self._each(wines.red):
            scores[rows] = codec.scores(_to_fields(wines.ticks[rows], codec.density)).clip(-OUTSIDE_SCORE, OUTSIDE_SCORE)
        return scores

    def recalibrated(self, u: Floats, red: NDArray[np.bool_]) -> Codec:
        """The codec whose outputs have the training marginals when fed by whatever made ``u``, (rows, 11) in [0, 1]."""
        types = [codec and _recalibrate(codec, u[red == bool(t)]) for t, codec in enumerate(self.types)]
        return Codec(tuple(types))

    def _each(self, red: NDArray[np.bool_]) -> list[tuple[TypeCodec, NDArray[np.bool_]]]:
        """The codec of each type that occurs in ``red``, with the mask of its rows."""
        present = []
        for t, codec in enumerate(self.types):
            rows = red == bool(t)
            if not rows.any():
                continue
            if codec is None:
                raise ValueError(f"{int(rows.sum())} rows are {TYPES[t]}, and this codec was fitted without any")
            present.append((codec, rows))
        return present


class Decoder:
    """The way out, made fast: tables spread over their cells once, then every block is gathers and one product of small matrices."""

    def __init__(self, codec: Codec) -> None:
        known = [t for t in codec.types if t is not None]
        types = [t if t is not None else known[0] for t in codec.types]  # an absent type is never asked for
        self._fields = np.concatenate([f.cells() for j in range(len(FIELDS)) for f in (t.fields[j] for t in types)])  # field by field, (11 * types * CELLS,)
        self._starts = np.arange(len(FIELDS), dtype=np.int32) * (len(types) * CELLS)
        self._density = np.concatenate([t.grid.table.cells() for t in types])  # (types * CELLS,)
        self._forms = np.concatenate([t.density.form() for t in types], axis=1)  # (11, types * 11)
        self._low = np.array([t.grid.low for t in types])
        self._cells = np.array([CELLS / (t.grid.high - t.grid.low) for t in types])  # of a g/dm3

    def __call__(self, u: NDArray[np.float32], red: NDArray[np.bool_]) -> Ticks:
        """Ticks (rows, 11) on the grid, from ``u`` (rows, 11) in [0, 1] and ``red`` (rows,).

        Same shapes in, same bits out: both types are computed for all rows and then chosen between, so that the
        arithmetic of a row does not depend on the types of its neighbours.
        """
        of = red.astype(np.int32)
        ticks = self._fields.take(cell_of(u) + (of * CELLS)[:, None] + self._starts)
        x = ticks.astype(np.float64)
        residual = x[:, DENSITY] / RESIDUAL_SCALE
        x[:, DENSITY] = 1.0  # the form's constant stands where density would
        both = ((x @ self._forms).reshape(len(x), -1, len(FIELDS)) * x[:, None]).sum(2)  # (rows, types)
        composed = np.where(red, both[:, -1], both[:, 0]) + residual
        cell = np.clip((composed - self._low[of]) * self._cells[of], 0, CELLS - 1).astype(np.int32)
        ticks[:, DENSITY] = self._density.take(cell + of * CELLS)
        # a wine of the most free and another of the most bound can together be more than any wine holds
        ticks[:, TOTAL_SO2] = np.minimum(ticks[:, TOTAL_SO2] + ticks[:, FREE_SO2], HIGH_TICKS[TOTAL_SO2])
        return ticks


def fit(wines: Wines) -> Codec:
    """The codec of these training rows; needs at least two rows of each type that occurs.

    Before ``recalibrated`` its cells assume that u is uniform.
    """
    types = []
    for t in range(len(TYPES)):
        rows = wines.take(wines.red == bool(t))
        types.append(_fit_type(rows.ticks) if len(rows) else None)
    return Codec(tuple(types))


def _fit_type(ticks: Ticks) -> TypeCodec:
    density = fit_density(_others(_swap_bound(ticks)), np.asarray(ticks[:, DENSITY] * DENSITY_PER_TICK, dtype=np.float64))
    fields = _to_fields(ticks, density)
    tables = tuple(field_table(fields[:, j]) for j in range(len(FIELDS)))
    observed = field_table(ticks[:, DENSITY].astype(np.int64))
    return TypeCodec(tables, density, _grid(_compose(fields, density), observed))


def _grid(composed: Floats, observed: FieldTable) -> DensityGrid:
    """The monotone step function that gives ``composed`` densities the distribution of the observed ones."""
    low, high = float(composed.min()), float(composed.max())
    high = high if high > low else low + 1.0
    borders = np.quantile(composed, observed.cdf())
    return DensityGrid(low, high, replace(observed, ends=ends_at((borders - low) / (high - low))))


def _recalibrate(codec: TypeCodec, u: Floats) -> TypeCodec:
    tables = tuple(replace(f, ends=ends_at(np.quantile(u[:, j], f.cdf()))) for j, f in enumerate(codec.fields))
    cell = cell_of(u)
    fields = np.stack([f.cells()[cell[:, j]] for j, f in enumerate(tables)], axis=1)
    return TypeCodec(tables, codec.density, _grid(_compose(fields, codec.density), codec.grid.table))


def _to_fields(ticks: Ticks, density: DensityModel) -> Ints:
    """Rows in ticks, (rows, 11), as fields in ticks, (rows, 11)."""
    fields = _swap_bound(ticks)
    residual = ticks[:, DENSITY] * DENSITY_PER_TICK - density.predict(_others(fields))
    fields[:, DENSITY] = np.rint(residual * RESIDUAL_SCALE)
    return fields


def _compose(fields: NDArray[Any], density: DensityModel) -> Floats:
    """Density in g/dm3, (rows,), of rows given as fields."""
    return density.predict(_others(fields)) + fields[:, DENSITY] / RESIDUAL_SCALE


def _swap_bound(ticks: Ticks) -> Ints:
    fields = ticks.astype(np.int64)
    fields[:, TOTAL_SO2] -= fields[:, FREE_SO2]
    return fields


def _others(fields: NDArray[Any]) -> Floats:
    """The fields that density is predicted from, (rows, 10) float64."""
    return np.delete(fields, DENSITY, axis=1).astype(np.float64)


def to_state(codec: Codec) -> dict[str, Any]:
    """The codec as plain JSON values; ``from_state`` is its inverse, bit for bit."""
    return {TYPES[t]: _type_state(c) for t, c in enumerate(codec.types) if c is not None}


def from_state(state: dict[str, Any]) -> Codec:
    """The codec that ``to_state`` wrote; ``BundleInvalid`` if a part is missing or of another shape."""
    try:
        codec = Codec(tuple(_type_from(state[name]) if name in state else None for name in TYPES))
        if not any(codec.types):
            raise ValueError(f"expected at least one of the types {TYPES}")
        return codec
    except (KeyError, TypeError, ValueError) as error:
        raise BundleInvalid(f"the manifest's codec is damaged: {error!r}") from error


_DENSITY_ARRAYS = {"mean": 10, "std": 10, "feature_mean": 65, "feature_std": 65, "weights": 65}


def _type_state(codec: TypeCodec) -> dict[str, Any]:
    density: dict[str, Any] = {name: getattr(codec.density, name).tolist() for name in _DENSITY_ARRAYS}
    return {
        "fields": {name: table_state(f) for name, f in zip(FIELDS, codec.fields, strict=True)},
        "density": density | {"intercept": codec.density.intercept},
        "grid": {"low": codec.grid.low, "high": codec.grid.high, **table_state(codec.grid.table)},
    }


def _type_from(state: dict[str, Any]) -> TypeCodec:
    density, grid = state["density"], state["grid"]
    return TypeCodec(
        tuple(table_from(state["fields"][name]) for name in FIELDS),
        DensityModel(**{k: np.array(density[k], dtype=np.float64).reshape(n) for k, n in _DENSITY_ARRAYS.items()}, intercept=float(density["intercept"])),
        DensityGrid(float(grid["low"]), float(grid["high"]), table_from(grid)),
    )
