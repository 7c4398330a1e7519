"""A number never stands alone: the tables that stand in the place of the generated one, and measures between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from app.bundle import Measure
from app.dcr import columns, scales
from app.wine import Floats, Wines

REPEATS = 5  # disjoint stretches of generated rows; a spread is over them
COPIES = 12_000  # rows that a copier pours at most
CHANCES = 10  # bootstraps behind a ceiling that chance alone makes
MIN_ROWS = 30  # wines of each kind; with fewer nothing is compared
DETECTIVE_ROWS = 50  # and with fewer no detective learns anything: with 40 it takes shuffled columns for wine (AUC .59; .88 with 181)
Score = Callable[[Wines, int], Mapping[str, float]]  # (table, number of the repeat) -> numbers by name


def between(score: Score, generated: Sequence[Wines], *, floor: Sequence[Wines] = (), ceiling: Sequence[Wines] = ()) -> dict[str, Measure]:
    """Each number that ``score`` gives as a measure: mean and spread over the generated tables, means over floor and ceiling.

    Without tables for it a floor or a ceiling is null; so is the spread of one table.
    """
    values, floors, ceilings = ([score(table, repeat) for repeat, table in enumerate(tables)] for tables in (generated, floor, ceiling))
    return {
        name: Measure(
            value=float(np.mean([v[name] for v in values])),
            spread=float(np.std([v[name] for v in values], ddof=1)) if len(values) > 1 else None,
            floor=float(np.mean([v[name] for v in floors])) if floors else None,
            ceiling=float(np.mean([v[name] for v in ceilings])) if ceilings else None,
        )
        for name in values[0]
    }


def standardised(wines: Wines) -> Callable[[Wines], Floats]:
    """All columns of any wines, (rows, 13), by mean and standard deviation of these."""
    mean, std = columns(wines).mean(axis=0), scales(wines)
    return lambda others: np.asarray((columns(others) - mean) / std)


def features(wines: Wines) -> Floats:
    """What a quality is predicted from, (rows, 12): all columns but the quality."""
    return np.column_stack([wines.measurements(), wines.red])


def once(wines: Wines) -> Wines:
    """Each wine once, where it first occurs: a fifth of the original rows repeat another, and a detective that finds repeats calls them real."""
    return wines.take(np.sort(np.unique(wines.keys(), return_index=True)[1]))


def drawn(wines: Wines, n: int, *, seed: int) -> Wines:
    """``n`` of the rows in random order, those of ``pandas.DataFrame.sample(n, random_state=seed)``: anyone can draw them again."""
    return wines.take(np.random.RandomState(seed).permutation(len(wines))[:n])


def shuffled(wines: Wines) -> Wines:
    """Every column shuffled by itself: right marginals, no dependence."""
    random = np.random.default_rng(0)
    return Wines(random.permuted(wines.ticks, axis=0), random.permutation(wines.quality), random.permutation(wines.red))


def copied(wines: Wines) -> Wines:
    """As many rows, or ``COPIES`` of more, drawn with replacement: what a generator would pour that only copies."""
    return bootstrap(wines, min(len(wines), COPIES), seed=0)


def bootstrap(wines: Wines, n: int, *, seed: int) -> Wines:
    """``n`` rows drawn with replacement."""
    return wines.take(np.random.default_rng(seed).integers(0, len(wines), n))


def as_far_as_fresh(wines: Wines, n: int) -> list[Wines]:
    """``CHANCES`` bootstraps that differ from ``wines`` as ``n`` fresh rows of the same kind would.

    Two independent samples of n and N rows differ with variance 1/n + 1/N; a bootstrap of m rows from its source
    with 1/m. So m is n N / (n + N).
    """
    rows = max(n * len(wines) // (n + len(wines)), 2)
    return [bootstrap(wines, rows, seed=seed) for seed in range(CHANCES)]
