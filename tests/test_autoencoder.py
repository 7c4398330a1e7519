"""The autoencoder: a real bottleneck, new wines from the space behind it, and an interruption that never shows."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.special import ndtr

from app import codec, jobs, params, registry
from app.bundle import CRITIC, DCR, DECODER, ENCODER, GENERATOR, Bundle, unpack
from app.codec import condition
from app.db import Database
from app.errors import InvalidInput
from app.inference import session
from app.jobs import Verdict
from app.noise import draw
from app.params import AutoencoderParams
from app.sampler import Condition, Sampler
from app.wine import FREE_SO2, MEASUREMENTS, TOTAL_SO2, Wines
from tests.conftest import Silent, assignment, csv_of, stored
from tests.test_methods import Finished, Recorder, Unwatched, finish
from worker.checkpoint import weights
from worker.evaluate.reconstruction import ERROR, OF_MEDIAN, reconstruction
from worker.export import decoder_graph, encoder_graph, generator_graph
from worker.methods import autoencoder
from worker.nets import Decoded, Encoder, Mixture
from worker.pipeline import work
from worker.training import Autoencoder, Trained, TrainingRefused, TrainingSet

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"channels": 4, "blocks": 1, "hidden": 16, "batch": 32, "steps": 60, "bottleneck": 3, "components": 4, "noise": 0.1}
KINDS = {"plain": False, "variational": True}


def train(rows: TrainingSet, run: Recorder, **given: object) -> Trained:
    return autoencoder.train(rows, AutoencoderParams.model_validate(SMALL | given), run)


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, rows: TrainingSet) -> Trained:
    """Each kind of autoencoder, with tiny nets."""
    return train(rows, Recorder(), variational=KINDS[request.param])


@pytest.fixture(scope="module")
def finished(few_wines: Wines) -> Finished:
    """A job that went all the way, checkpointed whenever it could be."""
    return finish(assignment(few_wines, method="autoencoder", checkpoint_interval_s=0, **SMALL))


@pytest.fixture(scope="module")
def bundle(finished: Finished) -> Bundle:
    """What came of it."""
    return unpack(finished.bundle)


def halves(trained: Trained) -> Autoencoder:
    assert trained.autoencoder is not None
    return trained.autoencoder


def source(trained: Trained) -> Decoded:
    assert isinstance(trained.source, Decoded)
    return trained.source


def labels(n: int, *, quality: int = 6, red: bool = False) -> Tensor:
    """The condition of ``n`` wines of one kind."""
    return torch.from_numpy(condition(np.full(n, quality), np.full(n, red)))


def noise(n: int, dims: int) -> Tensor:
    return torch.from_numpy(draw(1, 0, n, dims=dims).latent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [0, 30, 59])
def test_resumed_from_any_checkpoint_it_is_the_same_autoencoder(rows: TrainingSet, kind: str, state: int) -> None:
    run = Recorder()
    whole = train(rows, run, variational=KINDS[kind])
    resumed = train(rows, Recorder(resume=run.states[state]), variational=KINDS[kind])
    assert [weights(net) for net in resumed.nets()] == [weights(net) for net in whole.nets()]
    assert resumed.findings == whole.findings


def test_one_that_is_looked_at_ends_in_the_weights_of_one_that_is_not(rows: TrainingSet) -> None:
    looked_at, unwatched = (train(rows, run).nets() for run in (Recorder(), Unwatched()))
    assert [weights(net) for net in looked_at] == [weights(net) for net in unwatched]


def test_a_resumed_job_ends_in_the_parts_of_an_uninterrupted_one(finished: Finished, bundle: Bundle) -> None:
    assert unpack(work(replace(finished.assignment, checkpoint=finished.watcher.states[20]), Silent())).parts == bundle.parts


def test_another_seed_gives_another_autoencoder(rows: TrainingSet) -> None:
    assert weights(halves(train(rows, Recorder(seed=1))).encoder) != weights(halves(train(rows, Recorder(seed=2))).encoder)


def test_the_error_falls_while_it_learns(rows: TrainingSet) -> None:
    run = Recorder()
    train(rows, run, steps=300)
    errors = [metrics["squared_error"] for metrics in run.metrics]
    assert np.mean(errors[-20:]) < 0.8 * np.mean(errors[:20])


def test_only_the_variational_one_has_a_divergence(rows: TrainingSet) -> None:
    seen = {}
    for kind, variational in KINDS.items():
        run = Recorder()
        train(rows, run, variational=variational)
        seen[kind] = set(run.metrics[0])
    assert seen == {"plain": {"squared_error"}, "variational": {"squared_error", "divergence"}}


def test_the_more_the_divergence_weighs_the_smaller_it_ends(rows: TrainingSet) -> None:
    last = []
    for beta in (0.0, 5.0):
        run = Recorder()
        train(rows, run, variational=True, beta=beta, steps=200)
        last.append(run.metrics[-1]["divergence"])
    assert last[1] < 0.5 * last[0]


def test_a_training_that_diverged_is_refused(rows: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Encoder):
        def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
            return super().forward(fields, condition) * math.nan

    monkeypatch.setattr(autoencoder, "Encoder", Broken)
    with pytest.raises(TrainingRefused, match="diverged"):
        train(rows, Recorder(), steps=1)


@pytest.mark.parametrize("bottleneck", [1, 3, 10])
def test_a_wine_goes_through_so_few_numbers_and_no_other_way(rows: TrainingSet, bottleneck: int) -> None:
    auto = halves(train(rows, Recorder(), bottleneck=bottleneck))
    encoder, decoder, wines = auto.encoder.double(), auto.decoder.double(), rows.batch(16, torch.Generator().manual_seed(0))
    for fields, kind in zip(wines.fields.double(), wines.condition.double(), strict=True):
        through = partial(lambda kind, fields: decoder(encoder(fields[None], kind[None]), kind[None])[0], kind)
        jacobian = torch.func.jacrev(through)(fields)  # (11, 11)
        assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-9)) == bottleneck


def test_a_bottleneck_as_wide_as_a_wine_is_none_and_refused() -> None:
    with pytest.raises(InvalidInput, match="bottleneck: expected at most 10, found 11"):
        params.resolve("autoencoder", {"bottleneck": 11})


def test_networks_too_large_for_a_checkpoint_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 20000000 weights in all"):
        params.resolve("autoencoder", {"channels": 256, "hidden": 2048, "blocks": 8})


def test_a_wider_bottleneck_loses_less(rows: TrainingSet) -> None:
    def error(bottleneck: int) -> float:
        trained = train(rows, Recorder(), steps=400, hidden=64, bottleneck=bottleneck)  # of sixteen hidden units five and ten latents lose as much
        return float(np.mean(list(trained.findings["squared error of training wines"].values())))

    errors = [error(k) for k in (1, 5, 10)]
    assert errors == sorted(errors, reverse=True)


def test_encoded_training_wines_have_mean_0_and_spread_1_along_every_latent(rows: TrainingSet, trained: Trained) -> None:
    wines = rows.batch(20_000, torch.Generator().manual_seed(5))
    with torch.no_grad():
        latent = halves(trained).encoder(wines.fields, wines.condition)
    torch.testing.assert_close(latent.mean(0), torch.zeros(3), atol=0.1, rtol=0)
    torch.testing.assert_close(latent.std(0), torch.ones(3), atol=0.1, rtol=0)


def test_moving_the_latent_space_moves_no_reconstruction(rows: TrainingSet) -> None:
    auto = halves(train(rows, Recorder()))
    wines = rows.batch(64, torch.Generator().manual_seed(0))
    encoder, decoder = cast(Encoder, auto.encoder), auto.decoder
    with torch.no_grad():
        before = decoder(encoder(wines.fields, wines.condition), wines.condition)
        autoencoder._standardise(encoder, decoder, torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 4.0, 1.0]))  # type: ignore[arg-type]
        after = decoder(encoder(wines.fields, wines.condition), wines.condition)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_the_exported_graphs_compute_what_torch_computes(rows: TrainingSet, trained: Trained) -> None:
    auto, pouring = halves(trained), source(trained)
    wines = rows.batch(64, torch.Generator().manual_seed(0))
    latent = noise(64, pouring.latent)
    with torch.no_grad():
        encoded = auto.encoder(wines.fields, wines.condition)
        expected = [ndtr(pouring(latent, wines.condition)), encoded, ndtr(auto.decoder(encoded, wines.condition))]
    c = wines.condition.numpy()
    found = [
        session(generator_graph(pouring)).run(None, {"latent": latent.numpy(), "condition": c})[0],
        session(encoder_graph(auto.encoder)).run(None, {"fields": wines.fields.numpy(), "condition": c})[0],
        session(decoder_graph(auto.decoder, auto.latents)).run(None, {"latent": encoded.numpy(), "condition": c})[0],
    ]
    for theirs, ours in zip(found, expected, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=2e-5)


@pytest.mark.parametrize(("bottleneck", "components"), [(3, 16), (4, 16), (5, 32), (10, 32)])
def test_its_noise_comes_in_sixteens_as_rows_are_addressed(rows: TrainingSet, bottleneck: int, components: int) -> None:
    assert source(train(rows, Recorder(), steps=1, bottleneck=bottleneck)).latent == components


def mixture(weights: list[list[float]]) -> Mixture:
    """Two components a type at -1 and 1 (white), -10 and 10 (red), hardly any spread; ``weights`` of white's scores."""
    means = torch.tensor([[[-1.0], [1.0]], [[-10.0], [10.0]]])
    both = torch.stack([torch.tensor(weights), torch.full((7, 2), 0.5)])
    return Mixture(both, means, torch.zeros_like(means), torch.full((2, 2, 1, 1), 0.001))


@given(st.integers(3, 9), st.floats(0.05, 0.95))
def test_the_quality_decides_how_often_each_component_is_drawn(quality: int, share: float) -> None:
    table = [[0.5, 0.5]] * 7
    table[quality - 3] = [share, 1 - share]
    drawn = mixture(table)(noise(4096, 16)[:, :2], labels(4096, quality=quality))
    assert abs(float((drawn < 0).float().mean()) - share) < 0.01


def test_the_type_decides_which_mixture_is_drawn_from() -> None:
    drawn = mixture([[0.5, 0.5]] * 7)(noise(1024, 16)[:, :2], labels(1024, red=True))
    assert float(drawn.abs().min()) > 9


@pytest.mark.parametrize(("quality", "row"), [(0, 0), (3, 0), (4, 1), (8, 5), (9, 6), (10, 6)])
def test_scores_beyond_those_of_the_data_share_the_weights_of_the_last(quality: int, row: int) -> None:
    table = [[0.0, 1.0]] * 7
    table[row] = [1.0, 0.0]
    assert float(mixture(table)(noise(256, 16)[:, :2], labels(256, quality=quality)).max()) < 0


def test_a_component_has_the_covariance_of_its_factor() -> None:
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    one = Mixture(torch.ones(2, 7, 1), torch.zeros(2, 1, 2), torch.zeros(2, 1, 2), factor.expand(2, 1, 2, 2).clone())
    drawn = one(noise(2**14, 16)[:, :3], labels(2**14))
    torch.testing.assert_close(drawn.T.cov(), factor @ factor.T, atol=0.05, rtol=0)


def test_a_component_moves_with_the_quality_as_its_wines_do() -> None:
    random = np.random.default_rng(0)
    quality = random.normal(size=5000)
    around = random.normal(size=(5000, 2)) * [0.5, 2.0]
    wines = np.outer(quality, [1.0, -3.0]) + np.array([4.0, 0.0]) + around
    means, slopes, factors = autoencoder._along_quality(np.ones((5000, 1)), wines, quality, scale=1)
    np.testing.assert_allclose(means[0], [4, 0], atol=0.1)
    np.testing.assert_allclose(slopes[0], [1, -3], atol=0.1)
    np.testing.assert_allclose(factors[0] @ factors[0].T, np.diag([0.25, 4.0]), atol=0.2)

    line = Mixture(torch.ones(2, 7, 1), *(torch.from_numpy(array).float().expand(2, *array.shape).clone() for array in (means, slopes, 0 * factors)))
    worse, better = (line(noise(1, 16)[:, :3], labels(1, quality=quality))[0] for quality in (5, 7))
    torch.testing.assert_close(better - worse, torch.tensor([1.0, -3.0]) * 2 / 0.9, atol=0.2, rtol=0)  # a score is 1 / 0.9 standardised


def test_a_component_of_one_quality_stands_still() -> None:
    z = np.random.default_rng(0).normal(size=(100, 2))
    assert not autoencoder._along_quality(np.ones((100, 1)), z, np.zeros(100), scale=1)[1].any()


def test_a_component_of_few_wines_spreads_as_all_do_and_one_of_many_as_its_own() -> None:
    random = np.random.default_rng(0)
    many, few = random.normal(size=(20_000, 2)), random.normal(size=(5, 2)) * 0.1  # the few happen to lie close together
    shares = np.zeros((20_005, 2))
    shares[:20_000, 0] = shares[20_000:, 1] = 1
    _, _, factors = autoencoder._along_quality(shares, np.concatenate([many, few]), np.zeros(20_005), scale=1)
    np.testing.assert_allclose(factors[0] @ factors[0].T, np.eye(2), atol=0.05)
    np.testing.assert_allclose(factors[1] @ factors[1].T, 20 / 25 * np.eye(2), atol=0.05)
    _, _, factors = autoencoder._along_quality(shares, np.concatenate([many, few]), np.zeros(20_005), scale=1000)  # a row stands for a thousand wines
    assert np.trace(factors[1] @ factors[1].T) < 0.1


def test_a_component_without_wines_spoils_no_other() -> None:
    z = np.random.default_rng(0).normal(size=(100, 2))
    shares = np.column_stack([np.ones(100), np.zeros(100)])
    found = autoencoder._along_quality(shares, z, z[:, 0], scale=1)
    alone = autoencoder._along_quality(shares[:, :1], z, z[:, 0], scale=1)
    assert all(np.isfinite(array).all() for array in found)
    for both, one in zip(found, alone, strict=True):
        np.testing.assert_allclose(both[0], one[0])


def test_the_density_has_the_moments_of_the_encoded_wines(rows: TrainingSet) -> None:
    trained = train(rows, Recorder(), steps=200)
    wines = rows.batch(2**14, torch.Generator().manual_seed(3))
    with torch.no_grad():
        encoded = halves(trained).encoder(wines.fields, wines.condition)
        drawn = source(trained).density(noise(2**14, 16)[:, :4], wines.condition)
    for red in (False, True):
        own = (wines.condition[:, -1] > 0) == red
        torch.testing.assert_close(drawn[own].mean(0), encoded[own].mean(0), atol=0.1, rtol=0)
        torch.testing.assert_close(drawn[own].T.cov(), encoded[own].T.cov(), atol=0.15, rtol=0.1)


def test_a_variational_one_draws_the_standard_normal_that_it_was_pulled_to(rows: TrainingSet) -> None:
    drawn = {}
    for seed in (0, 1):
        density = source(train(rows, Recorder(seed=seed), variational=True)).density
        z = noise(2**14, 16)[:, :4]
        drawn[seed] = density(z, labels(2**14)), density(z, labels(2**14, quality=8, red=True))
    for white, red in drawn.values():
        torch.testing.assert_close(white, red)  # whatever is asked for
        own = (white - white.mean(0)) / white.std(0)
        torch.testing.assert_close(own.T.cov(), torch.eye(3), atol=0.05, rtol=0)


counts = st.lists(st.integers(0, 400), min_size=7, max_size=7)


@given(counts, st.integers(0, 2**32))
def test_weights_by_score_are_shares_and_a_score_of_many_wines_keeps_its_own(rows_of: list[int], seed: int) -> None:
    score = np.repeat(np.arange(7), rows_of)
    shares = np.random.default_rng(seed).dirichlet([0.3] * 4, len(score))
    if len(score) == 0:
        return
    found = autoencoder._by_score(shares, score, scale=1.0)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found >= 0).all()
    for s, n in enumerate(rows_of):
        if n:
            assert np.abs(found[s] - shares[score == s].mean(0)).max() <= autoencoder.NEIGHBOURS / (n + autoencoder.NEIGHBOURS) + 1e-9


def test_a_score_without_wines_has_the_weights_of_its_neighbours() -> None:
    score = np.array([0] * 50 + [5] * 50)
    shares = np.where(score[:, None] == 0, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    found = autoencoder._by_score(shares, score, scale=1.0)
    assert found[6, 1] > 0.99  # next to 5
    assert found[1, 0] > 0.99  # next to 0


def test_without_output_noise_the_same_latent_is_the_same_wine(rows: TrainingSet) -> None:
    pouring = source(train(rows, Recorder(), output_noise=0))
    one = noise(64, 16)
    other = torch.cat([one[:, :-11], one[:, -11:].flip(0)], dim=1)
    assert torch.equal(pouring(one, labels(64)), pouring(other, labels(64)))


def test_output_noise_has_the_covariance_of_what_reconstructions_miss(rows: TrainingSet) -> None:
    trained = train(rows, Recorder(), output_noise=1)
    auto, pouring = halves(trained), source(trained)
    wines = rows.batch(20_000, torch.Generator().manual_seed(5))
    with torch.no_grad():
        missed = wines.fields - auto.decoder(auto.encoder(wines.fields, wines.condition), wines.condition)
        z = noise(2**14, 16)
        quiet = torch.cat([z[:, :-11], torch.zeros(2**14, 11)], dim=1)
        added = pouring(z, labels(2**14)) - pouring(quiet, labels(2**14))
    own = missed[wines.condition[:, -1] < 0]
    torch.testing.assert_close(added.T.cov(), own.T @ own / len(own), atol=0.1, rtol=0.1)


def test_twice_the_output_noise_is_twice_as_far_off(rows: TrainingSet) -> None:
    z = noise(64, 16)
    none, once, twice = (source(train(rows, Recorder(), output_noise=share))(z, labels(64)) for share in (0, 1, 2))
    torch.testing.assert_close(twice - none, 2 * (once - none), atol=1e-5, rtol=1e-5)


def test_a_job_leaves_a_generator_an_encoder_a_decoder_and_a_critic(bundle: Bundle) -> None:
    assert set(bundle.parts) == {GENERATOR, ENCODER, DECODER, CRITIC, DCR}
    assert (bundle.manifest.latents, bundle.manifest.latent) == (3, 16)


@settings(max_examples=20)
@given(st.integers(0, 2**62), st.integers(0, 2**40), st.integers(1, 700))
def test_poured_wines_lie_on_known_values_with_free_within_total(bundle: Bundle, few_wines: Wines, seed: int, offset: int, n: int) -> None:
    wines = Sampler(bundle).wines(Condition(), seed=seed, offset=offset, n=n)
    assert len(wines) == n
    assert (wines.ticks[:, FREE_SO2] <= wines.ticks[:, TOTAL_SO2]).all()
    for j in range(len(MEASUREMENTS)):
        if j != TOTAL_SO2:  # the sum of two known values
            assert np.isin(wines.ticks[:, j], few_wines.ticks[:, j]).all()


def test_the_report_tells_what_the_bottleneck_loses_of_each_measurement(bundle: Bundle) -> None:
    findings = bundle.manifest.report.findings
    assert list(findings[ERROR]) == list(findings[OF_MEDIAN]) == [*MEASUREMENTS, "mean"]
    assert findings[ERROR]["mean"] == pytest.approx(np.mean([findings[ERROR][name] for name in MEASUREMENTS]))


def test_a_perfect_reconstruction_loses_nothing_and_the_median_loses_more_than_half_a_deviation(few_wines: Wines) -> None:
    found = reconstruction(few_wines, few_wines, lambda wines: wines)
    assert found[ERROR] == dict.fromkeys([*MEASUREMENTS, "mean"], 0.0)
    assert 0.5 < found[OF_MEDIAN]["mean"] < 1


def test_a_measurement_that_was_the_same_in_all_training_wines_is_counted_in_its_unit(few_wines: Wines) -> None:
    ticks = few_wines.ticks.copy()
    ticks[:, 0] = 749  # the standard deviation of 240 times 7.49 is some rounding, not 0
    same = replace(few_wines, ticks=ticks)
    assert same.measurements()[:, 0].std() > 0
    other = replace(same, ticks=ticks + np.eye(11, dtype=np.int32)[0] * 100)
    assert reconstruction(other, same, lambda wines: same)[ERROR]["fixed_acidity"] == pytest.approx(1.0)


def test_an_error_is_counted_in_standard_deviations_of_the_measurement(few_wines: Wines) -> None:
    def too_strong(wines: Wines) -> Wines:
        off = np.zeros_like(wines.ticks)
        off[:, MEASUREMENTS.index("alcohol")] = 100  # 1 % vol
        return replace(wines, ticks=wines.ticks + off)

    found = reconstruction(few_wines, few_wines, too_strong)[ERROR]
    alcohol = few_wines.measurements()[:, MEASUREMENTS.index("alcohol")]
    assert found["alcohol"] == pytest.approx(1 / alcohol.std())
    assert found["mean"] == pytest.approx(found["alcohol"] / 11)


def test_a_finished_autoencoder_gets_its_own_alias_and_the_champion_stays(sqlite_db: Database, few_wines: Wines) -> None:
    dataset = stored(sqlite_db, csv_of(few_wines))
    with sqlite_db.write() as tx:
        champion = registry.resolve(tx, "champion")
        jobs.enqueue(tx, jobs.Request(method="autoencoder", dataset_id=dataset.id, params=params.resolve("autoencoder", SMALL).model_dump(), seed=1))
    where = {"CUVEE_DATABASE_URL": sqlite_db.url.render_as_string(hide_password=False), "CUVEE_DEVICE": "cpu"}

    subprocess.run([sys.executable, "-m", "worker", "--drain"], env=os.environ | where, check=True, timeout=300)

    with sqlite_db.read() as tx:
        assert registry.get(tx, "autoencoder").method == "autoencoder"
        assert registry.get(tx, "autoencoder").verdict == Verdict(True, "promoted: there was no autoencoder to compare with")
        assert registry.resolve(tx, "champion") == champion


def test_it_learns_from_wines_of_one_type(few_wines: Wines) -> None:
    whites = few_wines.take(~few_wines.red)
    bundle = unpack(work(assignment(whites, method="autoencoder", **SMALL), Silent()))
    assert not Sampler(bundle).wines(Condition(), seed=1, offset=0, n=500).red.any()


def test_it_learns_without_a_holdout_and_reports_what_it_loses_of_training_wines(few_wines: Wines) -> None:
    bundle = unpack(work(assignment(few_wines.take(~few_wines.red).take(slice(0, 80)), method="autoencoder", holdout=0, **SMALL), Silent()))
    assert bundle.manifest.report.in_sample
    assert bundle.manifest.report.findings[ERROR]["mean"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_type_that_is_rare_has_a_density_of_its_own(starter_wines: Wines, seed: int) -> None:
    white, red = np.flatnonzero(~starter_wines.red), np.flatnonzero(starter_wines.red)
    mixed = starter_wines.take(np.concatenate([white, white, white, red[:20]]))
    rows = TrainingSet(mixed, codec.fit(mixed), CPU)
    source = train(rows, Recorder(seed=seed), steps=5).source
    assert isinstance(source, Decoded)
    assert bool(source.misses.isfinite().all())
    own, other = source.density.means[1], source.density.means[0]
    assert not torch.allclose(own[0], torch.zeros_like(own[0]))
    assert not torch.allclose(own[0], other[0])


def test_an_autoencoder_whose_wines_come_back_wild_is_refused(rows: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "DIVERGED", 1e-6)
    with pytest.raises(TrainingRefused, match=r"the training diverged: wines come back .* off .*; a lower lr is steadier, and a GAN does without"):
        train(rows, Recorder())
