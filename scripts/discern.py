"""What POST /score can tell: the AUC of a model's judges between wines that it never saw and rows of many other kinds, as Markdown.

usage: CUVEE_DATA_DIR=folder python scripts/discern.py [--model FILE] [--against FILE ...]

The models are bundles (GET /models/{id}/bundle); without --model it is the starter's. Real wines are those of ``uci`` that it
held out, each once. One draw of each kind, as many rows as wines: of 1,090 each, an AUC has a standard error of .012.
What is moved or exchanged stays on the grid, within the physical bounds, and total SO2 above the free, so some rows change less, or in one more column.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import NormalDist

import numpy as np

from app import codec, uci
from app.bundle import Bundle, digest, unpack
from app.errors import CuveeError
from app.formats import to_csv
from app.registry import starter_bytes
from app.sampler import Condition, Sampler
from app.scorer import Scorer
from app.settings import read_settings
from app.split import Split, split
from app.wine import DENSITY, HIGH_TICKS, LOW_TICKS, SCALES, TYPES, Floats, Ticks, Wines
from worker.critic import permuted_within_type, possible, shuffled_within_type, spreads
from worker.evaluate.between import once
from worker.evaluate.judges import auc

SEED = 2**62 + 6  # of poured rows: noise that no training has drawn
JUDGES = "discriminator", "critic"
NEIGHBOURS = 5  # of its type, one of which a blended wine lies on the way to

Kinds = Iterator[tuple[str, Wines]]


class Unfit(Exception):
    """Why nothing can be said of a model."""


def main() -> None:
    """Prints the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, metavar="FILE", help="whose judges are asked; it was trained on uci, with a holdout")
    parser.add_argument("--against", type=Path, nargs="*", default=[], metavar="FILE", help="models whose rows they are shown too")
    given = parser.parse_args()
    try:
        model = _opened(given.model) if given.model else unpack(starter_bytes())
        others = list(map(_opened, given.against))
        _compare(model, {"the model's own, fresh": Sampler(model)} | {path.stem: Sampler(other) for path, other in zip(given.against, others, strict=True)})
    except (CuveeError, Unfit, OSError) as error:
        sys.exit(f"discern: {error}")


def _opened(path: Path) -> Bundle:
    try:
        return unpack(path.read_bytes())
    except CuveeError as error:
        raise Unfit(f"{path}: {error}") from error


def _compare(model: Bundle, samplers: dict[str, Sampler]) -> None:
    rows, scorer = _rows(model), Scorer(model)
    judges = [judge for judge in JUDGES if judge in scorer.columns]
    if not judges:
        raise Unfit(f"model {model.id} was trained by method {model.manifest.method!r} and has neither {' nor '.join(JUDGES)}; expected one that has")

    def said(wines: Wines) -> list[Floats]:
        scores = scorer.score(wines)
        return [getattr(scores, judge) for judge in judges]

    real = once(rows.holdout)
    of_real = said(real)
    print(f"| {len(real)} wines never seen, and as many rows: | {' | '.join(judges)} |\n|---|{'---:|' * len(judges)}")
    for name, wines in chain(_poured(samplers, len(real)), _made(real, once(rows.train), np.random.default_rng(0))):
        print(f"| {name} | {' | '.join(f'{auc(*pair):.3f}' for pair in zip(of_real, said(wines), strict=True))} |", flush=True)


def _rows(model: Bundle) -> Split:
    """What the model was trained on and what it never saw; ``Unfit`` if that can't be known, or is nothing, or lacks a type."""
    lineage, wines = model.manifest.lineage, uci.fetch(read_settings()).wines
    if lineage.dataset_sha256 != (expected := digest(to_csv(wines))):
        raise Unfit(f"model {model.id}: expected one trained on uci ({expected}), found {lineage.dataset_id} ({lineage.dataset_sha256})")
    rows = split(wines, holdout=lineage.params["holdout"], seed=lineage.params["split_seed"])
    if any(not (part.red == bool(t)).any() for part in (rows.train, rows.holdout) for t in range(len(TYPES))):
        raise Unfit(f"model {model.id}: expected {' and '.join(TYPES)} wines among those held out, found params.holdout {lineage.params['holdout']}")
    return rows


def _poured(samplers: dict[str, Sampler], n: int) -> Kinds:
    for name, sampler in samplers.items():
        yield name, sampler.wines(Condition(), seed=SEED, offset=0, n=n)


def _made(real: Wines, train: Wines, random: np.random.Generator) -> Kinds:
    """Wines that were never seen with something wrong about them, then rows made from the training wines without any network."""
    spread = spreads(train)[real.red.astype(np.int64)]  # (rows, 11) ticks
    yield "columns shuffled within a type", shuffled_within_type(real, random=random)
    yield "columns shuffled over both types", _on_the_grid(real, random.permuted(real.ticks, axis=0))
    yield "one column from another wine of its type", _one_column(real, real.ticks[permuted_within_type(real.red, random)], random)
    for far in (1.5, 3):
        yield f"one column moved by {far} sd", _one_column(real, real.ticks + far * spread * random.choice([-1, 1], real.ticks.shape), random)
    yield "one column at a physical bound", _one_column(real, np.where(random.random(real.ticks.shape) < 0.5, LOW_TICKS, HIGH_TICKS), random)
    for how, density in (("1.05", np.full(len(real), 1.05 * SCALES[DENSITY])), ("up by .003", real.ticks[:, DENSITY] + 0.003 * SCALES[DENSITY])):
        yield f"density {how}", _on_the_grid(real, np.column_stack([real.ticks[:, :DENSITY], density, real.ticks[:, DENSITY + 1 :]]))
    yield "called the other type", replace(real, red=~real.red)
    low, high = train.ticks.min(0), train.ticks.max(0)
    yield "uniform within the training range", _on_the_grid(real, low + random.random(real.ticks.shape) * (high - low))
    yield from _without_networks(real, train, random)


def _without_networks(labels: Wines, train: Wines, random: np.random.Generator) -> Kinds:
    """Rows with these labels, in the normal scores of the training wines: from a Gaussian of each type, and between two neighbours."""
    fitted = codec.fit(train)
    scores, decode, normal = fitted.scores(train).astype(np.float64), codec.Decoder(fitted), np.vectorize(NormalDist().cdf)
    copula, blended = np.zeros((2, *labels.ticks.shape))
    for t in range(len(TYPES)):
        own, at = scores[train.red == bool(t)], labels.red == bool(t)
        copula[at] = random.multivariate_normal(own.mean(0), np.cov(own.T), at.sum())
        first = own[random.integers(len(own), size=at.sum())]
        blended[at] = [_between(wine, own, random) for wine in first]
    for name, made in (("Gaussian copula of the normal scores", copula), ("between two neighbours", blended)):
        yield name, Wines(decode(normal(made).astype(np.float32), labels.red), labels.quality, labels.red)


def _between(wine: Floats, others: Floats, random: np.random.Generator) -> Floats:
    """A place on the way from the wine, (11,), which is among the others, (rows, 11), to one of those nearest to it."""
    nearest = np.argsort(((others - wine) ** 2).sum(1))[1 + random.integers(NEIGHBOURS)]  # the first is the wine itself
    return np.asarray(wine + random.random() * (others[nearest] - wine))


def _one_column(wines: Wines, others: Ticks | Floats, random: np.random.Generator) -> Wines:
    """The wines with one value each, of any column, exchanged for that of ``others``, (rows, 11) ticks."""
    column = random.integers(others.shape[1], size=(len(wines), 1))
    return _on_the_grid(wines, np.where(np.arange(others.shape[1]) == column, others, wines.ticks))


def _on_the_grid(wines: Wines, ticks: Ticks | Floats) -> Wines:
    """The wines with other ticks, as far as /score would take them."""
    return replace(wines, ticks=possible(np.rint(np.clip(ticks, LOW_TICKS, HIGH_TICKS)).astype(np.int32)))


if __name__ == "__main__":
    main()
