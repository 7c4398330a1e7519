"""Distance to the closest training row (DCR), and the compact index of those rows that tells a lower bound of it.

Distances are those of the report (``worker.evaluate.privacy``): Euclidean over all 13 columns, each divided by its
standard deviation among the training rows. The index holds each training row's cell of a coarse grid, once, and how
far from the middle of its cell any of them lies: by so much less than the distance to the nearest middle is the distance
to the nearest row, at worst. So what it lets through is never nearer than asked; some of what it refuses is farther.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import BundleInvalid
from app.wine import COLUMNS, NAMES, QUALITY_RANGE, SCALES, Floats, Wines

MAX_DCR = 10.0  # standard deviations; wine that far from every training row is none
ROUNDING = 1e-6  # standard deviations: more than sums of squares lose in doubles at any distance asked for, and nothing to a wine
TILE = 2**14  # distances at once: few enough for the cache, and for OpenBLAS not to start threads that cost more than they bring
_SIZE = len(COLUMNS)
_Ticks = Annotated[int, Field(ge=0, lt=2**20)]
_Group = tuple[Annotated[int, Field(ge=0, le=1)], Annotated[int, Field(ge=0, le=QUALITY_RANGE[1])], Annotated[int, Field(ge=1, lt=2**31)]]


class _Header(BaseModel):
    """What the index says of itself in its first line, in JSON; codes follow, (rows, 11), little-endian, row by row."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: list[Annotated[float, Field(gt=0)]] = Field(min_length=len(NAMES), max_length=len(NAMES), description="standard deviation of each column")
    first: list[_Ticks] = Field(min_length=_SIZE, max_length=_SIZE, description="middle of each measurement's cell 0, in ticks")
    step: list[Annotated[_Ticks, Field(ge=1)]] = Field(min_length=_SIZE, max_length=_SIZE, description="ticks from cell to cell")
    error: float = Field(ge=0, description="standard deviations from the middle of a row's cell to the row, at most")
    code: str = Field(pattern="^<u[12]$", description="the type of a code")
    groups: list[_Group] = Field(min_length=1, description="type (1: red), quality, rows that follow: rising")


def columns(wines: Wines) -> Floats:
    """All 13 columns as numbers, (rows, 13): measurements in their units, quality, 1 where red."""
    return np.column_stack([wines.measurements(), wines.quality, wines.red])


def deviations(x: Floats) -> Floats:
    """The standard deviation of each column of ``x`` (rows, columns), 1 where it is constant: of equal numbers that is rarely 0, but some rounding."""
    return np.where(np.ptp(x, axis=0) > 0, x.std(axis=0), 1.0)


def scales(wines: Wines) -> Floats:
    """What a distance is measured by, (13,): the standard deviation of each column, 1 where it is constant."""
    return deviations(columns(wines))


def index(train: Wines, step: float) -> bytes:
    """The index of these rows with cells of ``step`` standard deviations, and never less than a tick."""
    scale = scales(train)
    per_ticks = scale[:_SIZE] * SCALES
    steps = np.maximum(1, np.rint(step * per_ticks)).astype(np.int64)
    lowest = train.ticks.min(axis=0).astype(np.int64)
    codes = (train.ticks - lowest) // steps
    first = lowest + (steps - 1) // 2
    away = np.sqrt((((train.ticks - first - codes * steps) / per_ticks) ** 2).sum(axis=1))
    cells = np.unique(np.column_stack([train.red, train.quality, codes]), axis=0)  # sorted: nothing is left of the order of the rows
    labels, counts = np.unique(cells[:, :2], axis=0, return_counts=True)
    header = _Header(
        scale=scale.tolist(),
        first=first.tolist(),
        step=steps.tolist(),
        error=float(away.max()) + ROUNDING,
        code="<u1" if cells[:, 2:].max() < 2**8 else "<u2",  # a column has less than 2^16 ticks
        groups=[(int(red), int(quality), int(n)) for (red, quality), n in zip(labels, counts, strict=True)],
    )
    return header.model_dump_json().encode() + b"\n" + cells[:, 2:].astype(header.code).tobytes()


class Index:
    """What ``index`` wrote, to be asked how near rows are."""

    def __init__(self, part: bytes, *, name: str) -> None:
        """``BundleInvalid``, with the part's name, if it can't be read."""
        try:
            header, codes = _read(part)
        except ValueError as error:
            raise BundleInvalid(f"{name} is damaged: {error}") from error
        self._scale = np.array(header.scale)
        self.error = header.error
        middles = (np.array(header.first) + codes * np.array(header.step, dtype=np.int64)) / SCALES
        red, quality, rows = np.array(header.groups).T
        points = np.column_stack([middles, np.repeat(quality, rows), np.repeat(red, rows)])  # (rows, 13)
        self._mean = points.mean(axis=0)  # squares of small numbers lose less
        points = (points - self._mean) / self._scale
        points = np.column_stack([points, (points**2).sum(axis=1)])  # (rows, 14)
        ends = np.cumsum(rows)
        self._groups = [((int(r), int(q)), points[a:b]) for r, q, (a, b) in zip(red, quality, pairwise([0, *ends.tolist()]), strict=True)]

    def clears(self, wines: Wines, min_dcr: float) -> NDArray[np.bool_]:
        """Whether each row, (rows,), is sure to be ``min_dcr`` or more from every training row."""
        reach = (min_dcr + self.error) ** 2
        return np.asarray(self._squared(wines, reach) >= reach)

    def clearance(self, wines: Wines) -> Floats:
        """What each row, (rows,), is at least away from every training row; below 0: it may be one."""
        return np.asarray(np.sqrt(self._squared(wines, (MAX_DCR + 1 + self.error) ** 2)) - self.error)

    def _squared(self, wines: Wines, reach: float) -> Floats:
        """The squared distance of each row to the nearest middle of a cell, (rows,); ``reach`` where that is less."""
        found = np.full(len(wines), reach)
        own = (columns(wines) - self._mean) / self._scale
        labels = wines.red * (QUALITY_RANGE[1] + 1) + wines.quality
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            # a point of another quality costs 1.1 already (in the original data): most often only its own group is near enough
            near = [points for other, points in self._groups if self._apart(divmod(int(label), QUALITY_RANGE[1] + 1), other) < reach]
            if near:
                found[rows] = np.minimum(found[rows], _nearest(own[rows], near[0] if len(near) == 1 else np.concatenate(near)))
        return found

    def _apart(self, one: tuple[int, int], other: tuple[int, int]) -> float:
        """The squared distance that type and quality make between two wines."""
        return float(((one[0] - other[0]) / self._scale[-1]) ** 2 + ((one[1] - other[1]) / self._scale[-2]) ** 2)


def _nearest(rows: Floats, points: Floats) -> Floats:
    """The least squared distance of each of ``rows``, (rows, 13), to ``points``, (points, 14), the last their squared norm; (rows,)."""
    found = np.full(len(rows), np.inf)
    turned = np.vstack([-2 * rows.T, np.ones(len(rows))])  # (14, rows)
    most_rows = min(len(rows), 512)
    step = max(1, TILE // most_rows)
    for first in range(0, len(rows), most_rows):
        some = slice(first, first + most_rows)
        for start in range(0, len(points), step):
            np.minimum(found[some], (points[start : start + step] @ turned[:, some]).min(axis=0), out=found[some])
    return np.asarray(np.maximum(found + (rows**2).sum(axis=1), 0))


def _read(part: bytes) -> tuple[_Header, NDArray[np.int64]]:
    """The header and the codes, (rows, 11); ``ValueError`` says what is wrong with them."""
    line, _, body = part.partition(b"\n")
    try:
        header = _Header.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} faults in its header, first {error.errors()[0]}") from error
    labels = [(red, quality) for red, quality, _ in header.groups]
    if labels != sorted(set(labels)):
        raise ValueError(f"expected groups whose labels rise, found {labels}")
    expected = sum(rows for *_, rows in header.groups) * _SIZE * np.dtype(header.code).itemsize
    if len(body) != expected:
        raise ValueError(f"expected {expected} bytes of codes, found {len(body)}")
    return header, np.frombuffer(body, dtype=header.code).reshape(-1, _SIZE).astype(np.int64)
