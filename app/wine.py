"""The columns of a wine and the table type made of them; all else derives from this one table.

Measurements live on a decimal grid, so inside Cuvée a value is a whole number of *ticks* (pH 3.26 is 326 ticks of
0.01). Ticks compare, hash and render exactly; ``ticks / scale`` is the float nearest to the decimal, since both are
whole numbers that a double holds.

Source of the columns: P. Cortez et al., *Modeling wine preferences by data mining from physicochemical properties*,
Decision Support Systems 47(4), 2009, table 1. The bounds are physical and generous (a vinho verde lies well inside):
they refuse a wrong unit or a typing error, not an unusual wine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ticks = NDArray[np.int32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One measurement: its name, unit, decimal places on the grid, and physical bounds in that unit."""

    name: str
    unit: str
    decimals: int
    low: float
    high: float
    meaning: str

    @property
    def scale(self) -> int:
        """Ticks per unit."""
        return int(10**self.decimals)


COLUMNS = (
    Column("fixed_acidity", "g/dm3 tartaric acid", 2, 0.0, 30.0, "acids that do not evaporate"),
    Column("volatile_acidity", "g/dm3 acetic acid", 3, 0.0, 5.0, "the vinegar in it"),
    Column("citric_acid", "g/dm3", 2, 0.0, 5.0, "freshness"),
    Column("residual_sugar", "g/dm3", 2, 0.0, 300.0, "what the yeast left"),
    Column("chlorides", "g/dm3 sodium chloride", 3, 0.0, 2.0, "salt"),
    Column("free_sulfur_dioxide", "mg/dm3", 1, 0.0, 500.0, "the part of the SO2 that still protects"),
    Column("total_sulfur_dioxide", "mg/dm3", 1, 0.0, 1000.0, "free and bound SO2; never below the free"),
    Column("density", "g/cm3", 5, 0.95, 1.15, "sinks with alcohol, rises with sugar"),
    Column("pH", "pH", 2, 2.0, 5.0, "acidity as a meter reads it"),
    Column("sulphates", "g/dm3 potassium sulphate", 2, 0.0, 5.0, "an additive that can release SO2"),
    Column("alcohol", "% vol", 2, 5.0, 20.0, "ethanol by volume"),
)
MEASUREMENTS = tuple(c.name for c in COLUMNS)
NAMES = (*MEASUREMENTS, "quality", "type")
TYPES = ("white", "red")  # index = the value of Wines.red
QUALITY_RANGE = (0, 10)  # the tasters' scale (Cortez 2009, section 2.1); the data hold 3 to 9
SCALES: Floats = np.array([c.scale for c in COLUMNS], dtype=np.float64)
LOW_TICKS = np.array([round(c.low * c.scale) for c in COLUMNS], dtype=np.int32)
HIGH_TICKS = np.array([round(c.high * c.scale) for c in COLUMNS], dtype=np.int32)

FREE_SO2 = MEASUREMENTS.index("free_sulfur_dioxide")
TOTAL_SO2 = MEASUREMENTS.index("total_sulfur_dioxide")
DENSITY = MEASUREMENTS.index("density")


@dataclass(frozen=True)
class Wines:
    """A table of wines, column by column.

    Shape: ``ticks`` (rows, 11) int32 in the order of ``COLUMNS``; ``quality`` (rows,) int64; ``red`` (rows,) bool.
    """

    ticks: Ticks
    quality: NDArray[np.int64]
    red: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.quality)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Wines:
        """The rows at ``index`` (positions, a mask or a slice), in that order."""
        return Wines(self.ticks[index], self.quality[index], self.red[index])

    def measurements(self) -> Floats:
        """The measurements in their units, (rows, 11) float64."""
        return self.ticks / SCALES

    def keys(self) -> NDArray[np.int64]:
        """A number for each row, equal where the *wine* is equal: measurements and type, the score left out; (rows,)."""
        wine = np.column_stack([self.ticks, self.red.astype(np.int32)])
        return np.unique(wine, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def to_ticks(measurements: Floats) -> Ticks:
    """Measurements in their units, (rows, 11), moved to the nearest point of the grid, as (rows, 11) int32."""
    return np.rint(measurements * SCALES).astype(np.int32)


def concatenate(parts: list[Wines]) -> Wines:
    """The rows of all parts, one after the other; at least one part."""
    return Wines(
        np.concatenate([p.ticks for p in parts]),
        np.concatenate([p.quality for p in parts]),
        np.concatenate([p.red for p in parts]),
    )
