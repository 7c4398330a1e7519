"""Noise is the foundation of addressable rows: these are the laws that every served row rests on."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    ("seed", "row", "latent", "uniform"),
    [
        (
            0,
            0,
            [1.0199450254440308, -1.815329670906067, 0.6070646643638611, -2.2719993591308594],
            [0.25382274039248487, 0.19505057563074713, 0.7117099077319217, 0.13126466534069492],
        ),
        (
            2**62 + 12345,
            10**12,
            [-0.3075725734233856, -2.302330732345581, -0.4796806871891022, -3.0400853157043457],
            [0.2056773712070521, 0.5340528081365451, 0.01612301744238187, 0.9189520098694914],
        ),
        (
            2**63 - 1,
            2**53 - 1,
            [-0.6409885287284851, -0.6186946034431458, 0.34245315194129944, 0.8069010376930237],
            [0.7102501200077657, 0.8509300735446736, 0.07872592762424424, 0.2642152618676057],
        ),
    ],
)
def test_the_noise_of_a_row_is_what_it_was_when_this_was_written(seed: int, row: int, latent: list[float], uniform: list[float]) -> None:
    noise = draw(seed, row, 1, dims=32)
    assert noise.latent[0, :4].tolist() == latent
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


def test_neighbouring_rows_are_independent() -> None:
    latent = draw(7, 0, MANY, dims=16).latent
    assert _largest_correlation(latent[:-1], latent[1:]) < 0.04


def test_components_of_a_row_are_independent() -> None:
    noise = draw(7, 0, MANY, dims=16)
    together = np.corrcoef(np.column_stack([noise.latent, noise.uniform]).T)
    assert np.abs(together - np.eye(20)).max() < 0.04


@pytest.mark.parametrize(("one", "other"), [(0, 1), (41, 42), (0, MAX_SEED), (MAX_SEED - 1, MAX_SEED), (5, 5 + 2**32)])
def test_seeds_are_independent(one: int, other: int) -> None:
    assert _largest_correlation(draw(one, 0, MANY, dims=16).latent, draw(other, 0, MANY, dims=16).latent) < 0.04


def test_no_two_rows_share_their_noise() -> None:
    latent = np.concatenate([draw(3, 0, 5000, dims=16).latent, draw(4, 0, 5000, dims=16).latent])
    assert len(np.unique(latent, axis=0)) == 10_000


def _largest_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between any column of the one and any of the other."""
    width = one.shape[1]
    return float(np.abs(np.corrcoef(one.T, other.T)[:width, width:]).max())
