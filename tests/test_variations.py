"""Variations: near a wine, between two, the same rows whatever is asked beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bundle import DECODER, ENCODER, Bundle, unpack
from app.errors import BundleInvalid, Conflict, InvalidInput
from app.variations import Variations
from app.wine import FREE_SO2, HIGH_TICKS, LOW_TICKS, TOTAL_SO2, Wines
from tests.conftest import Silent, assignment
from worker.pipeline import work

SMALL: dict[str, Any] = {"channels": 4, "blocks": 1, "hidden": 16, "batch": 32, "steps": 300, "bottleneck": 4, "components": 3, "noise": 0.1}

seeds, numbers = st.integers(0, 2**63 - 1), st.integers(1, 100)


@pytest.fixture(scope="module")
def bundle(few_wines: Wines) -> Bundle:
    """A tiny autoencoder."""
    return unpack(work(assignment(few_wines, method="autoencoder", **SMALL), Silent()))


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Variations:
    return Variations(bundle)


@pytest.fixture(scope="module")
def white(few_wines: Wines) -> Wines:
    """One white wine of quality 6."""
    return few_wines.take(~few_wines.red & (few_wines.quality == 6)).take(slice(1))


@pytest.fixture(scope="module")
def pair(few_wines: Wines) -> Wines:
    """Two white wines, of quality 5 and 7."""
    rows = [np.flatnonzero(~few_wines.red & (few_wines.quality == q))[0] for q in (5, 7)]
    return few_wines.take(np.array(rows))


def reconstruction(model: Variations, wines: Wines) -> Wines:
    """Encoded and decoded, nothing else."""
    return model.decode(model.encode(wines), wines.quality, wines.red)


def same(a: Wines, b: Wines) -> bool:
    return np.array_equal(a.ticks, b.ticks) and np.array_equal(a.quality, b.quality) and np.array_equal(a.red, b.red)


@settings(max_examples=25)
@given(seed=seeds, n=numbers)
def test_without_spread_one_wine_gives_its_reconstruction_whatever_n_and_seed(model: Variations, white: Wines, seed: int, n: int) -> None:
    varied = model.vary(white, n=n, spread=0.0, quality=None, seed=seed)
    assert same(varied, reconstruction(model, white).take(np.zeros(n, dtype=np.int64)))


@settings(max_examples=25)
@given(seed=seeds, counts=st.tuples(numbers, numbers), spread=st.floats(0, 5))
def test_a_row_near_a_wine_does_not_depend_on_how_many_are_asked_for(
    model: Variations, white: Wines, seed: int, counts: tuple[int, int], spread: float
) -> None:
    n, more = counts
    few, many = (model.vary(white, n=count, spread=spread, quality=None, seed=seed) for count in (n, n + more))
    assert same(few, many.take(slice(n)))


@settings(max_examples=25)
@given(n=numbers, spread=st.floats(0, 5), quality=st.sampled_from([None, 5, 6, 7]))
def test_what_comes_back_is_on_the_grid_inside_the_bounds_with_free_within_total(
    model: Variations, white: Wines, n: int, spread: float, quality: int | None
) -> None:
    varied = model.vary(white, n=n, spread=spread, quality=quality, seed=n)
    assert len(varied) == n
    assert varied.ticks.dtype == np.int32
    assert ((varied.ticks >= LOW_TICKS) & (varied.ticks <= HIGH_TICKS)).all()
    assert (varied.ticks[:, FREE_SO2] <= varied.ticks[:, TOTAL_SO2]).all()


def test_the_same_request_has_the_same_rows_and_another_seed_others(model: Variations, white: Wines) -> None:
    first, again, other = (model.vary(white, n=20, spread=1.0, quality=None, seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_with_more_spread_wines_lie_farther_off(model: Variations, white: Wines) -> None:
    home = model.encode(white)
    off = [np.linalg.norm(model.encode(model.vary(white, n=500, spread=spread, quality=None, seed=1)) - home, axis=1).mean() for spread in (0.0, 0.3, 1.0, 3.0)]
    assert off == sorted(off)
    assert off[-1] > 2 * off[1]


def test_a_latent_unit_is_a_standard_deviation_of_the_training_wines(model: Variations, few_wines: Wines) -> None:
    latents = model.encode(few_wines)
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=0.15)
    np.testing.assert_allclose(latents.mean(axis=0), 0, atol=0.15)


@settings(max_examples=25)
@given(seed=seeds, n=st.integers(2, 100))
def test_the_way_begins_and_ends_with_the_reconstructions_of_the_two(model: Variations, pair: Wines, seed: int, n: int) -> None:
    way = model.vary(pair, n=n, spread=0.0, quality=None, seed=seed)
    assert len(way) == n
    assert same(way.take(np.array([0, n - 1])), reconstruction(model, pair))


def test_the_way_back_is_the_way_reversed(model: Variations, pair: Wines) -> None:
    there, back = (model.vary(wines, n=9, spread=0.0, quality=5, seed=0) for wines in (pair, pair.take(slice(None, None, -1))))
    assert same(there, back.take(slice(None, None, -1)))


def test_between_two_wines_the_quality_goes_along_rounded(model: Variations, pair: Wines) -> None:
    assert model.vary(pair, n=9, spread=0.0, quality=None, seed=0).quality.tolist() == [5, 5, 6, 6, 6, 6, 7, 7, 7]


def test_each_point_of_the_way_is_nearer_to_its_end_than_the_one_before(model: Variations, pair: Wines) -> None:
    start, end = model.encode(pair)
    way = model.encode(model.vary(pair, n=5, spread=0.0, quality=6, seed=0))
    assert np.linalg.norm(way[-1] - end) < np.linalg.norm(way[0] - end)
    assert np.linalg.norm(way[0] - start) < np.linalg.norm(way[-1] - start)


def test_with_spread_wines_lie_about_the_way(model: Variations, pair: Wines) -> None:
    straight, about = (model.vary(pair, n=20, spread=spread, quality=None, seed=0) for spread in (0.0, 0.5))
    assert not same(straight, about)
    assert np.array_equal(straight.quality, about.quality)


def test_at_another_quality_it_is_another_wine_of_the_same_type(model: Variations, white: Wines) -> None:
    own, better = (model.vary(white, n=10, spread=0.5, quality=quality, seed=1) for quality in (None, 7))
    assert set(own.quality) == {6}
    assert set(better.quality) == {7}
    assert not own.red.any()
    assert not better.red.any()
    assert not np.array_equal(own.ticks, better.ticks)


def test_where_a_wine_lies_does_not_depend_on_the_other(model: Variations, pair: Wines) -> None:
    alone = np.concatenate([model.encode(pair.take(slice(row, row + 1))) for row in (0, 1)])
    assert np.array_equal(model.encode(pair), alone)


@settings(max_examples=25)
@given(n=st.integers(1, 100), at=st.integers(0, 99))
def test_a_point_decodes_to_the_same_wine_wherever_it_stands(model: Variations, white: Wines, n: int, at: int) -> None:
    latents = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    labels = np.full(n, 6), np.zeros(n, dtype=bool)
    row = slice(at % n, at % n + 1)
    assert same(model.decode(latents, *labels).take(row), model.decode(latents[row], labels[0][:1], labels[1][:1]))


def test_a_model_without_an_encoder_varies_nothing_and_says_what_to_do(tiny: Bundle) -> None:
    with pytest.raises(
        Conflict, match=r"trained by method 'gan' and has no latent space to walk in; train one: POST /train with \{\"method\": \"autoencoder\"\}"
    ):
        Variations(tiny)


def test_a_decoder_of_other_latents_than_the_manifest_says_is_refused(bundle: Bundle) -> None:
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"latents": 7}))
    with pytest.raises(BundleInvalid, match=f"expected {DECODER} to take the columns .*'latent': 7"):
        Variations(other)


def test_an_encoder_of_other_inputs_is_refused(bundle: Bundle) -> None:
    other = replace(bundle, parts={**bundle.parts, ENCODER: bundle.parts[DECODER]})
    with pytest.raises(BundleInvalid, match=f"expected {ENCODER} to take the columns"):
        Variations(other)


def labelled(bundle: Bundle, **labels: dict[int, int]) -> Variations:
    """The model, had it been trained on wines of these labels."""
    return Variations(replace(bundle, manifest=bundle.manifest.model_copy(update={"labels": labels})))


def test_a_type_that_the_model_never_saw_is_refused_with_its_row(bundle: Bundle, white: Wines) -> None:
    with pytest.raises(InvalidInput, match="trained without any white wine") as refused:
        labelled(bundle, red={6: 100}).check(white, quality=None)
    assert (refused.value.faults[0].pointer, refused.value.faults[0].expected) == ("/body/rows/0/type", "red")


def test_there_is_no_way_from_a_white_wine_to_a_red_one(model: Variations, few_wines: Wines) -> None:
    both = few_wines.take(np.array([np.flatnonzero(~few_wines.red)[0], np.flatnonzero(few_wines.red)[0]]))
    with pytest.raises(InvalidInput, match="two wines of one type") as refused:
        model.check(both, quality=None)
    assert (refused.value.faults[0].pointer, refused.value.faults[0].found) == ("/body/rows/1/type", "red")


def test_a_quality_that_no_training_wine_has_is_refused_and_a_rare_one_warned_of(bundle: Bundle, pair: Wines) -> None:
    model = labelled(bundle, white={5: 100, 6: 30, 7: 49})
    assert model.check(pair, quality=5) == []
    assert model.check(pair, quality=None) == ["quality 7 rests on 49 training rows only", "quality 6 rests on 30 training rows only"]
    with pytest.raises(InvalidInput, match="hold no white wine of quality 8") as asked:
        model.check(pair, quality=8)
    assert (asked.value.faults[0].pointer, asked.value.faults[0].expected) == ("/body/quality", "one that is there (5, 6, 7)")
    with pytest.raises(InvalidInput, match="hold no white wine of quality 7") as own:
        labelled(bundle, white={5: 100}).check(pair, quality=None)
    assert own.value.faults[0].pointer == "/body/rows/1/quality"
