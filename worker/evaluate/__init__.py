"""The report: how much a model's wines are like real ones that training never saw, what they are good for, and whether they are copies.

A number never stands alone: each measure comes with its floor (mostly the training rows, every column shuffled by
itself), its ceiling (other real wines in the place of the generated ones), and its spread: the standard deviation
over disjoint stretches of the model's table, which is what a user sees who draws other rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.bundle import Measure, Report
from app.split import Split, split
from app.wine import TYPES, Wines, concatenate
from worker.evaluate.between import DETECTIVE_ROWS, MIN_ROWS, REPEATS, drawn, once
from worker.evaluate.judges import Judge, calibrate, discernment
from worker.evaluate.likeness import likeness
from worker.evaluate.plausibility import plausibility
from worker.evaluate.privacy import exact_copies, privacy
from worker.evaluate.utility import TEACHABLE_R2, confusion, teaching

__all__ = ["PROTOCOL", "REPEATS", "Judge", "calibrate", "report"]

PROTOCOL = 2  # bump when a measure's meaning changes: reports of two protocols are never compared
MAX_ROWS = 12_000  # of the dataset; distances are between all pairs, and a report should cost a minute
IN_SAMPLE = "no row was held out: measured on the training rows themselves, so it flatters the model"

Progress = Callable[[float], None]  # hears which share of the report is done
T = TypeVar("T")


@dataclass(frozen=True)
class _Group:
    """The wines of a report, or those of one type or quality: held-out, training and generated ones, these in stretches.

    ``trained_on`` are all training rows: where there are too many to compare, ``holdout`` and ``train`` are samples.
    """

    holdout: Wines
    train: Wines
    generated: Sequence[Wines]
    trained_on: Wines

    def where(self, belongs: Callable[[Wines], NDArray[np.bool_]]) -> _Group:
        holdout, train, trained_on, *generated = (w.take(belongs(w)) for w in (self.holdout, self.train, self.trained_on, *self.generated))
        return _Group(holdout, train, generated, trained_on)

    def comparable(self) -> bool:
        """Whether there are enough wines to say anything; generated ones may be all the same, which is worth saying."""
        return self._real_wines() >= MIN_ROWS and min(map(len, self.generated)) >= MIN_ROWS

    def few(self) -> bool:
        """Whether there are too few wines for a detective."""
        return min(self._real_wines(), *map(len, self.generated)) < DETECTIVE_ROWS

    def _real_wines(self) -> int:
        return min(len(once(self.holdout)), len(once(self.train)))


def report(generated: Wines, rows: Split, judges: Mapping[str, Judge] | None = None, progress: Progress = lambda share: None) -> Report:
    """The report of a model; ``rows`` is the split that it was trained on, ``judges`` its own judges by name.

    ``generated`` are the first rows of one table of it, best ``REPEATS`` times as many as training rows: they are cut
    into as many stretches, each of which is compared by itself. They must be new to the judges.
    """
    in_sample = len(rows.holdout) == 0
    notes = [IN_SAMPLE] if in_sample else []
    everyone = _group(generated, rows, notes)
    found = partial(Report, protocol=PROTOCOL, in_sample=in_sample, rows=len(once(everyone.holdout)), notes=notes)
    if not everyone.comparable():
        notes.append(f"{_fewer_than(MIN_ROWS)}: nothing was measured")
        return found(measures={})

    types, qualities = _comparable(everyone, notes)
    judges = judges or {}
    done = _steps(progress, 4 + 2 * len(types) + len(qualities) + len(judges))

    measures = done(likeness(everyone.holdout, everyone.train, everyone.generated))
    measures |= done(_privacy(everyone, in_sample=in_sample))
    measures |= done(_teaching(everyone, notes))
    by_type = {name: done(likeness(g.holdout, g.train, g.generated)) | _privacy(g, in_sample=in_sample) for name, g in types.items()}
    by_quality = {quality: done(likeness(g.holdout, g.train, g.generated)) for quality, g in qualities.items()}

    confusions = {}
    for name, group, found_there in (("all", everyone, measures), *((name, g, by_type[name]) for name, g in types.items())):
        if (rated := done(confusion(group.holdout, group.train, group.generated))) is not None:
            confusions[name], found_there["confusion_gap"] = rated

    poured = concatenate(list(everyone.generated))
    return found(
        measures=measures,
        by_type=by_type,
        by_quality=by_quality,
        confusion=confusions,
        plausibility=plausibility(everyone.holdout, everyone.train, poured, known=everyone.train if in_sample else everyone.trained_on),
        judges={name: done(discernment(judge, everyone.holdout, everyone.train, poured)) for name, judge in judges.items()},
    )


def _group(generated: Wines, rows: Split, notes: list[str]) -> _Group:
    """All wines of a report: at most ``MAX_ROWS`` real ones beside ``trained_on``, and no stretch with more rows than there are of ``train``."""
    reference = rows if len(rows.holdout) else split(rows.train, holdout=0.5, seed=0)
    total = len(reference.train) + len(reference.holdout)
    if total > MAX_ROWS:
        notes.append(f"measured on {MAX_ROWS} random rows of {total}; copies were looked for among all {len(rows.train)} training rows")
        reference = Split(*(drawn(side, len(side) * MAX_ROWS // total, seed=0) for side in (reference.train, reference.holdout)))
    parts = np.array_split(np.arange(len(generated)), REPEATS)
    return _Group(reference.holdout, reference.train, [generated.take(part[: len(reference.train)]) for part in parts], rows.train)


def _comparable(everyone: _Group, notes: list[str]) -> tuple[dict[str, _Group], dict[int, _Group]]:
    """The types and the qualities that have enough wines to be looked at by themselves; ``notes`` hear of the others."""
    types = {name: everyone.where(partial(_is_type, red=bool(red))) for red, name in enumerate(TYPES)}
    types = {name: group for name, group in types.items() if len(group.train)}
    qualities = {int(q): everyone.where(partial(_is_quality, quality=int(q))) for q in np.unique(everyone.train.quality)}
    groups = {"all wines": everyone} | types | {f"quality {q}": group for q, group in qualities.items()}
    if left_out := [name for name, group in groups.items() if not group.comparable()]:
        notes.append(f"not measured by themselves, {_fewer_than(MIN_ROWS)}: {', '.join(left_out)}")
    if few := [name for name, group in groups.items() if group.comparable() and group.few()]:
        notes.append(f"measured without detectives, {_fewer_than(DETECTIVE_ROWS)}: {', '.join(few)}")
    return {name: g for name, g in types.items() if g.comparable()}, {q: g for q, g in qualities.items() if g.comparable()}


def _fewer_than(rows: int) -> str:
    return f"fewer than {rows} different wines held out, trained on or poured at a time"


def _is_type(wines: Wines, *, red: bool) -> NDArray[np.bool_]:
    return np.asarray(wines.red == red)


def _is_quality(wines: Wines, *, quality: int) -> NDArray[np.bool_]:
    return np.asarray(wines.quality == quality)


def _privacy(group: _Group, *, in_sample: bool) -> dict[str, Measure]:
    if in_sample:
        return exact_copies(group.trained_on, group.generated)
    return privacy(group.holdout, group.trained_on, group.generated)


def _teaching(group: _Group, notes: list[str]) -> dict[str, Measure]:
    measures = teaching(group.holdout, group.train, group.generated)
    if not measures:
        notes.append("all held-out wines have one score: there is nothing to learn from generated ones")
    elif "tstr_ratio" not in measures:
        notes.append(f"real wines teach hardly anything of quality here (R2 below {TEACHABLE_R2}): no tstr_ratio")
    return measures


def _steps(progress: Progress, steps: int) -> Callable[[T], T]:
    """What hands a result on and tells that one more of so many ``steps`` is done."""
    number = itertools.count(1)

    def done(result: T) -> T:
        progress(next(number) / steps)
        return result

    return done
