"""Addressable even points: scrambled Sobol' sequences, any run of them, from (seed, row) alone.

Independent noise clumps: the mean of n rows strays by 1/sqrt(n). Sobol' points (Sobol', *On the distribution of points
in a cube*, 1967; direction numbers of Joe and Kuo, *Constructing Sobol sequences with better two-dimensional
projections*, SIAM J. Sci. Comput. 30, 2008) fill the cube evenly at every n, and a random linear scramble with a
random shift (Matousek, *On the L2-discrepancy for anchored boxes*, 1998) makes each point uniform and each seed a
sequence of its own; a random order, in which aligned runs stay aligned runs, keeps two seeds from walking in step.
Rows of one seed are then no longer independent of each other: they stand in for the model's distribution better than
independent rows would.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

DIMS = 36
_ROW_BITS = 54  # of a row index, a little beyond the last that may be asked for
_WIDTH = 32  # of a coordinate
_LOW_BITS = 9  # of a row index, whose points are kept ready: those of one block of the table

# For each dimension but the first: the primitive polynomial over GF(2), and the first direction numbers.
_SEEDS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (1,)),
    (7, (1, 3)),
    (11, (1, 3, 1)),
    (13, (1, 1, 1)),
    (19, (1, 1, 3, 3)),
    (25, (1, 3, 5, 13)),
    (37, (1, 1, 5, 5, 17)),
    (41, (1, 1, 5, 5, 5)),
    (47, (1, 1, 7, 11, 19)),
    (55, (1, 1, 5, 1, 1)),
    (59, (1, 1, 1, 3, 11)),
    (61, (1, 3, 5, 5, 31)),
    (67, (1, 3, 3, 9, 7, 49)),
    (91, (1, 1, 1, 15, 21, 21)),
    (97, (1, 3, 1, 13, 27, 49)),
    (103, (1, 1, 1, 15, 7, 5)),
    (109, (1, 3, 1, 15, 13, 25)),
    (115, (1, 1, 5, 5, 19, 61)),
    (131, (1, 3, 7, 11, 23, 15, 103)),
    (137, (1, 3, 7, 13, 13, 15, 69)),
    (143, (1, 1, 3, 13, 7, 35, 63)),
    (145, (1, 3, 5, 9, 1, 25, 53)),
    (157, (1, 3, 1, 13, 9, 35, 107)),
    (167, (1, 3, 1, 5, 27, 61, 31)),
    (171, (1, 1, 5, 11, 19, 41, 61)),
    (185, (1, 3, 5, 3, 3, 13, 69)),
    (191, (1, 1, 7, 13, 1, 19, 1)),
    (193, (1, 3, 7, 5, 13, 19, 59)),
    (203, (1, 1, 3, 9, 25, 29, 41)),
    (211, (1, 3, 5, 13, 23, 1, 55)),
    (213, (1, 3, 7, 3, 13, 59, 17)),
    (229, (1, 3, 1, 3, 5, 53, 69)),
    (239, (1, 1, 5, 5, 23, 33, 13)),
    (241, (1, 1, 7, 7, 1, 61, 123)),
    (247, (1, 1, 7, 9, 13, 61, 49)),
)


def points(seed: int, first: int, count: int) -> Words:
    """Points ``first`` to ``first + count - 1`` of the sequence that ``seed`` names, (count, DIMS), uniform over 32 bits."""
    if count == 0:
        return np.empty((0, DIMS), dtype=np.uint32)
    runs = range(first >> _LOW_BITS, (first + count - 1 >> _LOW_BITS) + 1)
    start = first - (runs.start << _LOW_BITS)
    return np.concatenate([_first_run(seed) ^ _start_of(run, seed) for run in runs])[start : start + count]


def _start_of(run: int, seed: int) -> Words:
    """What all points of a run of 2^9 have in common, (DIMS,)."""
    chosen = [_LOW_BITS + bit for bit in range(run.bit_length()) if run >> bit & 1]
    common: Words = np.bitwise_xor.reduce(_sequence(seed, _LOW_BITS + run.bit_length())[chosen], axis=0)
    return common


@lru_cache(maxsize=64)
def _first_run(seed: int) -> Words:
    """The points 0 to 2^9 - 1 of this seed, (2^9, DIMS)."""
    shift, _, _ = _random(seed)
    ready = shift[None]
    for direction in _sequence(seed, _LOW_BITS)[:_LOW_BITS]:
        ready = np.concatenate([ready, ready ^ direction])
    return ready


def _sequence(seed: int, bits: int) -> Words:
    """The scrambled directions of this seed, (at least ``bits``, DIMS): most requests are for few rows, which rest on few."""
    return _scrambled_directions(seed, min(-(-bits // _LOW_BITS) * _LOW_BITS, _ROW_BITS))


@lru_cache(maxsize=64)
def _scrambled_directions(seed: int, bits: int) -> Words:
    _, mixing, order = _random(seed)
    return _reordered(_scrambled(_directions()[:bits], mixing), order)


def _random(seed: int) -> tuple[Words, Words, NDArray[np.uint64]]:
    """What a seed decides: the shift of all points, (DIMS,), how bits mix, (_WIDTH, DIMS), and the order of the points, (_ROW_BITS,)."""
    stream = np.random.Philox(key=seed)
    shift, *mixing = (stream.random_raw((_WIDTH + 1) * DIMS).reshape(_WIDTH + 1, DIMS) >> np.uint64(32)).astype(np.uint32)
    return shift, np.array(mixing), stream.random_raw(_ROW_BITS)


_PLACES = np.arange(_WIDTH - 1, -1, -1, dtype=np.uint32)[:, None]  # of the bits, the highest first
_BEFORE = np.uint32(2**_WIDTH - 1) << _PLACES << np.uint32(1)  # the bits that are higher


def _scrambled(plain: Words, mixing: Words) -> Words:
    """The directions, (bits, DIMS), times a random lower triangular matrix of bits, the diagonal ones: bit i takes in any of the bits before it."""
    masks = (mixing & _BEFORE) | np.uint32(1) << _PLACES  # (_WIDTH, DIMS)
    parities = (np.bitwise_count(plain[:, None] & masks) & np.uint8(1)).astype(np.uint32)  # (bits, _WIDTH, DIMS)
    mixed: Words = np.bitwise_or.reduce(parities << _PLACES, axis=1)
    return mixed


def _reordered(directions: Words, order: NDArray[np.uint64]) -> Words:
    """The directions, (bits, DIMS), for another order of the points: each bit of a row's index flips, or not, each bit below it."""
    reordered = directions.copy()
    for bit in range(1, len(directions)):
        chosen = (order[bit] >> np.arange(bit, dtype=np.uint64) & np.uint64(1)).astype(np.bool_)
        reordered[bit] ^= np.bitwise_xor.reduce(directions[:bit][chosen], axis=0)
    return reordered


@lru_cache(maxsize=1)
def _directions() -> Words:
    """Direction numbers before any scramble, (_ROW_BITS, DIMS)."""
    wide = 64  # the recurrence shifts bits down from beyond the coordinate's width
    columns = [[1 << (wide - 1 - j) for j in range(_ROW_BITS)]]
    for polynomial, start in _SEEDS:
        degree = len(start)
        column = [m << (wide - 1 - j) for j, m in enumerate(start)]
        for j in range(degree, _ROW_BITS):
            value = column[j - degree] ^ (column[j - degree] >> degree)
            for k in range(1, degree):
                if polynomial >> (degree - k) & 1:
                    value ^= column[j - k]
            column.append(value)
        columns.append(column)
    return (np.array(columns, dtype=np.uint64).T >> np.uint64(wide - _WIDTH)).astype(np.uint32)
