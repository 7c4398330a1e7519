"""``search``: points drawn at random among the measurements, kept where the classifier is sure enough of a wanted quality.

Every candidate is shown to the classifier once and may serve any quality of its type that still lacks rows, the rarest
in training first; none is kept twice. In the limit of infinite time that is right. How long it takes is what the
findings tell: ``acceptance`` is the share of a type's candidates that the classifier gives a quality, the impossible
ones among them, and a row's price is that of a candidate over the acceptance.
"""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.params import SearchParams
from app.wine import FREE_SO2, MEASUREMENTS, TOTAL_SO2, TYPES, Floats, Ints, Ticks, Wines
from worker import pool
from worker.checkpoint import Trainees
from worker.methods import classifier as classifier_method
from worker.training import Findings, Metrics, Run, Trained, TrainingRefused, TrainingSet, randomness

ROUND = 8192  # candidates at a time
PATIENCE = 10  # a label that is not hit once in one in so many of the tries is given up


class _SoFar(nn.Module):
    """What was drawn and found so far, all of it buffers, so that a checkpoint holds it.

    Shape: ``wanted`` and ``found`` rows, ``hits`` and ``highest`` probability of each label (2, 11); ``drawn`` candidates and
    ``cpu_s`` of each type (2,); ``ticks`` (rows wanted in all, 11), label by label.
    """

    found: Tensor
    hits: Tensor
    highest: Tensor
    drawn: Tensor
    cpu_s: Tensor
    ticks: Tensor

    def __init__(self, wanted: Ints) -> None:
        super().__init__()
        self.wanted = wanted
        self.rarest_first = np.argsort(wanted.sum(0), kind="stable").tolist()
        self.first = (np.cumsum(wanted) - wanted.reshape(-1)).reshape(wanted.shape)
        for name, shape, dtype in (
            ("found", pool.LABELS, torch.int64),
            ("hits", pool.LABELS, torch.int64),
            ("highest", pool.LABELS, torch.float32),
            ("drawn", len(TYPES), torch.int64),
            ("cpu_s", len(TYPES), torch.float64),
            ("ticks", (int(wanted.sum()), len(MEASUREMENTS)), torch.int32),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def left(self, tries: int) -> Ints:
        """How many candidates of each type may still be drawn, (2,); none where nothing is wanted any more."""
        found = self.found.numpy()
        limit = np.where(found > 0, tries, tries // PATIENCE) * (found < self.wanted)
        return np.asarray(np.maximum(limit.max(1) - self.drawn.numpy(), 0))

    def add(self, red: int, ticks: Ticks, p: NDArray[np.float32], *, confidence: float, cpu_s: float) -> None:
        """Takes from candidates of one type, (rows, 11), what is hit and wanted; ``p`` (rows, 11): 0 where impossible."""
        hit = p >= confidence
        self.drawn[red] += len(ticks)
        self.cpu_s[red] += cpu_s
        self.hits[red] += torch.from_numpy(hit.sum(0))
        self.highest[red] = torch.maximum(self.highest[red], torch.from_numpy(p.max(0)))
        free = np.ones(len(ticks), dtype=np.bool_)
        for quality in self.rarest_first:
            have, want = int(self.found[red, quality]), int(self.wanted[red, quality])
            chosen = np.flatnonzero(hit[:, quality] & free)[: want - have]
            at = self.first[red, quality] + have
            self.ticks[at : at + len(chosen)] = torch.from_numpy(ticks[chosen])
            self.found[red, quality] += len(chosen)
            free[chosen] = False

    def wines(self) -> Wines:
        """The rows found, label by label, in the order in which they were found."""
        counts = self.found.numpy()
        quality, red = pool.labels(counts)
        places = [np.arange(first, first + n) for first, n in zip(self.first.reshape(-1), counts.reshape(-1), strict=True)]
        return Wines(self.ticks.numpy()[np.concatenate(places)], quality, red)

    def metrics(self) -> Metrics:
        """What a watcher sees."""
        return {"candidates": float(self.drawn.sum()), "rows": float(self.found.sum())}

    def findings(self) -> Findings:
        """What it took."""
        wanted, hits = self.wanted > 0, self.hits.numpy()
        drawn, cpu_s = self.drawn.numpy()[:, None], self.cpu_s.numpy()[:, None]
        return {
            "acceptance": pool.by_label(hits / np.maximum(drawn, 1), wanted),
            "highest probability": pool.by_label(self.highest.double().numpy(), wanted),
            "candidates": {name: float(n) for name, n in zip(TYPES, self.drawn, strict=True)},
            "rows in pool": pool.by_label(self.found.numpy(), wanted),
            "cpu seconds per row": pool.by_label(cpu_s / np.maximum(hits, 1), wanted & (hits > 0)) | {"all": float(cpu_s.sum() / self.found.sum())},
        }


def train(data: TrainingSet, params: SearchParams, run: Run) -> Trained:
    """A pool of candidates that the classifier was sure of; the same for the same seed on the same CPU, resumed or not.

    A label that is practically never hit is left out. ``TrainingRefused`` where that leaves nothing, or nothing of a
    quality that was asked for by name, or where the run's classifier has another shape than ``params`` ask for.
    """
    wanted = _wanted(data.wines, params)
    random = randomness(run)
    rounds = int(wanted.any(1).sum()) * (math.ceil(params.tries / ROUND) + 1)  # one more where a label is given up within a round
    classifier = classifier_method.first(data, params, random, run, steps_after=rounds)
    so_far = _SoFar(wanted)
    trainees = Trainees({"classifier": classifier, "so_far": so_far}, {}, random)
    step = trainees.load(run.resume) if run.resume else 0
    before = params.classifier_steps if run.classifier is None else 0
    known = [data.wines.ticks[data.wines.red == bool(red)] for red in range(len(TYPES))]
    while (left := so_far.left(params.tries)).any():
        start = time.process_time()
        red = int((left > 0).argmax())
        rows = min(ROUND, int(left[red]))
        u = torch.rand((rows, len(MEASUREMENTS)), generator=random, device=run.device, dtype=torch.float64)
        ticks = _uniform(known[red], u.cpu().numpy()) if params.draw == "uniform" else _marginals(known[red], u.cpu().numpy())
        candidates = Wines(ticks, np.zeros(rows, dtype=np.int64), np.full(rows, bool(red)))
        possible = ticks[:, FREE_SO2] <= ticks[:, TOTAL_SO2]
        p = pool.probabilities(classifier, data.codec, candidates) * possible[:, None]
        so_far.add(red, ticks, p, confidence=params.confidence, cpu_s=time.process_time() - start)
        step += 1
        run.tick(before + step, before + rounds, metrics=so_far.metrics, state=partial(trainees.save, step))
    _check(so_far, params)
    return Trained(classifier=classifier, pool=so_far.wines(), findings=so_far.findings())


def _wanted(train: Wines, params: SearchParams) -> Ints:
    """Rows of each label, (2, 11); ``TrainingRefused`` if a quality is asked for that training does not hold."""
    held = np.unique(train.quality)
    named = held if params.qualities is None else np.unique(params.qualities)
    if unknown := np.setdiff1d(named, held).tolist():
        raise TrainingRefused(f"qualities: expected some of those that the training rows hold ({_listed(held.tolist())}), found {_listed(unknown)}")
    return pool.quotas(train.take(np.isin(train.quality, named)), params.pool)


def _uniform(known: Ticks, u: Floats) -> Ticks:
    """Points of the grid, (rows, 11), anywhere between the lowest and the highest of ``known``, from ``u`` (rows, 11) in [0, 1)."""
    low, high = known.min(0), known.max(0)
    return np.asarray(low + np.floor(u * (high - low + 1)), dtype=np.int32)


def _marginals(known: Ticks, u: Floats) -> Ticks:
    """Likewise, but each measurement that of some row of ``known``, whatever the others are."""
    return np.take_along_axis(known, (u * len(known)).astype(np.int64), axis=0)


def _check(so_far: _SoFar, params: SearchParams) -> None:
    missed = np.flatnonzero((so_far.wanted.sum(0) > 0) & (so_far.found.numpy().sum(0) == 0)).tolist()
    if missed and (params.qualities is not None or not so_far.found.any()):
        tried = " and ".join(f"{so_far.drawn[red]} {TYPES[red]}" for red in np.flatnonzero(so_far.wanted[:, missed].any(1)))
        highest = ", ".join(f"{so_far.highest[:, q].max():.2g}" for q in missed)
        raise TrainingRefused(
            f"quality {_listed(missed)} is practically never hit: {tried} candidates were drawn ({params.draw}), and none had it with a probability "
            f"of at least {params.confidence} (the highest was {highest}); lower confidence, draw otherwise, raise tries, or leave the quality out"
        )


def _listed(qualities: list[int]) -> str:
    return ", ".join(map(str, qualities))
