"""Rows of the infinite table: (model, seed, row) -> wine, a pure function whatever else was asked for.

Networks run on whole, aligned blocks of the table, so that the same shapes are computed for a row however it is
asked for; noise does not depend on the condition, so the same row at quality 5 and at quality 8 of one type is the
same wine, made worse or better. Where the type is left open, it follows the mix of the asked qualities.

What no network can pour was made in advance and lies in a pool: there a row's noise picks one of the wines that have
its labels, so the table is as endless and as addressable, but its wines come again and again.

Labels are drawn as asked for, so every row has them. Limits on measurements and on the distance to training rows are not:
rows beyond them are passed over, and positions in the table stay what they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app import noise
from app.bundle import DCR, GENERATOR, Bundle
from app.dcr import Index
from app.errors import Conflict, Fault, InvalidInput
from app.sources import Generator, Pool, Source
from app.wine import COLUMNS, QUALITY_RANGE, TYPES, Floats, Ticks, Wines, concatenate

BLOCK = 512  # rows; changing it may change the last bit of a row, so it is part of what a bundle format means
RARE = 50  # training rows of a quality; with fewer, what is served says so

_TYPE_DRAW, _QUALITY_DRAW = 0, 1  # which of a row's uniforms picks its labels; the next is a pool's

PROBE_SEED = 2**62 + 5  # noise that no request is likely to ask for
PROBE_BLOCKS = (8, 64)  # blocks that limits are tried on; more where the first let hardly a row pass
FEW = 20  # rows let through by a probe; with fewer, its share is a guess
KEEP_PROBES = 8
MIN_DCR = "min_dcr"  # the name of that limit beside those of the measurements


@dataclass(frozen=True)
class Range:
    """Limits of one measurement, in ticks, both within it; ``column`` is its place among ``COLUMNS``."""

    column: int
    low: int
    high: int

    @property
    def name(self) -> str:
        """The measurement's."""
        return COLUMNS[self.column].name

    def holds(self, ticks: Ticks) -> NDArray[np.bool_]:
        """Whether each row of ``ticks``, (rows, 11), is within the limits, (rows,)."""
        value = ticks[:, self.column]
        return np.asarray((value >= self.low) & (value <= self.high))


@dataclass(frozen=True)
class Condition:
    """What rows of a sample must be; an empty tuple leaves all. ``balanced``: all qualities as often, not as in training.

    ``min_dcr``: how far from every training row, as ``app.dcr`` measures it; 0 leaves all.
    """

    qualities: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    balanced: bool = False
    min_dcr: float = 0.0

    @property
    def limited(self) -> bool:
        """Whether rows may be passed over."""
        return bool(self.ranges or self.min_dcr)

    @property
    def labels(self) -> Condition:
        """The part that is drawn, not passed over."""
        return replace(self, ranges=(), min_dcr=0.0)

    def holds(self, wines: Wines) -> NDArray[np.bool_]:
        """Which wines, (rows,), meet all of it but the mix and the distance; for wines that were not drawn for it."""
        labels = np.isin(wines.quality, self.qualities or np.unique(wines.quality)) & np.isin(wines.red, [t == "red" for t in self.types or TYPES])
        return np.asarray(labels & within_limits(self.ranges, wines.ticks))


@dataclass(frozen=True)
class Poured:
    """Wines and their places in the table, (rows,), rising; ``redrawn``: rows before the last that were passed over for ``min_dcr`` alone."""

    wines: Wines
    rows: NDArray[np.int64]
    redrawn: int = 0


@dataclass(frozen=True)
class Odds:
    """How many of ``probed`` rows of the asked labels pass all limits, and which one limit costs most of them.

    ``without``: how many would pass if that one were dropped, by measurement.
    """

    probed: int
    passed: int
    without: dict[str, int]

    @property
    def share(self) -> float:
        """Of rows that pass."""
        return self.passed / self.probed

    @property
    def binding(self) -> str | None:
        """The measurement whose limits cost the most rows, or ``MIN_DCR``; None without limits."""
        return max(self.without, key=self.without.__getitem__, default=None)

    @property
    def redrawn(self) -> float:
        """Of the rows within all other limits, the share that ``min_dcr`` passes over."""
        others = self.without.get(MIN_DCR, 0)
        return 1 - self.passed / others if others else 0.0

    def rows_for(self, n: int) -> int | None:
        """Rows of the table that must be made for ``n`` that pass, about; None if no probed row did."""
        return math.ceil(n / self.share) if self.passed else None


@dataclass
class _Probe:
    """Wines that limits are tried on, and how far each is at least from every training row, (rows,), once somebody asked."""

    wines: Wines
    clearance: Floats | None = None


class Sampler:
    """The table of one model. Building it starts an inference session or reads a pool; asking it for rows keeps no state."""

    def __init__(self, bundle: Bundle) -> None:
        """``Conflict`` if the model has nothing to pour from, ``BundleInvalid`` if its pool is damaged."""
        manifest = bundle.manifest
        if not bundle.pours:
            raise Conflict(f"model {bundle.id} was trained by method {manifest.method!r}, which does not generate wines; GET /models lists others")
        counts = label_counts(manifest.labels)
        self._source: Source
        self._made: NDArray[np.int64] | None = None  # wines of each (type, quality) in the pool, (2, 11)
        if GENERATOR in bundle.parts:
            self._source, self._holder = Generator(bundle), "the training data hold"
        else:
            pool = Pool(bundle)
            counts[pool.counts == 0] = 0  # what it holds none of can't be poured, whatever the training data hold
            self._source, self._holder, self._made = pool, "this model's pool holds", pool.counts
        self._counts = counts
        self._bundle = bundle
        self._probes: OrderedDict[Condition, _Probe] = OrderedDict()

    @cached_property
    def index(self) -> Index:
        """Of the training rows; ``Conflict`` if the model has none, ``BundleInvalid`` if it is damaged."""
        if DCR not in self._bundle.parts:
            raise Conflict(
                f"min_dcr can't be kept: model {self._bundle.id} holds no index of its training rows (it is older than min_dcr, or was trained where "
                "CUVEE_DCR_STEP is 0); train it again (POST /train, and a worker whose CUVEE_DCR_STEP is above 0), or leave min_dcr out"
            )
        return Index(self._bundle.parts[DCR], name=DCR)

    def check(self, condition: Condition) -> list[str]:
        """What the asker should know about a condition, in words; ``InvalidInput`` if the model can pour no such wine, ``Conflict`` if it can't tell."""
        rows = self._allowed(replace(condition, balanced=False))
        qualities = condition.qualities or tuple(np.flatnonzero(rows.sum(0)).tolist())
        missing = [q for q in qualities if rows[:, q].sum() == 0]
        if missing or rows.sum() == 0:
            raise self._unknown(condition, missing)
        if condition.min_dcr:
            _ = self.index
        if not condition.qualities and not condition.balanced:
            return []
        notes = [f"quality {q} rests on {n} training rows only" for q in qualities if (n := int(rows[:, q].sum())) < RARE]
        if self._made is not None:
            made = (self._made * (rows > 0)).sum(0)
            notes += [f"only {made[q]} wines of quality {q} were made in advance; they come again and again" for q in qualities if made[q] < RARE]
        return notes

    def blocks(self, condition: Condition, *, seed: int, offset: int, n: int, most: int | None = None) -> Iterator[Poured]:
        """The first ``n`` rows that meet the condition, from row ``offset`` on, of the table that ``seed`` names; at most ``BLOCK`` at a time.

        A block of which no row passes the limits is there too, with no rows, so that whoever asks can do other things in between.
        ``InvalidInput`` once more than ``most`` rows were made, or the table ends (``noise.MAX_ROW``).
        """
        allowed = self._allowed(condition)
        block, wanted = offset // BLOCK, n
        while n > 0:
            first = block * BLOCK
            if first >= noise.MAX_ROW or (most is not None and first - offset > most):
                found = f"{wanted - n} of them among {first - offset} rows"
                detail = f"n: expected {wanted} rows within the limits, found {found} and went no further; loosen the limits"
                raise InvalidInput(detail, [Fault("/query/n", detail, expected="limits that more rows pass", found=found)])
            wines = self._block(allowed, seed=seed, first=first)
            within = within_limits(condition.ranges, wines.ticks) & (np.arange(BLOCK) >= offset - first)
            clear = self.index.clears(wines, condition.min_dcr) if condition.min_dcr else np.ones(BLOCK, dtype=np.bool_)
            chosen = np.flatnonzero(within & clear)[:n]
            end = chosen[-1] if len(chosen) == n else BLOCK
            yield Poured(wines.take(chosen), chosen + first, int((within & ~clear)[:end].sum()))
            n -= len(chosen)
            block += 1

    def wines(self, condition: Condition, *, seed: int, offset: int, n: int) -> Wines:
        """The wines of ``blocks``, all at once."""
        return concatenate([block.wines for block in self.blocks(condition, seed=seed, offset=offset, n=n)])

    def odds(self, condition: Condition) -> Odds:
        """How likely a row of the asked labels passes the limits, tried on rows that are kept for the next who asks.

        Not to be asked from two threads at once.
        """
        odds = self._tried(condition, PROBE_BLOCKS[0])
        return self._tried(condition, PROBE_BLOCKS[1]) if odds.passed < FEW else odds

    def _tried(self, condition: Condition, blocks: int) -> Odds:
        probe = self._probe(condition.labels, blocks)
        rows = len(probe.wines)
        passes = {r.name: r.holds(probe.wines.ticks) for r in condition.ranges}
        if condition.min_dcr:
            if probe.clearance is None:
                probe.clearance = self.index.clearance(probe.wines)
            passes[MIN_DCR] = probe.clearance >= condition.min_dcr
        without = {name: int(_all([p for other, p in passes.items() if other != name], rows).sum()) for name in passes}
        return Odds(rows, int(_all(list(passes.values()), rows).sum()), without)

    def _probe(self, labels: Condition, blocks: int) -> _Probe:
        """Rows of these labels, at least so many blocks of them."""
        if labels not in self._probes or len(self._probes[labels].wines) < blocks * BLOCK:
            self._probes[labels] = _Probe(self.wines(labels, seed=PROBE_SEED, offset=0, n=blocks * BLOCK))
        self._probes.move_to_end(labels)
        if len(self._probes) > KEEP_PROBES:
            self._probes.popitem(last=False)
        return self._probes[labels]

    def _block(self, allowed: NDArray[np.float64], *, seed: int, first: int) -> Wines:
        drawn = noise.draw(seed, first, BLOCK, dims=self._source.latent)
        red, quality = draw_labels(allowed, drawn.uniform)
        return self._source.pour(drawn, quality, red)

    def _allowed(self, condition: Condition) -> NDArray[np.float64]:
        """The weight of each (type, quality) that the condition leaves, (2, 11): its training rows, or their share of the quality's where balanced."""
        counts = self._counts.copy()
        if condition.types:
            counts[[t not in condition.types for t in TYPES]] = 0
        if condition.qualities:
            counts[:, [q not in condition.qualities for q in range(counts.shape[1])]] = 0
        return counts / np.maximum(counts.sum(0), 1) if condition.balanced else counts

    def _unknown(self, condition: Condition, missing: list[int]) -> InvalidInput:
        held = {t: np.flatnonzero(row).tolist() for t, row in zip(TYPES, self._counts, strict=True) if row.any()}
        expected = "; ".join(f"{t}: {', '.join(map(str, q))}" for t, q in held.items())
        found = ", ".join(map(str, missing)) or "/".join(condition.types)
        pointer = "/query/quality" if missing else "/query/type"
        of = f" among {' and '.join(condition.types)} wines" if condition.types and missing else ""
        detail = f"{self._holder} no wine of {'quality ' if missing else 'type '}{found}{of}"
        return InvalidInput(detail, [Fault(pointer, detail, expected=f"one that is there ({expected})", found=found)])


def within_limits(ranges: tuple[Range, ...], ticks: Ticks) -> NDArray[np.bool_]:
    """Which rows of ``ticks``, (rows, 11), are within all limits, (rows,)."""
    return _all([r.holds(ticks) for r in ranges], len(ticks))


def _all(masks: list[NDArray[np.bool_]], rows: int) -> NDArray[np.bool_]:
    return np.asarray(np.logical_and.reduce(masks)) if masks else np.ones(rows, dtype=np.bool_)


def label_counts(labels: dict[str, dict[int, int]]) -> NDArray[np.float64]:
    """Training rows of each (type, quality), (2, 11), from those of each quality by type."""
    counts = np.zeros((len(TYPES), QUALITY_RANGE[1] + 1))
    for t, name in enumerate(TYPES):
        for quality, rows in labels.get(name, {}).items():
            counts[t, quality] = rows
    return counts


def draw_labels(allowed: NDArray[np.float64], uniform: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Type and quality of each row, both (rows,), drawn in the training mix of what is allowed."""
    by_type = allowed.sum(1)
    red = uniform[:, _TYPE_DRAW] * by_type.sum() >= by_type[0]
    within = np.cumsum(allowed, axis=1)  # (2, qualities)
    target = uniform[:, _QUALITY_DRAW] * within[red.astype(np.int64), -1]
    quality = (within[red.astype(np.int64)] <= target[:, None]).sum(1)
    return red, quality
