"""The report of a classifier: what it says of one that is right, of one that never looks, and where it knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

import worker.methods
from app import codec
from app.bundle import Report, unpack
from app.params import METHODS, ClassifierParams, Params
from app.split import Split, split
from app.wine import Floats, Wines, concatenate
from tests.conftest import Silent, assignment
from worker.evaluate.between import MIN_ROWS, once
from worker.evaluate.classification import Rate, classification
from worker.methods import classifier
from worker.pipeline import work
from worker.training import TrainingSet

CPU = torch.device("cpu")
NAMES = {"accuracy", "accuracy_within_1", "mad", "r2", "log_loss"}


class Kept:
    """A run that keeps every state."""

    device = CPU
    seed = 0
    resume: bytes | None = None
    classifier: bytes | None = None

    def __init__(self) -> None:
        self.states: list[bytes] = []

    def tick(self, step: int, steps: int, *, metrics: object, state: Callable[[], bytes] | None) -> None:
        assert state is not None
        self.states.append(state())


@pytest.fixture(scope="module")
def rows(starter_wines: Wines) -> Split:
    """1,200 wines to train on and 300 held out, of both types."""
    return split(starter_wines.take(np.random.default_rng(0).permutation(len(starter_wines))[:1500]), holdout=0.2, seed=0)


@pytest.fixture(scope="module")
def right(rows: Split) -> Report:
    """Of one who is always right, and sure of it."""
    return classification(knowing(rows.holdout), rows)


def knowing(wines: Wines, *, off: int = 0) -> Rate:
    """One who is sure of the tasters' score of these wines, and as many points ``off`` every time."""
    known = dict(zip(map(bytes, wines.ticks), (wines.quality + off).tolist(), strict=True))
    return lambda asked: np.eye(11)[[known[bytes(ticks)] for ticks in asked.ticks]]


def always(score: int) -> Rate:
    """One who says the same of every wine."""
    return lambda wines: np.tile(np.eye(11)[score], (len(wines), 1))


def left_out(report: Report) -> list[str]:
    """What the only note says was not measured by itself."""
    (note,) = report.notes
    before, _, names = note.partition(": ")
    assert before == f"not measured by themselves, fewer than {MIN_ROWS} different wines to measure on"
    return names.split(", ")


def test_one_who_is_always_right_has_every_measure_at_its_best(right: Report) -> None:
    for measures in (right.measures, *right.by_type.values()):
        assert {name: measure.value for name, measure in measures.items()} == {"accuracy": 1, "accuracy_within_1": 1, "mad": 0, "r2": 1, "log_loss": 0}
        assert {measure.spread for measure in measures.values()} == {0}


def test_one_who_is_a_point_off_is_within_one_and_not_right(rows: Split) -> None:
    measures = classification(knowing(rows.holdout, off=1), rows).measures
    assert (measures["accuracy"].value, measures["accuracy_within_1"].value, measures["mad"].value) == (0, 1, 1)
    assert measures["log_loss"].value == pytest.approx(9.2103, abs=1e-4)  # -log of a ten-thousandth, not infinite


def test_one_who_is_unsure_is_held_to_the_expected_score(rows: Split) -> None:
    def unsure(wines: Wines) -> Floats:
        return 0.6 * np.eye(11)[wines.quality] + 0.4 * np.eye(11)[wines.quality + 1]

    measures = classification(unsure, rows).measures
    assert measures["accuracy"].value == 1
    assert measures["mad"].value == pytest.approx(0.4)
    assert measures["log_loss"].value == pytest.approx(-np.log(0.6))


def test_a_score_that_rounds_to_the_next_one_is_within_one(rows: Split) -> None:
    def far(wines: Wines) -> Floats:
        return 0.6 * np.eye(11)[wines.quality] + 0.4 * np.eye(11)[wines.quality - 3]  # 1.2 too low

    measures = classification(far, rows).measures
    assert (measures["accuracy"].value, measures["accuracy_within_1"].value) == (0, 1)
    assert measures["mad"].value == pytest.approx(1.2)


def test_one_who_always_says_the_most_frequent_score_is_at_the_floor(rows: Split) -> None:
    report = classification(always(6), rows)
    assert np.bincount(rows.train.quality).argmax() == 6
    for name in ("accuracy", "accuracy_within_1", "mad"):
        assert report.measures[name].value == report.measures[name].floor
    accuracy = report.measures["accuracy"].floor
    assert accuracy == np.mean(once(rows.holdout).quality == 6)


def test_one_who_says_how_often_each_score_occurs_is_at_the_floor_of_the_rest(rows: Split) -> None:
    share = np.bincount(rows.train.quality, minlength=11) / len(rows.train)
    report = classification(lambda wines: np.tile(share, (len(wines), 1)), rows)
    for name in ("r2", "log_loss"):
        assert report.measures[name].value == pytest.approx(report.measures[name].floor)


def test_the_floor_of_a_type_knows_the_most_frequent_score_of_that_type(rows: Split) -> None:
    report = classification(always(5), rows)
    assert np.bincount(rows.train.quality[rows.train.red]).argmax() == 5
    assert report.by_type["red"]["accuracy"].value == report.by_type["red"]["accuracy"].floor
    assert report.by_type["white"]["accuracy"].value != report.by_type["white"]["accuracy"].floor


def test_each_type_is_measured_by_itself(rows: Split) -> None:
    def right_about_reds(wines: Wines) -> Floats:
        return np.eye(11)[np.where(wines.red, wines.quality, 0)]

    report = classification(right_about_reds, rows)
    assert set(report.by_type) == {"white", "red"}
    assert (report.by_type["red"]["accuracy"].value, report.by_type["white"]["accuracy"].value) == (1, 0)
    assert report.measures["accuracy"].value == np.mean(once(rows.holdout).red)


def test_each_quality_is_measured_by_itself_where_there_are_enough_of_it(rows: Split) -> None:
    report = classification(always(6), rows)
    assert {quality: measures["accuracy"].value for quality, measures in report.by_quality.items()} == {5: 0, 6: 1, 7: 0}
    assert "r2" not in report.by_quality[6]  # nothing varies there
    assert left_out(report) == ["quality 3", "quality 4", "quality 8", "quality 9"]


def test_the_spread_is_what_other_wines_would_have_said(rows: Split) -> None:
    report = classification(always(6), rows)
    share, wines = report.measures["accuracy"].value, report.rows
    assert report.measures["accuracy"].spread == pytest.approx(np.sqrt(share * (1 - share) / wines), rel=0.2)


def test_boosted_trees_stand_beside_it_and_above_the_floor(rows: Split) -> None:
    report = classification(always(6), rows)
    assert set(report.findings) == {"boosted trees", "boosted trees, red", "boosted trees, white"}
    assert all(set(figures) == NAMES for figures in report.findings.values())
    trees, floor = report.findings["boosted trees"], {name: measure.floor for name, measure in report.measures.items()}
    assert floor["r2"] is not None
    assert trees["r2"] > floor["r2"] + 0.1
    assert floor["log_loss"] is not None
    assert trees["log_loss"] < floor["log_loss"]


def test_boosted_trees_never_saw_the_wines_that_they_rate(rows: Split) -> None:
    scores = np.random.default_rng(0).permutation(rows.holdout.quality)
    unpredictable = Split(rows.train, replace(rows.holdout, quality=scores))
    assert classification(always(6), unpredictable).findings["boosted trees"]["r2"] < 0.05


def test_a_wine_that_repeats_counts_once(rows: Split) -> None:
    twice = Split(rows.train, concatenate([rows.holdout, rows.holdout.take(rows.holdout.quality == 5)]))
    assert classification(always(6), twice) == classification(always(6), rows)


def test_without_holdout_it_is_measured_on_its_training_wines_without_trees(rows: Split) -> None:
    report = classification(always(6), Split(rows.train, rows.holdout.take(slice(0))))
    assert report.in_sample
    assert report.rows == len(once(rows.train))
    assert report.notes[:2] == [
        "no row was held out: measured on the training rows themselves, so it flatters the model",
        "no boosted trees beside it, which would know these wines by heart",
    ]
    assert report.measures["accuracy"].value == report.measures["accuracy"].floor
    assert report.findings == {}


@pytest.mark.parametrize(("keep", "named"), [(0, True), (MIN_ROWS - 1, True), (MIN_ROWS, False)])
def test_a_type_of_which_too_few_were_held_out_is_named(rows: Split, keep: int, named: bool) -> None:
    wines = once(rows.holdout)
    fewer = Split(rows.train, concatenate([wines.take(~wines.red), wines.take(wines.red).take(slice(keep))]))
    report = classification(always(6), fewer)
    assert set(report.by_type) == ({"white"} if named else {"white", "red"})
    assert ("red" in left_out(report)) == named
    assert ("boosted trees, red" in report.findings) != named


def test_a_type_that_training_never_had_is_not_missed(rows: Split) -> None:
    report = classification(always(6), Split(rows.train.take(~rows.train.red), rows.holdout.take(~rows.holdout.red)))
    assert set(report.by_type) == {"white"}
    assert "red" not in left_out(report)


def test_of_too_few_wines_nothing_is_measured(rows: Split) -> None:
    report = classification(always(6), Split(rows.train, once(rows.holdout).take(slice(MIN_ROWS - 1))))
    assert (report.measures, report.by_type, report.findings) == ({}, {}, {})
    assert report.notes == [f"fewer than {MIN_ROWS} different wines to measure on: nothing was measured"]


def test_where_all_wines_have_one_score_nothing_is_measured(rows: Split) -> None:
    fives = Split(*(wines.take(wines.quality == 5) for wines in (rows.train, rows.holdout)))
    report = classification(always(5), fives)
    assert report.measures == {}
    assert report.notes == ["all training wines have one score: there is nothing to tell, and nothing was measured"]


def test_where_two_scores_were_learned_and_one_held_out_there_is_no_r2(rows: Split) -> None:
    two = Split(rows.train.take(rows.train.quality < 7), rows.holdout.take(rows.holdout.quality == 5))
    report = classification(always(5), two)
    assert set(report.measures) == NAMES - {"r2"}
    assert report.measures["accuracy"].value == 1


def test_progress_rises_to_the_whole(rows: Split) -> None:
    shares: list[float] = []
    classification(always(6), rows, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_steps_of_a_classifier_trained_alone_get_ever_smaller(few_wines: Wines) -> None:
    params, run = ClassifierParams(channels=4, blocks=1, hidden=16, batch=32, classifier_steps=60), Kept()
    classifier.train(TrainingSet(few_wines, codec.fit(few_wines), CPU), params, run)
    weights = [load(state)["net.classifier.trunk.dense.weight"] for state in run.states]
    first, last = (float((weights[at] - weights[at - 1]).abs().max()) for at in (1, -1))
    assert first > params.classifier_lr / 2
    assert last < params.classifier_lr / 500


def test_a_method_that_leaves_neither_wines_nor_a_classifier_is_not_measured(few_wines: Wines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abstinence.py").write_text(
        "from worker.training import Trained\n\ndef train(data, params, run):\n    return Trained(findings={'poured': {'wines': 0}})\n"
    )
    monkeypatch.setattr(worker.methods, "__path__", [*worker.methods.__path__, str(tmp_path)])
    monkeypatch.setitem(METHODS, "abstinence", Params)

    report = unpack(work(assignment(few_wines, method="abstinence"), Silent())).manifest.report

    assert report.measures == {}
    assert report.notes == ["method 'abstinence' neither generates wines nor rates them: nothing was measured"]
    assert report.findings == {"poured": {"wines": 0}}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_measures_of_any_classifier_keep_their_order_and_stay_finite(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(MIN_ROWS, 200))
    wines = Wines(random.integers(1, 100, (n, 11)).astype(np.int32), random.integers(0, 11, n), random.random(n) < 0.5)
    p = random.dirichlet(np.full(11, 0.1), n)
    report = classification(lambda asked: p[: len(asked)], Split(wines, wines.take(slice(0))))
    for measures in (report.measures, *report.by_type.values(), *report.by_quality.values()):
        assert all(value is not None and np.isfinite(value) for m in measures.values() for value in (m.value, m.spread, m.floor))
        assert 0 <= measures["accuracy"].value <= measures["accuracy_within_1"].value <= 1
        assert measures["mad"].value >= (1 - measures["accuracy"].value) / 2 - 1e-9
