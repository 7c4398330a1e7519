"""What POST /score knows: the AUC of a model's judges between wines that it never saw and rows of many other kinds, as Markdown.

usage: CUVEE_DATA_DIR=folder python scripts/judges.py [--model FILE] [--against FILE ...]

The models are bundles (GET /models/{id}/bundle); without --model it is the starter's. Real wines are those of ``uci`` that it
held out, each once. --against: other models, whose rows the judges are shown too. One draw of each kind, as many rows as wines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from sklearn.metrics import roc_auc_score

from app import codec, uci
from app.bundle import Bundle, unpack
from app.registry import STARTER
from app.sampler import Condition, Sampler
from app.scorer import Scorer
from app.settings import read_settings
from app.split import split
from app.wine import DENSITY, FREE_SO2, HIGH_TICKS, LOW_TICKS, SCALES, TOTAL_SO2, TYPES, Floats, Ticks, Wines
from worker.evaluate.between import drawn, once

SEED = 2**62 + 6  # of poured rows: noise that no training has drawn
JUDGES = "discriminator", "critic"
NEIGHBOURS = 5  # of its type, one of which a blended wine lies on the way to

Kinds = Iterator[tuple[str, Wines]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parents[1] / "app" / "starter" / STARTER)
    parser.add_argument("--against", type=Path, nargs="*", default=[], metavar="FILE")
    given = parser.parse_args()
    bundle = unpack(given.model.read_bytes())
    params = bundle.manifest.lineage.params
    rows = split(uci.fetch(read_settings()).wines, holdout=params["holdout"], seed=params["split_seed"])
    if len(rows.holdout) == 0:
        sys.exit(f"{given.model}: expected a model that held wines out, found one that was trained on all of them (params.holdout is 0)")
    real, scorer = once(rows.holdout), Scorer(bundle)
    judges = [judge for judge in JUDGES if judge in scorer.columns]
    print(f"| {len(real)} wines never seen, and as many rows: | {' | '.join(judges)} |\n|---|{'---:|' * len(judges)}")
    for name, others in (*_poured(bundle, given.against, len(real)), *_made(real, once(rows.train), np.random.default_rng(0))):
        said = [(getattr(scorer.score(real), judge), getattr(scorer.score(others), judge)) for judge in judges]
        print(f"| {name} | {' | '.join(f'{_auc(*pair):.3f}' for pair in said)} |", flush=True)


def _poured(bundle: Bundle, others: list[Path], n: int) -> Kinds:
    """Rows of the model itself, and of each of the other models."""
    for name, model in (("the model's own, fresh", bundle), *((path.stem, unpack(path.read_bytes())) for path in others)):
        yield name, Sampler(model).wines(Condition(), seed=SEED, offset=0, n=n)


def _made(real: Wines, train: Wines, random: np.random.Generator) -> Kinds:
    """Wines that were never seen with something wrong about them, then rows made from the training wines without any network."""
    spread = np.stack([train.ticks[train.red == bool(t)].std(0) for t in range(len(TYPES))])[real.red.astype(np.int64)]  # (rows, 11) ticks
    yield "columns shuffled within a type", _each_type(real, lambda ticks: random.permuted(ticks, axis=0))
    yield "columns shuffled over both types", _possible(real, random.permuted(real.ticks, axis=0))
    yield "one column from another wine of its type", _one_column(real, _each_type(real, random.permutation).ticks, random)
    for far in (1.5, 3):
        yield f"one column moved by {far} sd", _one_column(real, real.ticks + far * spread * random.choice([-1, 1], real.ticks.shape), random)
    yield "one column at a physical bound", _one_column(real, np.where(random.random(real.ticks.shape) < 0.5, LOW_TICKS, HIGH_TICKS), random)
    for how, density in (("1.05", np.full(len(real), 1.05 * SCALES[DENSITY])), ("up by .003", real.ticks[:, DENSITY] + 0.003 * SCALES[DENSITY])):
        yield f"density {how}", _possible(real, np.column_stack([real.ticks[:, :DENSITY], density, real.ticks[:, DENSITY + 1 :]]))
    yield "called the other type", replace(real, red=~real.red)
    low, high = train.ticks.min(0), train.ticks.max(0)
    yield "uniform within the training range", _possible(real, low + random.random(real.ticks.shape) * (high - low))
    yield from _without_networks(real, drawn(train, len(train), seed=0), random)


def _without_networks(labels: Wines, train: Wines, random: np.random.Generator) -> Kinds:
    """Rows with these labels, in the normal scores of the training wines: from a Gaussian of each type, and between two neighbours."""
    fitted = codec.fit(train)
    scores, decode, normal = fitted.scores(train).astype(np.float64), codec.Decoder(fitted), np.vectorize(NormalDist().cdf)
    copula, blended = np.zeros((2, *labels.ticks.shape))
    for red in np.unique(labels.red):
        own, at = scores[train.red == red], labels.red == red
        copula[at] = random.multivariate_normal(own.mean(0), np.cov(own.T), at.sum())
        first = own[random.integers(len(own), size=at.sum())]
        ranked = np.argsort(((first[:, None] - own) ** 2).sum(2), axis=1)  # the first is the wine itself
        nearest = ranked[np.arange(len(first)), 1 + random.integers(NEIGHBOURS, size=len(first))]
        blended[at] = first + random.random((len(first), 1)) * (own[nearest] - first)
    for name, made in (("Gaussian copula of the normal scores", copula), ("between two neighbours", blended)):
        yield name, Wines(decode(normal(made).astype(np.float32), labels.red), labels.quality, labels.red)


def _each_type(wines: Wines, change: Callable[[Ticks], Ticks]) -> Wines:
    ticks = wines.ticks.copy()
    for red in np.unique(wines.red):
        ticks[wines.red == red] = change(ticks[wines.red == red])
    return _possible(wines, ticks)


def _one_column(wines: Wines, others: Ticks | Floats, random: np.random.Generator) -> Wines:
    """The wines with one value each, of any column, exchanged for that of ``others``, (rows, 11) ticks."""
    column = random.integers(others.shape[1], size=(len(wines), 1))
    return _possible(wines, np.where(np.arange(others.shape[1]) == column, others, wines.ticks))


def _possible(wines: Wines, ticks: Ticks | Floats) -> Wines:
    """The wines with other ticks, on the grid and within the physical bounds, total SO2 no less than the free: others are refused before they are scored."""
    kept = np.rint(np.clip(ticks, LOW_TICKS, HIGH_TICKS)).astype(np.int32)
    kept[:, TOTAL_SO2] = np.maximum(kept[:, TOTAL_SO2], kept[:, FREE_SO2])
    return replace(wines, ticks=kept)


def _auc(real: Floats, others: Floats) -> float:
    return float(roc_auc_score(np.repeat([1, 0], [len(real), len(others)]), np.concatenate([real, others])))


if __name__ == "__main__":
    main()
