"""The codec decides what a served wine can be: whatever a network emits, a wine on its grid comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from app import codec
from app.codec import Codec, Decoder, from_state, to_state
from app.errors import BundleInvalid
from app.marginals import CELLS, FieldScores, field_table
from app.wine import DENSITY, FREE_SO2, HIGH_TICKS, LOW_TICKS, MEASUREMENTS, TOTAL_SO2, Ticks, Wines

ROWS = 12
UNIT = st.floats(0, 1, width=32)
US = arrays(np.float32, (ROWS, 11), elements=UNIT | st.sampled_from([0.0, 1.0]))
REDS = arrays(np.bool_, ROWS)
EXACT = [j for j in range(11) if j != DENSITY]  # all that is not predicted from the rest


@pytest.fixture(scope="module")
def fitted(starter_wines: Wines) -> Codec:
    return codec.fit(starter_wines)


@pytest.fixture(scope="module")
def decode(fitted: Codec) -> Decoder:
    return Decoder(fitted)


@settings(deadline=None, max_examples=80)
@given(u=US, red=REDS)
def test_free_sulfur_dioxide_never_exceeds_the_total(decode: Decoder, u: NDArray[np.float32], red: NDArray[np.bool_]) -> None:
    ticks = decode(u, red)
    assert (ticks[:, FREE_SO2] <= ticks[:, TOTAL_SO2]).all()


@settings(deadline=None, max_examples=80)
@given(u=US, red=REDS)
def test_every_wine_lies_inside_the_bounds(decode: Decoder, u: NDArray[np.float32], red: NDArray[np.bool_]) -> None:
    ticks = decode(u, red)
    assert ticks.dtype == np.int32
    assert (ticks >= LOW_TICKS).all()
    assert (ticks <= HIGH_TICKS).all()


@settings(deadline=None, max_examples=40)
@given(u=US, red=REDS)
def test_every_value_but_the_total_is_one_that_a_training_wine_of_that_type_had(
    starter_wines: Wines, decode: Decoder, u: NDArray[np.float32], red: NDArray[np.bool_]
) -> None:
    ticks = decode(u, red)
    for is_red in (False, True):
        seen = starter_wines.ticks[starter_wines.red == is_red]
        for j in range(11):
            if j != TOTAL_SO2:
                assert np.isin(ticks[red == is_red, j], seen[:, j]).all(), MEASUREMENTS[j]


def test_the_total_stays_inside_its_bounds_where_training_rows_reach_them() -> None:
    much_free, much_bound = _wine(free=5000, total=5000), _wine(free=0, total=10_000)
    decode = Decoder(codec.fit(_white([much_free, much_bound] * 10)))
    ticks = decode(np.ones((1, 11), dtype=np.float32), np.array([False]))
    assert ticks[0, [FREE_SO2, TOTAL_SO2]].tolist() == [5000, 10_000]


@settings(deadline=None, max_examples=30)
@given(place=arrays(np.float64, 11, elements=st.floats(0, 1)))
def test_a_training_wine_comes_back_from_any_u_at_least_a_cell_inside_its_interval(
    starter_wines: Wines, fitted: Codec, decode: Decoder, place: NDArray[np.float64]
) -> None:
    ticks = _back(starter_wines, fitted, decode, place)
    assert np.array_equal(ticks[:, EXACT], starter_wines.ticks[:, EXACT])


@settings(deadline=None, max_examples=10)
@given(place=arrays(np.float64, 11, elements=st.floats(0, 1)))
def test_the_density_that_comes_back_is_its_own_or_the_next_that_training_saw(
    starter_wines: Wines, fitted: Codec, decode: Decoder, place: NDArray[np.float64]
) -> None:
    back = _back(starter_wines, fitted, decode, place)[:, DENSITY]
    for is_red in (False, True):
        rows = starter_wines.red == is_red
        seen = np.unique(starter_wines.ticks[rows, DENSITY])
        steps = np.searchsorted(seen, back[rows]) - np.searchsorted(seen, starter_wines.ticks[rows, DENSITY])
        assert np.abs(steps).max() <= 1
        assert (steps != 0).mean() < 0.01


def test_recalibration_gives_any_emission_the_marginals_of_the_training_rows(starter_wines: Wines, fitted: Codec) -> None:
    red = np.tile(starter_wines.red, 5)
    u = np.random.default_rng(0).beta(2.0, 5.0, (len(red), 11))  # far from uniform
    ticks = Decoder(fitted.recalibrated(u, red))(u.astype(np.float32), red)
    for is_red in (False, True):
        made, real = _marginals(ticks[red == is_red]), _marginals(starter_wines.ticks[starter_wines.red == is_red])
        for j in range(11):
            assert _distance(made[:, j], real[:, j]) < 0.005, MEASUREMENTS[j]


def test_without_recalibration_a_skewed_emission_has_other_marginals(starter_wines: Wines, decode: Decoder) -> None:
    red = starter_wines.red
    u = np.random.default_rng(0).beta(2.0, 5.0, (len(red), 11)).astype(np.float32)
    assert _distance(decode(u, red)[~red, 0], starter_wines.ticks[~red, 0]) > 0.2


def test_a_codec_that_went_through_json_is_the_same_bit_for_bit(fitted: Codec) -> None:
    state = to_state(fitted)
    again = to_state(from_state(json.loads(json.dumps(state))))
    assert again == state


def test_a_codec_that_went_through_json_decodes_and_scores_the_same(starter_wines: Wines, fitted: Codec) -> None:
    again = from_state(json.loads(json.dumps(to_state(fitted))))
    u = np.random.default_rng(0).random((len(starter_wines), 11)).astype(np.float32)
    assert np.array_equal(Decoder(again)(u, starter_wines.red), Decoder(fitted)(u, starter_wines.red))
    assert np.array_equal(again.scores(starter_wines), fitted.scores(starter_wines))


def _drop_field(state: dict[str, Any]) -> None:
    del state["white"]["fields"]["pH"]


def _drop_density(state: dict[str, Any]) -> None:
    del state["red"]["density"]


def _shorten_counts(state: dict[str, Any]) -> None:
    state["white"]["fields"]["pH"]["counts"].pop()


def _lower_last_end(state: dict[str, Any]) -> None:
    state["white"]["fields"]["pH"]["ends"][-1] = CELLS - 1


def _reverse_ends(state: dict[str, Any]) -> None:
    ends = state["white"]["fields"]["pH"]["ends"]
    ends[0], ends[1] = ends[1], ends[0]


def _reverse_values(state: dict[str, Any]) -> None:
    values = state["white"]["fields"]["pH"]["values"]
    values[0], values[1] = values[1], values[0]


def _stretch_values(state: dict[str, Any]) -> None:
    state["white"]["fields"]["pH"]["values"][-1] = 10**12


def _empty_table(state: dict[str, Any]) -> None:
    state["red"]["grid"] |= {"values": [], "counts": [], "ends": []}


def _text_for_a_number(state: dict[str, Any]) -> None:
    state["white"]["density"]["intercept"] = "a lot"


def _shorten_weights(state: dict[str, Any]) -> None:
    state["white"]["density"]["weights"].pop()


def _forget_all_types(state: dict[str, Any]) -> None:
    state.clear()


DAMAGES = [
    _drop_field,
    _drop_density,
    _shorten_counts,
    _lower_last_end,
    _reverse_ends,
    _reverse_values,
    _stretch_values,
    _empty_table,
    _text_for_a_number,
    _shorten_weights,
    _forget_all_types,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused(fitted: Codec, damage: Callable[[dict[str, Any]], None]) -> None:
    state = to_state(fitted)
    damage(state)
    with pytest.raises(BundleInvalid, match="codec is damaged"):
        from_state(state)


@pytest.mark.parametrize("column", range(11), ids=MEASUREMENTS)
def test_the_score_of_a_column_rises_with_its_value(starter_wines: Wines, fitted: Codec, column: int) -> None:
    values = np.linspace(LOW_TICKS[column], HIGH_TICKS[column], 400).astype(np.int32)
    for wine in (starter_wines.take(starter_wines.red), starter_wines.take(~starter_wines.red)):
        rows = wine.take(np.zeros(400, dtype=np.int64))
        rows.ticks[:, column] = values
        if column == TOTAL_SO2:
            rows.ticks[:, FREE_SO2] = 0
        assert (np.diff(fitted.scores(rows)[:, column]) >= 0).all()


def test_a_value_outside_the_range_scores_beyond_the_strongest_seen(starter_wines: Wines, fitted: Codec) -> None:
    white = starter_wines.take(~starter_wines.red)
    alcohol = MEASUREMENTS.index("alcohol")
    low, high = int(white.ticks[:, alcohol].min()), int(white.ticks[:, alcohol].max())
    rows = white.take(np.zeros(4, dtype=np.int64))
    rows.ticks[:, alcohol] = [low - 100, low, high, high + 100]
    scores = fitted.scores(rows)[:, alcohol]
    assert scores[0] < scores[1] < scores[2] < scores[3]


@settings(deadline=None, max_examples=100)
@given(
    seen=st.lists(st.lists(st.integers(-400, 400), min_size=1, max_size=30), min_size=1, max_size=4),
    asked=st.lists(st.integers(-900, 900), min_size=1, max_size=30),
)
def test_scores_of_several_fields_at_once_are_those_of_each_value_alone(seen: list[list[int]], asked: list[int]) -> None:
    tables = [field_table(np.array(values)) for values in seen]
    at_once = FieldScores(tables)(np.array(asked)[:, None].repeat(len(tables), axis=1))
    for j, table in enumerate(tables):
        low, high = int(table.values[0]), int(table.values[-1])
        slope = (table.known_scores[-1] - table.known_scores[0]) / (high - low) if high > low else 1.0
        for value, score in zip(asked, at_once[:, j], strict=True):
            beyond = max(value - high, 0) + min(value - low, 0)
            assert score == np.interp(value, table.values, table.known_scores) + slope * beyond


def test_no_score_is_further_out_than_six(starter_wines: Wines, fitted: Codec) -> None:
    rows = starter_wines.take(np.arange(2))
    rows.ticks[:] = HIGH_TICKS, LOW_TICKS
    assert np.abs(fitted.scores(rows)).max() == 6


def test_a_table_of_one_type_works(few_wines: Wines) -> None:
    white = few_wines.take(~few_wines.red)
    alone = from_state(to_state(codec.fit(white)))
    assert list(to_state(alone)) == ["white"]
    assert np.array_equal(_back(white, alone, Decoder(alone), np.full(11, 0.5))[:, EXACT], white.ticks[:, EXACT])


def test_a_type_that_training_did_not_hold_is_refused_by_name(few_wines: Wines) -> None:
    alone = codec.fit(few_wines.take(~few_wines.red))
    with pytest.raises(ValueError, match=f"{int(few_wines.red.sum())} rows are red"):
        alone.scores(few_wines)


def test_a_table_of_two_equal_wines_gives_that_wine_back() -> None:
    wines = _white([_wine(free=100, total=300)] * 2)
    ticks = Decoder(codec.fit(wines))(np.full((1, 11), 0.7, dtype=np.float32), np.array([False]))
    assert ticks.tolist() == [_wine(free=100, total=300)]


def test_a_condition_is_six_steps_the_standardised_score_and_the_type() -> None:
    made = codec.condition(np.array([3, 6, 9]), np.array([False, True, False]))
    expected = [[0, 0, 0, 0, 0, 0, -2.8 / 0.9, -1], [1, 1, 1, 0, 0, 0, 0.2 / 0.9, 1], [1, 1, 1, 1, 1, 1, 3.2 / 0.9, -1]]
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_the_neutral_condition_hides_the_score() -> None:
    red = np.array([True, False])
    assert np.array_equal(codec.neutral_condition(red), codec.condition(np.array([6, 6]), red))


def test_both_types_decode_in_one_block_as_they_do_alone(few_wines: Wines) -> None:
    fitted = codec.fit(few_wines)
    decode = Decoder(fitted)
    u = np.random.default_rng(1).random((ROWS, 11)).astype(np.float32)
    red = np.arange(ROWS) % 2 == 0
    mixed, white, reds = decode(u, red), decode(u, np.zeros(ROWS, dtype=np.bool_)), decode(u, np.ones(ROWS, dtype=np.bool_))
    assert np.array_equal(mixed, np.where(red[:, None], reds, white))


def _wine(*, free: int, total: int) -> list[int]:
    return [700, 300, 30, 200, 50, free, total, 99_500, 320, 50, 1000]


def _white(rows: list[list[int]]) -> Wines:
    return Wines(np.array(rows, dtype=np.int32), np.full(len(rows), 5), np.zeros(len(rows), dtype=np.bool_))


def _back(wines: Wines, fitted: Codec, decode: Decoder, place: NDArray[np.float64]) -> Ticks:
    """Training wines encoded at ``place``, (11,) in [0, 1], of their intervals, a cell away from the ends, and decoded."""
    below, width = (part.astype(np.float64) for part in fitted.intervals(wines))
    u = np.clip(below + place * width, below + 1 / CELLS, below + width - 1 / CELLS)
    return decode(u.astype(np.float32), wines.red)


def _marginals(ticks: Ticks) -> Ticks:
    """The columns whose marginals are promised: bound sulfur dioxide in the place of the total."""
    columns = ticks.copy()
    columns[:, TOTAL_SO2] -= columns[:, FREE_SO2]
    return columns


def _distance(one: Ticks, other: Ticks) -> float:
    """The largest difference between two empirical distribution functions."""
    points = np.unique(np.concatenate([one, other]))
    shares = (np.searchsorted(np.sort(part), points, side="right") / len(part) for part in (one, other))
    return float(np.abs(np.subtract(*shares)).max())
