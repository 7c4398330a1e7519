"""Noise is the foundation of addressable rows: these are the laws that every served row rests on."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app import sobol
from app.noise import MAX_ROW, MAX_SEED, draw

SEEDS = st.integers(0, MAX_SEED)
DIMS = st.sampled_from([16, 32, 48, 256])
MANY = 20_000


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, dims=DIMS, first=st.integers(0, MAX_ROW - 100), sizes=st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 30)))
def test_rows_of_a_range_equal_the_slice_of_any_larger_range(seed: int, dims: int, first: int, sizes: tuple[int, int, int]) -> None:
    before, count, after = sizes
    large = draw(seed, first, before + count + after, dims=dims)
    small = draw(seed, first + before, count, dims=dims)
    assert np.array_equal(small.latent, large.latent[before : before + count])
    assert np.array_equal(small.uniform, large.uniform[before : before + count])


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, first=st.integers(0, MAX_ROW), dims=DIMS)
def test_shapes_and_ranges_hold_for_every_seed_and_row(seed: int, first: int, dims: int) -> None:
    noise = draw(seed, first, 3, dims=dims)
    assert noise.latent.shape == (3, dims)
    assert noise.latent.dtype == np.float32
    assert np.abs(noise.latent).max() < 4.4
    assert noise.uniform.shape == (3, 4)
    assert noise.uniform.min() >= 0
    assert noise.uniform.max() < 1


@pytest.mark.parametrize(
    ("seed", "row", "even", "independent", "uniform"),
    [
        (
            0,
            0,
            [0.005947616416960955, -0.5899538993835449, 1.612200379371643, 2.1990015506744385],
            [0.9085813164710999, 1.9620306491851807, 1.9068979024887085, 0.8902972936630249],
            [0.011546754278242588, 0.24154919642023742, 0.11142585542984307, 0.5644146215636283],
        ),
        (
            2**62 + 12345,
            10**12,
            [-0.3622324466705322, -0.7674309611320496, -2.058251142501831, 1.2025738954544067],
            [0.4777076840400696, 0.1835259348154068, 1.5458259582519531, -0.646446704864502],
            [0.8532498772256076, 0.40814095246605575, 0.9711284243967384, 0.7303706640377641],
        ),
        (
            2**63 - 1,
            2**53 - 1,
            [-1.859381914138794, 1.2707667350769043, 0.21286000311374664, 0.685551106929779],
            [-0.6506475210189819, -1.1017184257507324, 2.945953845977783, -0.04926436394453049],
            [0.0032608453184366226, 0.6419682244304568, 0.5701080022845417, 0.9538888945244253],
        ),
    ],
)
def test_the_noise_of_a_row_is_what_it_was_when_this_was_written(
    seed: int, row: int, even: list[float], independent: list[float], uniform: list[float]
) -> None:
    noise = draw(seed, row, 1, dims=48)
    assert noise.latent[0, :4].tolist() == even
    assert noise.latent[0, 32:36].tolist() == independent
    assert noise.uniform[0].tolist() == uniform


def test_latents_are_standard_normal() -> None:
    latent = np.sort(draw(1, 0, MANY, dims=16).latent.reshape(-1))
    normal = NormalDist()
    for z in (-3.0, -2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 2.0, 3.0):
        share = np.searchsorted(latent, z) / len(latent)
        assert share == pytest.approx(normal.cdf(z), abs=0.004)
    assert latent.std() == pytest.approx(1, abs=0.005)


def test_uniforms_are_uniform() -> None:
    uniform = np.sort(draw(1, 0, MANY, dims=16).uniform.reshape(-1))
    for place in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert np.searchsorted(uniform, place) / len(uniform) == pytest.approx(place, abs=0.006)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, bits=st.integers(0, 11), run=st.integers(0, 2**40))
def test_an_aligned_run_of_rows_puts_one_point_into_each_equal_part_of_every_component(seed: int, bits: int, run: int) -> None:
    count = 2**bits
    points = sobol.points(seed, run * count, count) >> np.uint32(32 - bits) if bits else np.zeros((1, sobol.DIMS))
    assert np.array_equal(np.sort(points, axis=0), np.broadcast_to(np.arange(count)[:, None], points.shape))


def test_the_points_are_those_of_a_sobol_sequence() -> None:
    # without scramble and shift: the first eight points of the first three dimensions, as published, in Gray code's order
    directions = sobol._directions()[:3, :3].astype(np.uint64)
    points = [np.bitwise_xor.reduce([directions[bit] for bit in range(3) if (i ^ i >> 1) >> bit & 1] + [np.zeros(3, np.uint64)]) / 2**32 for i in range(8)]
    published = [(0, 0, 0), (0.5, 0.5, 0.5), (0.75, 0.25, 0.25), (0.25, 0.75, 0.75)]
    published += [(0.375, 0.375, 0.625), (0.875, 0.875, 0.125), (0.625, 0.125, 0.875), (0.125, 0.625, 0.375)]
    assert np.array_equal(points, published)


def test_means_over_rows_stray_less_than_those_of_independent_draws() -> None:
    strays = [draw(seed, 512, 512, dims=32).latent.mean(0) for seed in range(20)]
    assert np.std(strays) < 0.1 / 512**0.5


def test_components_beyond_the_even_ones_are_independent_from_row_to_row() -> None:
    latent = draw(7, 0, MANY, dims=48).latent[:, 32:]
    assert _largest_correlation(latent[:-1], latent[1:]) < 0.04


def test_components_of_a_row_are_independent() -> None:
    noise = draw(7, 0, MANY, dims=16)
    together = np.corrcoef(np.column_stack([noise.latent, noise.uniform]).T)
    assert np.abs(together - np.eye(20)).max() < 0.04


def test_two_seeds_do_not_walk_in_step() -> None:
    pairs = [(0, 1), (41, 42), (0, MAX_SEED), (MAX_SEED - 1, MAX_SEED), (5, 5 + 2**32)]
    strongest = [_largest_correlation(draw(one, 0, MANY, dims=16).latent, draw(other, 0, MANY, dims=16).latent) for one, other in pairs]
    assert np.mean(strongest) < 0.1


def test_no_two_rows_share_their_noise() -> None:
    latent = np.concatenate([draw(3, 0, 5000, dims=16).latent, draw(4, 0, 5000, dims=16).latent])
    assert len(np.unique(latent, axis=0)) == 10_000


def _largest_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between any column of the one and any of the other."""
    width = one.shape[1]
    return float(np.abs(np.corrcoef(one.T, other.T)[:width, width:]).max())
