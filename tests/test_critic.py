"""The critic: taught after the GAN, by rows that are no wines, without a look at the holdout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from app import codec
from app.bundle import CRITIC, GENERATOR, Bundle, unpack
from app.errors import BundleInvalid
from app.gate import GATE
from app.inference import session
from app.sampler import Condition, Sampler
from app.scorer import Scorer
from app.split import split
from app.wine import DENSITY, FREE_SO2, HIGH_TICKS, LOW_TICKS, TOTAL_SO2, TYPES, Floats, Wines, concatenate
from tests.conftest import Silent, assignment
from worker import critic, export
from worker.critic import Criticism
from worker.pipeline import work

Judge = Callable[[Wines], Floats]


@pytest.fixture(scope="module")
def model(starter_wines: Wines) -> Bundle:
    """A tiny GAN's bundle, trained on nearly a thousand wines, with no autoencoder beside it that knows better."""
    return unpack(work(assignment(starter_wines.take(slice(0, 1000)), autoencoder=False, holdout=0.06), Silent()))


@pytest.fixture(scope="module")
def scorer(model: Bundle) -> Scorer:
    """What it serves."""
    return Scorer(model)


@pytest.fixture(scope="module")
def unseen(starter_wines: Wines) -> Wines:
    """A thousand other wines."""
    return starter_wines.take(slice(5000, 6000))


def critic_of(wines: Wines, *, own: Wines, seed: int = 0) -> Criticism:
    """The critic of a model that was trained on ``wines`` and pours ``own``, round and round."""
    found = critic.train(wines, lambda n: own.take(np.arange(n) % len(own)), codec.fit(wines), seed=seed)
    assert found is not None
    return found


def p_real(scorer: Scorer, wines: Wines) -> Floats:
    """The critic's word on each."""
    said = scorer.score(wines).critic
    assert said is not None
    return said


def auc(scorer: Scorer, real: Wines, other: Wines) -> float:
    """How well the critic tells them apart."""
    return float(roc_auc_score(np.repeat([1, 0], [len(real), len(other)]), np.r_[p_real(scorer, real), p_real(scorer, other)]))


def test_the_report_of_a_job_has_all_that_the_gate_compares_and_a_word_on_both_judges(model: Bundle) -> None:
    report = model.manifest.report
    assert {measure.name for measure in GATE} <= set(report.measures)
    assert all(report.measures[measure.name].spread is not None for measure in GATE)
    assert set(report.judges) == {"discriminator", "critic"}


def test_what_detectives_find_out_stands_between_a_floor_and_a_ceiling(model: Bundle) -> None:
    measure = model.manifest.report.measures["c2st"]
    assert measure.floor is not None
    assert measure.ceiling is not None
    assert measure.spread is not None
    assert measure.ceiling < measure.floor  # shuffled columns are the easiest to tell from wine
    assert measure.ceiling < measure.value < 1
    assert 0 < measure.spread < 0.2


def test_wines_with_a_density_of_1_05_are_called_unreal(scorer: Scorer, unseen: Wines) -> None:
    ticks = unseen.ticks.copy()
    ticks[:, DENSITY] = 105_000
    assert p_real(scorer, Wines(ticks, unseen.quality, unseen.red)).max() < 0.05


def test_shuffled_columns_are_told_from_wines_that_the_critic_has_not_seen(scorer: Scorer, unseen: Wines) -> None:
    random = np.random.default_rng(1)
    rows = Wines(random.permuted(unseen.ticks, axis=0), random.permutation(unseen.quality), unseen.red)
    assert auc(scorer, unseen, rows) > 0.9


def test_the_rows_of_a_ten_step_generator_are_told_from_wines(scorer: Scorer, model: Bundle, unseen: Wines) -> None:
    own = Sampler(model).wines(Condition(), seed=7, offset=0, n=1000)
    assert auc(scorer, unseen, own) > 0.8


def test_wines_called_the_other_type_look_less_real(scorer: Scorer, unseen: Wines) -> None:
    assert auc(scorer, unseen, Wines(unseen.ticks, unseen.quality, ~unseen.red)) > 0.9


def test_p_real_of_unseen_wines_and_of_negatives_is_about_the_share_of_real_ones(scorer: Scorer, model: Bundle, unseen: Wines) -> None:
    random = np.random.default_rng(2)
    own = Sampler(model).wines(Condition(), seed=7, offset=0, n=len(unseen) // 3)
    tampered = critic._tampered(unseen.take(slice(0, 500)), spread=critic.spreads(unseen), random=random)
    shuffled = critic.shuffled_within_type(unseen.take(slice(0, 167)), random=random)
    said = np.r_[p_real(scorer, unseen), p_real(scorer, concatenate([own, tampered, shuffled]))]
    is_real = np.arange(len(said)) < len(unseen)
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.8), (0.8, 1.0)):
        part = (said >= low) & (said < high)
        assert abs(said[part].mean() - is_real[part].mean()) < 0.12


def test_the_percentiles_of_unseen_wines_are_spread_evenly(scorer: Scorer, unseen: Wines) -> None:
    percentile = scorer.score(unseen).percentile
    assert percentile is not None
    assert np.abs(np.quantile(percentile, [0.1, 0.25, 0.5, 0.75, 0.9]) - [0.1, 0.25, 0.5, 0.75, 0.9]).max() < 0.1


def test_a_wine_that_looks_more_real_has_no_lower_percentile(scorer: Scorer, unseen: Wines) -> None:
    scores = scorer.score(unseen)
    assert scores.critic is not None
    assert scores.percentile is not None
    assert (np.diff(scores.percentile[np.argsort(scores.critic)]) >= 0).all()


def test_batches_give_the_same_scores_as_single_rows_bit_for_bit(scorer: Scorer, unseen: Wines) -> None:
    rows = unseen.take(slice(0, 97))
    alone = np.concatenate([p_real(scorer, rows.take(slice(k, k + 1))) for k in range(len(rows))])
    assert [n for n in range(1, 98) if not np.array_equal(p_real(scorer, rows.take(slice(0, n))), alone[:n])] == []


@pytest.fixture(scope="module")
def pair(few_wines: Wines) -> tuple[Bundle, Bundle]:
    """A model with a holdout, and one of the same training rows to which the holdout never existed."""
    trained_on = split(few_wines, holdout=0.2, seed=0).train
    held, never_there = assignment(few_wines, holdout=0.2, autoencoder=False), assignment(trained_on, holdout=0.0, autoencoder=False)
    return unpack(work(held, Silent())), unpack(work(never_there, Silent()))


def test_the_critic_never_saw_the_holdout(pair: tuple[Bundle, Bundle]) -> None:
    held, never_there = pair
    assert held.parts[CRITIC] == never_there.parts[CRITIC]
    assert held.manifest.ranks == never_there.manifest.ranks
    assert held.manifest.calibrations["critic"] == never_there.manifest.calibrations["critic"]


def test_without_a_holdout_the_critic_is_still_calibrated_on_wines_that_it_has_not_seen(pair: tuple[Bundle, Bundle]) -> None:
    assert {name: c.in_sample for name, c in pair[1].manifest.calibrations.items()} == {"discriminator": True, "critic": False}


def test_the_same_seed_gives_the_same_bytes_and_another_others(few_wines: Wines) -> None:
    wines = few_wines.take(slice(0, 200))
    graphs = [export.critic_graph(critic_of(wines, own=wines, seed=seed).critic) for seed in (0, 0, 1)]
    assert graphs[0] == graphs[1] != graphs[2]


def test_the_graph_says_what_the_network_says(few_wines: Wines) -> None:
    net = critic_of(few_wines, own=few_wines).critic
    fields, condition = codec.fit(few_wines).scores(few_wines), codec.condition(few_wines.quality, few_wines.red)
    with torch.no_grad():
        expected = net(torch.from_numpy(fields), torch.from_numpy(condition)).numpy()
    (found,) = session(export.critic_graph(net)).run(None, {"fields": fields, "condition": condition})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_one_type_alone_is_enough(starter_wines: Wines, name: str) -> None:
    wines = starter_wines.take(np.flatnonzero(starter_wines.red == (name == "red"))[:400])
    known, unseen = wines.take(slice(0, 300)), wines.take(slice(300, 400))
    found, fitted = critic_of(known, own=known), codec.fit(known)
    ticks = unseen.ticks.copy()
    ticks[:, DENSITY] = 105_000
    odd = Wines(ticks, unseen.quality, unseen.red)
    with torch.no_grad():
        real, unreal = (found.critic(torch.from_numpy(fitted.scores(w)), torch.from_numpy(codec.condition(w.quality, w.red))) for w in (unseen, odd))
    assert float(unreal.median()) < -3 < 0 < float(real.median())


def test_fewer_than_forty_different_wines_get_no_critic(few_wines: Wines) -> None:
    few = few_wines.take(np.arange(300) % 39)
    assert critic.train(few, lambda n: few.take(np.arange(n) % len(few)), codec.fit(few), seed=0) is None


def test_forty_different_wines_get_one(few_wines: Wines) -> None:
    few = few_wines.take(slice(0, 40))
    assert len(critic_of(few, own=few).ranks) == 201


def test_a_holdout_of_a_single_wine_is_enough_to_go_through(starter_wines: Wines) -> None:
    alike = starter_wines.take(np.flatnonzero(~starter_wines.red & (starter_wines.quality == 6))[:200])
    manifest = unpack(work(assignment(alike, holdout=0.005, autoencoder=False), Silent())).manifest
    assert manifest.lineage.holdout_rows == 1


def test_a_model_of_too_few_wines_has_a_discriminator_that_scores_and_its_report_says_why(starter_wines: Wines) -> None:
    few = starter_wines.take(np.flatnonzero(~starter_wines.red)[:38])
    bundle = unpack(work(assignment(few, autoencoder=False), Silent()))
    scores = Scorer(bundle).score(few)
    assert (scores.critic, scores.percentile, CRITIC in bundle.parts) == (None, None, False)
    assert scores.discriminator is not None
    assert scores.p_real is scores.discriminator
    assert "fewer than 40 different wines to train on: the model has no critic" in bundle.manifest.report.notes


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_tampered_row_differs_in_three_columns_at_most_and_could_be_asked_about(few_wines: Wines, seed: int) -> None:
    rows = critic._tampered(few_wines, spread=critic.spreads(few_wines), random=np.random.default_rng(seed))
    changed = rows.ticks != few_wines.ticks
    changed[:, TOTAL_SO2] &= rows.ticks[:, TOTAL_SO2] != rows.ticks[:, FREE_SO2]  # raised to hold the free
    assert changed.sum(1).max() <= 3
    assert (rows.ticks >= LOW_TICKS).all()
    assert (rows.ticks <= HIGH_TICKS).all()
    assert (rows.ticks[:, FREE_SO2] <= rows.ticks[:, TOTAL_SO2]).all()
    assert np.array_equal(rows.quality, few_wines.quality)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_shuffled_columns_keep_each_type_s_values(few_wines: Wines, seed: int) -> None:
    rows = critic.shuffled_within_type(few_wines, random=np.random.default_rng(seed))
    kept = [j for j in range(11) if j != TOTAL_SO2]  # which is raised where it would not hold the free
    for red in (False, True):
        before, after = few_wines.ticks[few_wines.red == red][:, kept], rows.ticks[rows.red == red][:, kept]
        assert np.array_equal(np.sort(before, axis=0), np.sort(after, axis=0))


def changed(bundle: Bundle, *, part: bytes | None = None, **manifest: object) -> Bundle:
    """The bundle with another critic's graph or another manifest."""
    parts = dict(bundle.parts) | ({} if part is None else {CRITIC: part})
    return Bundle(bundle.id, bundle.sha256, bundle.manifest.model_copy(update=manifest), parts)


def test_a_critic_without_calibration_is_refused(model: Bundle) -> None:
    calibrations = {"discriminator": model.manifest.calibrations["discriminator"]}
    with pytest.raises(BundleInvalid, match=r"expected a calibration for critic\.onnx, found those of \['discriminator'\]"):
        Scorer(changed(model, calibrations=calibrations))


def test_a_critic_that_takes_other_columns_is_refused(model: Bundle) -> None:
    with pytest.raises(BundleInvalid, match=r"expected critic\.onnx to take the columns \{'fields': 11, 'condition': 8\}, found"):
        Scorer(changed(model, part=model.parts[GENERATOR]))


@pytest.mark.parametrize("ranks", [[], [0.5], [0.0, 1.0, 0.5]])
def test_a_critic_without_rising_ranks_is_refused(model: Bundle, ranks: list[float]) -> None:
    with pytest.raises(BundleInvalid, match="rising ranks"):
        Scorer(changed(model, ranks=ranks))
