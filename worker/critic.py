"""The critic: networks taught, once the generator is finished, what a real wine is and what is none.

A GAN's discriminator ends where it can't tell its generator's rows from real ones; of rows that no generator would
pour it never heard. The critic is asked another question: is this one of the real wines, or one of the *negatives*,
a third each of which are the finished model's own rows and half real wines with one to three columns tampered with,
the rest columns shuffled within a type? (Noise-contrastive estimation, Gutmann and Hyvarinen, AISTATS 2010: what it
answers is a ratio of densities, so it says something of rows that are no such negatives either.)

Wines are dealt into four folds, and each of the six networks does without two of them: so three networks have never
seen a given wine, nor anything made from it. What those three say of it calibrates the critic and ranks wines
without touching the holdout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, leaky_relu

from app.bundle import Calibration
from app.codec import CONDITION, Codec, condition
from app.wine import COLUMNS, FREE_SO2, HIGH_TICKS, LOW_TICKS, TOTAL_SO2, Floats, Ticks, Wines, concatenate
from worker.evaluate import calibrate
from worker.evaluate.between import once
from worker.nets import FIELDS, SLOPE
from worker.training import seeded

FOLDS, LEFT_OUT = 4, 2
HIDDEN = 128
DROPOUT = 0.2
MIN_WINES = 40  # different ones; with fewer there is nothing to learn from half of them

NEGATIVES = 12  # for each real wine, while that is
MAX_NEGATIVES = 200_000  # no more than about this many in all
OWN, TAMPERED = 1 / 3, 1 / 2  # shares of the negatives; what is left is shuffled
COLUMNS_TAMPERED = (0.6, 0.25, 0.15)  # shares of rows with one, two, three columns tampered with
SWAPPED, SHIFTED = 0.5, 0.4  # shares of tampered values; what is left is anywhere within the physical bounds
SHIFT = (0.7, 8.0)  # standard deviations, log-uniform, up or down
FLIPPED = 0.05  # of the tampered rows have the other type

STEPS = (100, 1200)  # at least and at most
WINES_PER_STEP = 4
BATCH = 128  # of real wines, and as many negatives
RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 1e-2, 0.1
BETAS = (0.9, 0.99)
CHUNK = 4096  # rows through the networks at once
QUANTILES = 201

Pour = Callable[[int], Wines]  # n -> as many rows of the finished model


class Critic(nn.Module):
    """Six dense networks side by side; their mean logit is the critic's.

    Shape: fields (rows, 11) normal scores, condition (rows, 8) -> logits (rows,).
    """

    def __init__(self, random: torch.Generator) -> None:
        super().__init__()
        self.left_out = tuple(itertools.combinations(range(FOLDS), LEFT_OUT))
        sizes = (FIELDS + CONDITION, HIDDEN, HIDDEN, HIDDEN, 1)
        weights = [torch.randn((len(self.left_out), a, b), generator=random) * math.sqrt(2 / a) for a, b in itertools.pairwise(sizes)]
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(torch.zeros(len(self.left_out), 1, b) for b in sizes[1:])

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        return self.each(torch.cat([fields, condition], dim=1)[None]).mean(0)

    def each(self, x: Tensor, dropped: torch.Generator | None = None) -> Tensor:
        """Logits of each network, (6, rows), on inputs (6 or 1, rows, 19); ``dropped`` draws the units that are left out."""
        last = len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if k < last:
                x = leaky_relu(x, SLOPE)
                if dropped is not None:
                    x = x * (torch.rand(x.shape, generator=dropped) > DROPOUT) / (1 - DROPOUT)
        return x.squeeze(2)


@dataclass(frozen=True)
class Criticism:
    """A trained critic, and what it says of training wines by the networks that have not seen them.

    ``ranks`` (201,) are evenly spaced quantiles of those logits.
    """

    critic: Critic
    calibration: Calibration
    ranks: list[float]


@dataclass(frozen=True)
class _Pool:
    """Real wines and negatives: network inputs (rows, 19), which rows are real (rows,), and the fold of each (rows,)."""

    inputs: Tensor
    real: NDArray[np.bool_]
    fold: NDArray[np.int64]


def train(wines: Wines, pour: Pour, fitted: Codec, *, seed: int, progress: Callable[[float], None] = lambda share: None) -> Criticism | None:
    """The critic of a finished model from its training rows and rows of its own; None with fewer than ``MIN_WINES`` different wines.

    Deterministic by ``seed``; ``progress`` hears which share is done.
    """
    wines = once(wines)
    if len(wines) < MIN_WINES:
        return None
    pool = _pool(wines, pour, fitted, np.random.default_rng(seed))
    random = torch.Generator().manual_seed(seeded(seed))
    critic = Critic(random)
    _teach(critic, pool, random, progress)
    logits = _out_of_fold(critic, pool)
    calibration = calibrate(logits[pool.real], logits[~pool.real], in_sample=False)
    return Criticism(critic, calibration, np.quantile(logits[pool.real], np.linspace(0, 1, QUANTILES)).tolist())


def _teach(critic: Critic, pool: _Pool, random: torch.Generator, progress: Callable[[float], None]) -> None:
    steps = min(max(int(pool.real.sum()) // WINES_PER_STEP, STEPS[0]), STEPS[1])
    optimiser = torch.optim.AdamW(critic.parameters(), lr=RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=WARM_UP, cycle_momentum=False)
    kinds = [[torch.from_numpy(np.flatnonzero(kind & ~np.isin(pool.fold, out))) for kind in (pool.real, ~pool.real)] for out in critic.left_out]
    labels = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)]).expand(len(kinds), -1)
    for step in range(steps):
        rows = torch.stack([torch.cat([rows[torch.randint(len(rows), (BATCH,), generator=random)] for rows in pair]) for pair in kinds])  # (6, 2 * batch)
        loss = binary_cross_entropy_with_logits(critic.each(pool.inputs[rows], dropped=random), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            progress(step / steps)


@torch.no_grad()
def _out_of_fold(critic: Critic, pool: _Pool) -> Floats:
    """The mean logit of each row, (rows,), over the networks that did without its fold."""
    logits = torch.cat([critic.each(chunk[None]) for chunk in torch.split(pool.inputs, CHUNK)], dim=1).double().numpy()  # (6, rows)
    unseen = np.stack([np.isin(pool.fold, out) for out in critic.left_out])
    return np.asarray((logits * unseen).sum(0) / unseen.sum(0))


def negatives(wines: Wines, own: Wines, spread: Floats, each: int, random: np.random.Generator) -> Wines:
    """The mixture that a critic tells real wines from: ``own`` rows of the model, and ``each`` in all for each of ``wines``, made from them.

    ``spread`` (2, 11): standard deviations in ticks of each type's measurements.
    """
    tamper, shuffle = partial(_tampered, spread=spread, random=random), partial(shuffled_within_type, random=random)
    made = [
        make(wines.take(random.integers(0, len(wines), round(share * each * len(wines)))))
        for make, share in ((tamper, TAMPERED), (shuffle, 1 - OWN - TAMPERED))
    ]
    return concatenate([own, *made])


def unseen_negatives(holdout: Wines, train: Wines, pour: Pour, *, seed: int) -> Wines:
    """One negative for each wine of the holdout, of the same mixture: nothing in them was there to learn from."""
    return negatives(holdout, pour(round(OWN * len(holdout))), spreads(train), 1, np.random.default_rng(seed))


def _pool(wines: Wines, pour: Pour, fitted: Codec, random: np.random.Generator) -> _Pool:
    """The wines and, fold by fold, negatives made from the wines of that fold alone."""
    each = min(NEGATIVES, MAX_NEGATIVES // len(wines) + 1)
    own = once(pour(max(round(OWN * each * len(wines)), FOLDS)))  # each once: repeats would be in several folds
    fold, spread = _folds(wines, random), spreads(wines)
    tables, folds = [wines], [fold]
    for k in range(FOLDS):
        tables.append(negatives(wines.take(fold == k), own.take(slice(k, None, FOLDS)), spread, each, random))
        folds.append(np.full(len(tables[-1]), k))
    rows = concatenate(tables)
    inputs = np.concatenate([fitted.scores(rows), condition(rows.quality, rows.red)], axis=1)
    return _Pool(torch.from_numpy(inputs), np.arange(len(rows)) < len(wines), np.concatenate(folds))


def _folds(wines: Wines, random: np.random.Generator) -> NDArray[np.int64]:
    """The fold of each wine, (rows,), the types dealt evenly."""
    order = random.permutation(len(wines))
    fold = np.empty(len(wines), dtype=np.int64)
    fold[order[np.argsort(wines.red[order], kind="stable")]] = np.arange(len(wines)) % FOLDS
    return fold


def spreads(wines: Wines) -> Floats:
    """Standard deviation in ticks of each type's measurements, (2, 11), at least one tick; those of all wines for a type that has none."""
    parts = [wines.ticks[wines.red == red] for red in (False, True)]
    return np.stack([np.maximum((part if len(part) else wines.ticks).std(axis=0), 1.0) for part in parts])


def _tampered(wines: Wines, *, spread: Floats, random: np.random.Generator) -> Wines:
    """Every row with one to three columns tampered with; a few rows are given the other type as well, where there is one."""
    ticks, rows = wines.ticks.copy(), np.arange(len(wines))
    columns = random.permuted(np.tile(np.arange(len(COLUMNS)), (len(wines), 1)), axis=1)
    number = 1 + random.choice(len(COLUMNS_TAMPERED), len(wines), p=COLUMNS_TAMPERED)
    donor = permuted_within_type(wines.red, random)
    for k in range(len(COLUMNS_TAMPERED)):
        at = rows[number > k]
        column = columns[at, k]
        size = np.exp(random.uniform(math.log(SHIFT[0]), math.log(SHIFT[1]), len(at))) * random.choice([-1, 1], len(at))
        moved = ticks[at, column] + size * spread[wines.red[at].astype(np.int64), column]
        anywhere = LOW_TICKS[column] + random.random(len(at)) * (HIGH_TICKS - LOW_TICKS)[column]
        how = random.random(len(at))
        value = np.where(how < SWAPPED, wines.ticks[donor[at], column], np.where(how < SWAPPED + SHIFTED, moved, anywhere))
        ticks[at, column] = np.rint(np.clip(value, LOW_TICKS[column], HIGH_TICKS[column]))
    both = wines.red.any() and not wines.red.all()
    flipped = both & (random.random(len(wines)) < FLIPPED)
    return Wines(possible(ticks), wines.quality, wines.red ^ flipped)


def shuffled_within_type(wines: Wines, *, random: np.random.Generator) -> Wines:
    """Every measurement shuffled by itself within its type; quality and type stay."""
    columns = [wines.ticks[permuted_within_type(wines.red, random), j] for j in range(len(COLUMNS))]
    return Wines(possible(np.stack(columns, axis=1)), wines.quality, wines.red)


def permuted_within_type(red: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.int64]:
    """For each row another row of its type, (rows,), every row once."""
    partner = np.arange(len(red))
    for rows in (np.flatnonzero(red), np.flatnonzero(~red)):
        partner[rows] = random.permutation(rows)
    return partner


def possible(ticks: Ticks) -> Ticks:
    """The same ticks (rows, 11), changed where they are, with a total SO2 that holds the free: others are refused before anybody scores them."""
    ticks[:, TOTAL_SO2] = np.maximum(ticks[:, TOTAL_SO2], ticks[:, FREE_SO2])
    return ticks
