"""How well a classifier tells the quality of wines that it never saw: beside boosted trees, and above one who never looks at the wine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import r2_score

from app.bundle import Measure, Report
from app.split import Split
from app.wine import QUALITY_RANGE, TYPES, Floats, Ints, Wines
from worker.evaluate import IN_SAMPLE, PROTOCOL, Progress
from worker.evaluate.between import MIN_ROWS, features, once
from worker.evaluate.likeness import trees

SCALE = np.arange(QUALITY_RANGE[0], QUALITY_RANGE[1] + 1)
RESAMPLES = 200  # bootstraps of the measured wines behind a spread
LEAST_P = 1e-4  # for the logarithm of what was called impossible
FEW = f"fewer than {MIN_ROWS} different wines to measure on"

Rate = Callable[[Wines], Floats]  # wines -> the probability of each score from 0 to 10, (rows, 11)


@dataclass(frozen=True)
class _Group:
    """Some of the measured wines, ``rows`` a mask, and the scores of the training wines that their floor knows."""

    rows: NDArray[np.bool_]
    lessons: Ints

    def enough(self) -> bool:
        return int(self.rows.sum()) >= MIN_ROWS


def classification(rate: Rate, rows: Split, progress: Progress = lambda share: None) -> Report:
    """The report of a classifier on held-out wines, each once: all, by type and by quality; ``rows`` is the split that it was trained on.

    Its word on a wine is the *expected score*, the mean of all scores by their probabilities.

    - ``accuracy``: the share of wines whose expected score rounds to the taster's
    - ``accuracy_within_1``: that rounds to it or to one next to it
    - ``mad``: the mean absolute difference between expected and taster's score
    - ``r2``: the share of the variance of tasters' scores that the expected ones explain; none where all are equal
    - ``log_loss``: the mean of -log p of the taster's score, in nats, p being at least ``LEAST_P``

    ``accuracy`` (at tolerance 0.5) and ``mad`` are those of Cortez et al. (Decision Support Systems 47(4), 2009), who test on wines that
    repeat training wines. Their accuracy at tolerance 1.0 is of scores that are not rounded: one who always says 6 beats all their models in it.
    Floor: always the most frequent score of the training wines (those of the type in ``by_type``), or how often each score
    occurs among them for ``r2`` and ``log_loss``. No ceiling: nobody knows how far tasters agree with themselves. Spread: one
    standard deviation over bootstraps of the measured wines. ``findings`` have the same of boosted trees taught by the same training rows.
    """
    in_sample = len(rows.holdout) == 0
    wines = once(rows.train if in_sample else rows.holdout)
    notes = [IN_SAMPLE, "no boosted trees beside it, which would know these wines by heart"] if in_sample else []
    found = partial(Report, protocol=PROTOCOL, in_sample=in_sample, rows=len(wines), notes=notes)
    everyone = _Group(np.full(len(wines), True), rows.train.quality)
    if not everyone.enough():
        notes.append(f"{FEW}: nothing was measured")
        return found(measures={})
    if len(np.unique(rows.train.quality)) < 2:
        notes.append("all training wines have one score: there is nothing to tell, and nothing was measured")
        return found(measures={})

    types = {name: _Group(wines.red == bool(red), rows.train.quality[rows.train.red == bool(red)]) for red, name in enumerate(TYPES)}
    types = {name: group for name, group in types.items() if len(group.lessons)}
    qualities = {int(q): _Group(wines.quality == q, rows.train.quality) for q in np.unique(rows.train.quality)}
    named = types | {f"quality {q}": group for q, group in qualities.items()}
    if few := [name for name, group in named.items() if not group.enough()]:
        notes.append(f"not measured by themselves, {FEW}: {', '.join(few)}")
    types = {name: group for name, group in types.items() if group.enough()}
    qualities = {q: group for q, group in qualities.items() if group.enough()}

    said = rate(wines)
    progress(1 / 3)
    findings = {}
    if not in_sample:
        by_trees = _trees(rows.train)(wines)
        titled = {"boosted trees": everyone} | {f"boosted trees, {name}": group for name, group in types.items()}
        findings = {title: _figures(by_trees[group.rows], wines.quality[group.rows]) for title, group in titled.items()}
    progress(2 / 3)

    def measured(group: _Group) -> dict[str, Measure]:
        return _measures(said[group.rows], wines.quality[group.rows], group.lessons)

    report = found(
        measures=measured(everyone),
        by_type={name: measured(group) for name, group in types.items()},
        by_quality={q: measured(group) for q, group in qualities.items()},
        findings=findings,
    )
    progress(1.0)
    return report


def _measures(p: Floats, quality: Ints, lessons: Ints) -> dict[str, Measure]:
    """The measures of probabilities (rows, 11) against tasters' scores (rows,)."""
    resample = np.random.default_rng(0).integers(0, len(p), (RESAMPLES, len(p)))
    resampled = [_figures(p[pick], quality[pick]) for pick in resample]
    floor = _floor(quality, lessons)
    return {
        name: Measure(value=value, spread=float(np.std([f[name] for f in resampled if name in f], ddof=1)), floor=floor[name])
        for name, value in _figures(p, quality).items()
    }


def _figures(p: Floats, quality: Ints) -> dict[str, float]:
    """The figures by name, of probabilities (rows, 11) against tasters' scores (rows,)."""
    expected = p @ SCALE
    off = np.abs(np.rint(expected) - quality)
    figures = {"accuracy": float((off == 0).mean()), "accuracy_within_1": float((off <= 1).mean()), "mad": float(np.abs(expected - quality).mean())}
    if len(np.unique(quality)) > 1:
        figures["r2"] = float(r2_score(quality, expected))
    given = p[np.arange(len(quality)), quality - QUALITY_RANGE[0]]
    return figures | {"log_loss": float(-np.log(np.maximum(given, LEAST_P)).mean())}


def _floor(quality: Ints, lessons: Ints) -> dict[str, float]:
    """The figures of one who knows the scores of training wines, ``lessons``, and does not look at the wine."""
    counts = np.bincount(lessons - QUALITY_RANGE[0], minlength=len(SCALE))
    share = counts / counts.sum()
    always, often = (_figures(np.tile(p, (len(quality), 1)), quality) for p in (np.eye(len(SCALE))[counts.argmax()], share))
    return always | {name: often[name] for name in ("r2", "log_loss") if name in often}


def _trees(train: Wines) -> Rate:
    """Boosted trees that learned the scores of these wines, of which there are at least two."""
    known, labels = np.unique(train.quality, return_inverse=True)
    taught = trees(0).fit(features(train), labels)

    def rate(wines: Wines) -> Floats:
        p = np.zeros((len(wines), len(SCALE)))
        p[:, known - QUALITY_RANGE[0]] = taught.predict_proba(features(wines))
        return p

    return rate
