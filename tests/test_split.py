"""The holdout is honest: whole, disjoint, stratified, and no wine stands on both sides."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.split import split
from app.wine import Wines

SHARES = st.floats(0, 0.5)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def tables(draw: st.DrawFn, *, one_score: bool = False) -> Wines:
    """Up to 120 rows of few distinct wines, so that most repeat; with ``one_score`` a wine's repeats share theirs."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, wines = draw(st.integers(1, 120)), draw(st.integers(1, 40))
    which = random.integers(0, wines, rows)
    ticks = np.full((rows, 11), 600, dtype=np.int32)
    ticks[:, 0] = which
    quality = which % 3 + 5 if one_score else random.integers(5, 8, rows)
    return Wines(ticks, quality, which % 2 == 0)


@settings(deadline=None, max_examples=60)
@given(wines=tables(), holdout=SHARES, seed=SEEDS)
def test_the_two_sides_together_are_the_dataset(wines: Wines, holdout: float, seed: int) -> None:
    parts = split(wines, holdout=holdout, seed=seed)
    assert Counter(_rows(parts.train)) + Counter(_rows(parts.holdout)) == Counter(_rows(wines))


@settings(deadline=None, max_examples=60)
@given(wines=tables(), holdout=SHARES, seed=SEEDS)
def test_a_wine_never_stands_on_both_sides_whatever_its_scores(wines: Wines, holdout: float, seed: int) -> None:
    parts = split(wines, holdout=holdout, seed=seed)
    train, held = ({(*row[:11], row[-1]) for row in _rows(side)} for side in (parts.train, parts.holdout))
    assert train.isdisjoint(held)


@settings(deadline=None, max_examples=60)
@given(wines=tables(one_score=True), holdout=SHARES, seed=SEEDS)
def test_the_share_of_each_stratum_is_off_by_the_repeats_of_one_wine_at_most(wines: Wines, holdout: float, seed: int) -> None:
    held = Counter(row[-2:] for row in _rows(split(wines, holdout=holdout, seed=seed).holdout))
    largest = Counter[tuple[int, ...]]()
    for wine, repeats in Counter(_rows(wines)).items():
        largest[wine[-2:]] = max(largest[wine[-2:]], repeats)
    for stratum, rows in Counter(row[-2:] for row in _rows(wines)).items():
        assert abs(held[stratum] - rows * holdout) <= largest[stratum] + 0.5


@settings(deadline=None, max_examples=30)
@given(wines=tables(), holdout=SHARES, seed=SEEDS)
def test_each_side_keeps_the_order_of_the_dataset(wines: Wines, holdout: float, seed: int) -> None:
    parts = split(wines, holdout=holdout, seed=seed)
    held = set(_rows(parts.holdout))
    assert _rows(parts.holdout) == [row for row in _rows(wines) if row in held]


@settings(deadline=None, max_examples=20)
@given(wines=tables(), seed=SEEDS)
def test_holdout_0_holds_nothing_out(wines: Wines, seed: int) -> None:
    parts = split(wines, holdout=0, seed=seed)
    assert len(parts.holdout) == 0
    assert _rows(parts.train) == _rows(wines)


def test_the_same_seed_gives_the_same_split(starter_wines: Wines) -> None:
    one, other = (split(starter_wines, holdout=0.2, seed=5) for _ in range(2))
    assert np.array_equal(one.holdout.ticks, other.holdout.ticks)


def test_another_seed_gives_another_split(starter_wines: Wines) -> None:
    one, other = (set(_rows(split(starter_wines, holdout=0.2, seed=seed).holdout)) for seed in (5, 6))
    assert len(one & other) < len(one) / 2


def test_a_fifth_of_every_type_and_quality_is_held_out(starter_wines: Wines) -> None:
    held = Counter(row[-2:] for row in _rows(split(starter_wines, holdout=0.2, seed=0).holdout))
    for stratum, rows in Counter(row[-2:] for row in _rows(starter_wines)).items():
        assert abs(held[stratum] - 0.2 * rows) <= 3


def _rows(wines: Wines) -> list[tuple[int, ...]]:
    """Each row as numbers: measurements, quality, type."""
    return [tuple(row) for row in np.column_stack([wines.ticks, wines.quality, wines.red]).tolist()]
