"""Rows of the infinite table: (model, seed, row) -> wine, a pure function whatever else was asked for.

Networks run on whole, aligned blocks of the table, so that the same shapes are computed for a row however it is
asked for; noise does not depend on the condition, so the same row at quality 5 and at quality 8 of one type is the
same wine, made worse or better. Where the type is left open, it follows the mix of the asked qualities.

What no network can pour was made in advance and lies in a pool: there a row's noise picks one of the wines that have
its labels, so the table is as endless and as addressable, but its wines come again and again.

Labels are drawn as asked for, so every row has them. Limits on measurements are not: rows beyond them are passed over,
and positions in the table stay what they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app import codec, noise
from app.bundle import GENERATOR, POOL, Bundle
from app.errors import BundleInvalid, Conflict, Fault, InvalidInput
from app.inference import session
from app.noise import Noise
from app.tables import read_csv
from app.wine import COLUMNS, QUALITY_RANGE, TYPES, Ticks, Wines, concatenate

BLOCK = 512  # rows; changing it may change the last bit of a row, so it is part of what a bundle format means
RARE = 50  # training rows of a quality; with fewer, what is served says so

_TYPE_DRAW, _QUALITY_DRAW, _POOL_DRAW = 0, 1, 2  # which of a row's uniforms picks its labels, and the wine of a pool that has them


PROBE_SEED = 2**62 + 5  # noise that no request is likely to ask for
PROBE_BLOCKS = (8, 64)  # blocks that limits are tried on; more where the first let hardly a row pass
FEW = 20  # rows let through by a probe; with fewer, its share is a guess
KEEP_PROBES = 8


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
    """What rows of a sample must be; an empty tuple leaves all. ``balanced``: all qualities as often, not as in training."""

    qualities: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    balanced: bool = False

    @property
    def labels(self) -> Condition:
        """The part that is drawn, not passed over."""
        return replace(self, ranges=())

    def holds(self, wines: Wines) -> NDArray[np.bool_]:
        """Which wines, (rows,), meet all of it but the mix; for wines that were not drawn for it."""
        labels = np.isin(wines.quality, self.qualities or np.unique(wines.quality)) & np.isin(wines.red, [t == "red" for t in self.types or TYPES])
        return np.asarray(labels & within_limits(self.ranges, wines.ticks))


@dataclass(frozen=True)
class Poured:
    """Wines and their places in the table, (rows,), rising."""

    wines: Wines
    rows: NDArray[np.int64]


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
        """The measurement whose limits cost the most rows; None without limits."""
        return max(self.without, key=self.without.__getitem__, default=None)

    def rows_for(self, n: int) -> int | None:
        """Rows of the table that must be made for ``n`` that pass, about; None if no probed row did."""
        return math.ceil(n / self.share) if self.passed else None


class _Source(Protocol):
    """Where the wines of a block come from."""

    latent: int  # noise components that it wants for each row

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        """A wine of these labels, both (rows,), for each row of noise."""


class _Generator:
    """A network that pours new wines."""

    def __init__(self, bundle: Bundle) -> None:
        self.latent = bundle.manifest.latent
        self._session = session(bundle.parts[GENERATOR])
        self._decode = codec.Decoder(codec.from_state(bundle.manifest.codec))

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        (u,) = self._session.run(None, {"latent": drawn.latent, "condition": codec.condition(quality, red)})
        return Wines(self._decode(u, red), quality, red)


class _Pool:
    """Wines made in advance, the same ones again and again."""

    latent = 0

    def __init__(self, bundle: Bundle) -> None:
        """``BundleInvalid`` if the pool can't be read, or is not as large as the manifest says."""
        try:
            wines = read_csv(bundle.parts[POOL]).wines
        except InvalidInput as error:
            raise BundleInvalid(f"{POOL} is damaged: {error.detail}") from error
        if len(wines) != bundle.manifest.pool or not len(wines):
            raise BundleInvalid(f"expected {bundle.manifest.pool} rows in {POOL}, found {len(wines)}")
        self._wines = wines.take(np.lexsort((wines.quality, wines.red)))  # stable: by type, then quality, then as they came
        self.counts = np.zeros((len(TYPES), QUALITY_RANGE[1] + 1), dtype=np.int64)
        np.add.at(self.counts, (wines.red.astype(np.int64), wines.quality), 1)
        self._first = (np.cumsum(self.counts) - self.counts.reshape(-1)).reshape(self.counts.shape)

    def pour(self, drawn: Noise, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        cell = red.astype(np.int64), quality
        return self._wines.take(self._first[cell] + (drawn.uniform[:, _POOL_DRAW] * self.counts[cell]).astype(np.int64))


class Sampler:
    """The table of one model. Building it starts an inference session or reads a pool; asking it for rows keeps no state."""

    def __init__(self, bundle: Bundle) -> None:
        """``Conflict`` if the model has nothing to pour from, ``BundleInvalid`` if its pool is damaged."""
        manifest = bundle.manifest
        if not bundle.pours:
            raise Conflict(f"model {bundle.id} was trained by method {manifest.method!r}, which does not generate wines; GET /models lists others")
        counts = label_counts(manifest.labels)
        self._source: _Source
        self._made: NDArray[np.int64] | None = None  # wines of each (type, quality) in the pool, (2, 11)
        if GENERATOR in bundle.parts:
            self._source, self._holder = _Generator(bundle), "the training data hold"
        else:
            pool = _Pool(bundle)
            counts[pool.counts == 0] = 0  # what it holds none of can't be poured, whatever the training data hold
            self._source, self._holder, self._made = pool, "this model's pool holds", pool.counts
        self._counts = counts
        self._probes: OrderedDict[Condition, Wines] = OrderedDict()

    def check(self, condition: Condition) -> list[str]:
        """What the asker should know about a condition, in words; ``InvalidInput`` if the model can pour no such wine."""
        rows = self._allowed(replace(condition, balanced=False))
        qualities = condition.qualities or tuple(np.flatnonzero(rows.sum(0)).tolist())
        missing = [q for q in qualities if rows[:, q].sum() == 0]
        if missing or rows.sum() == 0:
            raise self._unknown(condition, missing)
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
            passed = np.flatnonzero(within_limits(condition.ranges, wines.ticks)) if condition.ranges else np.arange(BLOCK)
            chosen = passed[np.searchsorted(passed, offset - first) :][:n]
            yield Poured(wines.take(chosen), chosen + first)
            n -= len(chosen)
            block += 1

    def wines(self, condition: Condition, *, seed: int, offset: int, n: int) -> Wines:
        """The wines of ``blocks``, all at once."""
        return concatenate([block.wines for block in self.blocks(condition, seed=seed, offset=offset, n=n)])

    def odds(self, condition: Condition) -> Odds:
        """How likely a row of the asked labels passes the limits, tried on rows that are kept for the next who asks.

        Not to be asked from two threads at once.
        """
        wines = self._probe(condition.labels, PROBE_BLOCKS[0])
        if within_limits(condition.ranges, wines.ticks).sum() < FEW:
            wines = self._probe(condition.labels, PROBE_BLOCKS[1])
        passes = {r.name: r.holds(wines.ticks) for r in condition.ranges}
        without = {name: int(_all([p for other, p in passes.items() if other != name], len(wines)).sum()) for name in passes}
        return Odds(len(wines), int(_all(list(passes.values()), len(wines)).sum()), without)

    def _probe(self, labels: Condition, blocks: int) -> Wines:
        """Rows of these labels, at least so many blocks of them."""
        if labels not in self._probes or len(self._probes[labels]) < blocks * BLOCK:
            self._probes[labels] = self.wines(labels, seed=PROBE_SEED, offset=0, n=blocks * BLOCK)
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
        types = np.isin(TYPES, condition.types or TYPES)
        qualities = np.isin(np.arange(self._counts.shape[1]), condition.qualities or np.arange(self._counts.shape[1]))
        counts = self._counts * types[:, None] * qualities
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
