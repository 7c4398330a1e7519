"""Pools hold wines in the mix of the training rows, and some of every label."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.wine import MEASUREMENTS, Wines
from worker import pool

LABELS = st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=300)


def wines_of(labels: list[tuple[bool, int]]) -> Wines:
    """Wines of these types and qualities, all measured as nothing."""
    red, quality = zip(*labels, strict=True)
    return Wines(np.zeros((len(labels), len(MEASUREMENTS)), dtype=np.int32), np.array(quality, dtype=np.int64), np.array(red, dtype=np.bool_))


@given(LABELS, st.integers(20, 10_000))
def test_a_label_has_its_share_of_the_pool_and_one_in_two_hundred_at_least(labels: list[tuple[bool, int]], rows: int) -> None:
    counts = pool.quotas(wines_of(labels), rows)
    assert counts.sum() >= rows
    for label in np.ndindex(*counts.shape):
        share = labels.count((bool(label[0]), label[1])) / len(labels)
        if share == 0:
            assert counts[label] == 0
        else:
            assert 0 <= counts[label] - rows * max(share, 1 / 200) < 1 + 1e-6


@given(LABELS)
def test_rows_are_labelled_as_counted(labels: list[tuple[bool, int]]) -> None:
    counts = np.zeros((2, 11), dtype=np.int64)
    np.add.at(counts, ([int(red) for red, _ in labels], [quality for _, quality in labels]), 1)
    quality, red = pool.labels(counts)
    assert list(zip(red.tolist(), quality.tolist(), strict=True)) == sorted(labels)


def test_figures_go_by_the_name_of_their_label() -> None:
    values = np.zeros((2, 11))
    values[0, 5], values[1, 8] = 0.25, 0.5
    assert pool.by_label(values, values > 0) == {"white 5": 0.25, "red 8": 0.5}
