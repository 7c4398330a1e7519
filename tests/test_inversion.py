"""Inversion makes the classifier sure of what looks like no wine."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

import numpy as np
import pytest
import torch

from app import codec
from app.bundle import CLASSIFIER, CLASSIFIER_WEIGHTS, CRITIC, DCR, POOL, Bundle, unpack
from app.errors import InvalidInput
from app.params import ClassifierParams, InversionParams, resolve
from app.sampler import Condition, Sampler
from app.tables import read_csv
from app.wine import FREE_SO2, TOTAL_SO2, TYPES, Wines
from tests.conftest import Silent, assignment
from tests.test_methods import Recorder
from tests.test_search import SHAPE, confidence
from worker import pool
from worker.checkpoint import weights
from worker.methods import classifier, inversion
from worker.nets import Classifier, Trunk
from worker.pipeline import work
from worker.training import Findings, TrainingSet

ROWS = 120


@dataclass
class Inverted:
    """What an inversion ended with, its rows' mean squared normal score, and its run."""

    pool: Wines
    findings: Findings
    length: float
    run: Recorder


@pytest.fixture(scope="module")
def taught(rows: TrainingSet) -> bytes:
    """A classifier that has learnt a little."""
    net = classifier.train(rows, ClassifierParams.model_validate(SHAPE | {"batch": 32, "classifier_steps": 100}), Recorder()).classifier
    assert net is not None
    return weights(net)


def invert(rows: TrainingSet, taught: bytes | None, *, seed: int = 0, resume: bytes | None = None, **given: object) -> Inverted:
    """A small inversion of that classifier, or of one taught for a few steps."""
    run = Recorder(seed=seed, resume=resume, classifier=taught)
    params = InversionParams.model_validate(SHAPE | {"batch": 32, "classifier_steps": 20, "pool": ROWS, "steps": 40} | given)
    trained = inversion.train(rows, params, run)
    assert trained.pool is not None
    return Inverted(trained.pool, trained.findings, float(np.square(rows.codec.scores(trained.pool)).mean()), run)


@pytest.fixture(scope="module")
def inverted(rows: TrainingSet, taught: bytes) -> Inverted:
    """The pure form."""
    return invert(rows, taught)


@pytest.fixture(scope="module")
def bundle(few_wines: Wines, taught: bytes) -> Bundle:
    """The bundle of a job that inverted that classifier."""
    job = assignment(few_wines, method="inversion", hidden=32, holdout=0, pool=ROWS, steps=40)
    return unpack(work(replace(job, classifier=taught, classifier_model="cellar-door"), Silent()))


def test_the_classifier_becomes_surer_of_every_label(inverted: Inverted) -> None:
    start, end = inverted.findings["confidence at the start"], inverted.findings["confidence before rounding"]
    assert start.keys() == end.keys()
    assert all(start[label] < end[label] for label in start)


def test_the_confidence_found_after_rounding_is_that_of_the_classifier_of_the_bundle_in_the_pool(bundle: Bundle) -> None:
    kept, after = read_csv(bundle.parts[POOL]).wines, bundle.manifest.report.findings["confidence after rounding"]
    sure = confidence(bundle, kept)
    assert after["all"] == pytest.approx(sure.mean(), abs=1e-5)
    for label in after.keys() - {"all"}:
        name, quality = label.split()
        assert after[label] == pytest.approx(sure[(kept.red == (name == "red")) & (kept.quality == int(quality))].mean(), abs=1e-5)


def test_more_steps_make_it_surer(rows: TrainingSet, taught: bytes, inverted: Inverted) -> None:
    few = invert(rows, taught, steps=5)
    assert few.findings["confidence at the start"] == inverted.findings["confidence at the start"]
    assert few.findings["confidence before rounding"]["all"] < inverted.findings["confidence before rounding"]["all"]


def test_a_prior_pulls_scores_towards_the_middle(rows: TrainingSet, taught: bytes, inverted: Inverted) -> None:
    pulled = invert(rows, taught, prior=0.3)
    assert pulled.length < 0.5 * inverted.length
    assert pulled.findings["confidence before rounding"]["all"] < inverted.findings["confidence before rounding"]["all"]


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_it_starts_from_noise_as_strong_as_asked(starter_wines: Wines, taught: bytes, noise: float) -> None:
    wines = starter_wines.take(slice(0, 400))  # of fewer, the steps between two of a value are as wide as the weaker noise
    start = invert(TrainingSet(wines, codec.fit(wines), torch.device("cpu")), taught, noise=noise, steps=1, step_size=1e-6)
    assert start.length == pytest.approx(noise**2, rel=0.3)


def test_a_row_moves_against_its_own_gradient_as_if_it_were_alone(few_wines: Wines) -> None:
    random = torch.Generator().manual_seed(0)
    params = InversionParams(channels=4, blocks=1, hidden=16, prior=0.5, step_size=0.7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Classifier(Trunk(channels=4, blocks=1, hidden=16)).requires_grad_(False)
    fields = torch.randn((pool.CHUNK + 3, 11), generator=random)
    wanted = torch.arange(len(fields)) % 11
    neutral = torch.from_numpy(codec.neutral_condition(np.arange(len(fields)) % 2 == 0))
    moved = fields.clone()

    inversion.descend(net, moved, neutral, wanted, params)

    for row in (0, 7, len(fields) - 1):
        alone = fields[row : row + 1].clone().requires_grad_()
        goal = -net(alone, neutral[row : row + 1]).log_softmax(1)[0, wanted[row]] + 0.25 * alone.square().sum()
        goal.backward()
        assert alone.grad is not None
        torch.testing.assert_close(moved[row], (alone - 0.7 * alone.grad).detach()[0], atol=1e-5, rtol=1e-5)


def test_inputs_far_out_stop_at_the_end_of_the_training_range_and_are_counted(few_wines: Wines, rows: TrainingSet, taught: bytes) -> None:
    far = invert(rows, taught, noise=3.0, steps=1, step_size=1e-6)
    assert far.findings["beyond the training range"].keys() == set(codec.FIELDS)
    assert fmean(far.findings["beyond the training range"].values()) == pytest.approx(2 * NormalDist().cdf(-3.719 / 3), abs=0.05)
    fixed_acidity = [wines.ticks[:, 0] for wines in (far.pool, few_wines)]
    assert (fixed_acidity[0].min(), fixed_acidity[0].max()) == (fixed_acidity[1].min(), fixed_acidity[1].max())


def test_no_row_has_more_free_than_total_sulfur_dioxide(inverted: Inverted) -> None:
    assert (inverted.pool.ticks[:, FREE_SO2] <= inverted.pool.ticks[:, TOTAL_SO2]).all()


def test_every_label_of_the_training_rows_is_in_the_pool_as_often_as_wanted(inverted: Inverted, few_wines: Wines) -> None:
    quotas = pool.quotas(few_wines, ROWS)
    held = Counter(f"{TYPES[int(red)]} {quality}" for red, quality in zip(inverted.pool.red, inverted.pool.quality.tolist(), strict=True))
    assert held == pool.by_label(quotas, quotas > 0) == inverted.findings["rows in pool"]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("state", [0, 20, 39])
def test_a_resumed_inversion_ends_where_an_uninterrupted_one_does(rows: TrainingSet, taught: bytes, named: bool, state: int) -> None:
    whole = invert(rows, taught if named else None)
    resumed = invert(rows, taught if named else None, resume=whole.run.states[state])
    assert np.array_equal(resumed.pool.ticks, whole.pool.ticks)
    for name in whole.findings.keys() - {"cpu seconds per row"}:
        assert resumed.findings[name] == whole.findings[name]


def test_another_seed_ends_elsewhere(rows: TrainingSet, taught: bytes, inverted: Inverted) -> None:
    assert not np.array_equal(invert(rows, taught, seed=1).pool.ticks, inverted.pool.ticks)


def test_what_a_watcher_sees_falls_and_is_finite(inverted: Inverted) -> None:
    losses = [metrics["input_loss"] for metrics in inverted.run.metrics]
    assert len(losses) == 40
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_a_named_classifier_is_the_one_that_is_excited(bundle: Bundle, taught: bytes) -> None:
    assert bundle.parts[CLASSIFIER_WEIGHTS] == taught
    assert bundle.manifest.lineage.classifier_model == "cellar-door"


def test_a_job_ends_with_the_pool_that_its_method_made(bundle: Bundle, inverted: Inverted) -> None:
    assert bundle.parts.keys() == {POOL, CLASSIFIER, CLASSIFIER_WEIGHTS, CRITIC, DCR}
    assert np.array_equal(read_csv(bundle.parts[POOL]).wines.ticks, inverted.pool.ticks)


def test_it_is_served_from_its_pool(bundle: Bundle, inverted: Inverted) -> None:
    poured = Sampler(bundle).wines(Condition((6,), ("red",)), seed=1, offset=0, n=100)
    kept = {tuple(row) for row in inverted.pool.ticks[(inverted.pool.quality == 6) & inverted.pool.red].tolist()}
    assert {tuple(row) for row in poured.ticks.tolist()} <= kept


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("step_size", 0), ("prior", -1), ("noise", 0), ("pool", 10**9)])
def test_params_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=name):
        resolve("inversion", {name: value})


def test_a_prior_and_a_step_that_together_step_over_the_goal_are_refused() -> None:
    with pytest.raises(InvalidInput, match="prior and step_size: expected a product of at most 1, found 4"):
        resolve("inversion", {"prior": 2, "step_size": 2})
