"""Training does what its report and lineage say, and an interruption never shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu, scaled_dot_product_attention

import app
import worker.methods
from app import codec, params
from app.bundle import CLASSIFIER, CLASSIFIER_WEIGHTS, CRITIC, DCR, DISCRIMINATOR, GENERATOR, POOL, Bundle, Manifest, digest, unpack
from app.inference import session
from app.noise import draw
from app.params import HEADS, GanParams, Params
from app.sampler import BLOCK, Condition, Sampler
from app.split import split
from app.wine import TYPES, Floats, Wines, concatenate
from tests.conftest import Silent, assignment, csv_of, tiny_params
from worker.assignment import Assignment
from worker.checkpoint import weights
from worker.evaluate.between import once
from worker.methods import classifier as classifier_method
from worker.methods import find, gan
from worker.monitor import Monitor
from worker.nets import RUN, SLOPE, TOKENS, Attention, AttentiveTrunk, Blend, Discriminator, Generator, Trunk
from worker.pipeline import work
from worker.training import Metrics, Trained, TrainingRefused, TrainingSet

LOSSES = ("r3gan", "ns", "wgan-gp")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Finished:
    """A job that went through: what was asked, what came out, and what its watcher heard."""

    assignment: Assignment
    bundle: bytes
    watcher: Silent


def finish(job: Assignment) -> Finished:
    """The job, worked off."""
    watcher = Silent()
    return Finished(job, work(job, watcher), watcher)


@pytest.fixture(scope="module")
def classifier(few_wines: Wines) -> Finished:
    """A classifier, checkpointed whenever it could be."""
    return finish(assignment(few_wines, method="classifier", classifier_steps=60, checkpoint_interval_s=0))


@pytest.fixture(scope="module")
def fewest(few_wines: Wines) -> Wines:
    """Forty of each type: where none is held out half of all is measured against the other, which is enough for that, and too few for detectives."""
    return few_wines.take(np.concatenate([np.flatnonzero(few_wines.red == red)[:40] for red in (False, True)]))


@pytest.fixture(scope="module")
def adopted(fewest: Wines, classifier: Finished) -> Finished:
    """A GAN without holdout that started from that classifier, checkpointed whenever it could be."""
    job = assignment(fewest, steps=60, holdout=0, checkpoint_interval_s=0, blend=2, discriminators=2)
    given = unpack(classifier.bundle).parts[CLASSIFIER_WEIGHTS]
    return finish(replace(job, classifier=given, classifier_model="cellar-door", job_id="job-1", warnings=["synthetic"]))


@dataclass
class Recorder:
    """A run that keeps every metric and every state."""

    seed: int = 0
    resume: bytes | None = None
    classifier: bytes | None = None
    device: torch.device = CPU
    shares: list[float] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)
    states: list[bytes] = field(default_factory=list)

    def tick(self, step: int, steps: int, *, metrics: Callable[[], Metrics], state: Callable[[], bytes] | None) -> None:
        self.shares.append(step / steps)
        self.metrics.append(metrics())
        if state is not None:
            self.states.append(state())


def train(rows: TrainingSet, run: Recorder, **given: object) -> Trained:
    """A tiny GAN of sixty steps."""
    return gan.train(rows, GanParams.model_validate(tiny_params("gan") | {"steps": 60} | given), run)


def nets(trained: Trained) -> list[nn.Module]:
    """The three networks of a GAN."""
    found = trained.nets()
    assert len(found) == 3
    return found


def weights_of(trained: Trained) -> list[bytes]:
    """Their weights, byte for byte."""
    return [weights(net) for net in nets(trained)]


@pytest.mark.parametrize("job", ["classifier", "adopted"])
def test_a_resumed_job_ends_in_the_bundle_of_an_uninterrupted_one(request: pytest.FixtureRequest, job: str) -> None:
    whole: Finished = request.getfixturevalue(job)
    resumed = unpack(work(replace(whole.assignment, checkpoint=whole.watcher.states[1]), Silent()))
    assert resumed.parts == unpack(whole.bundle).parts
    assert _timeless(resumed.manifest) == _timeless(unpack(whole.bundle).manifest)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("state", [0, 30, 58])
def test_a_gan_resumed_from_any_checkpoint_has_the_weights_of_an_uninterrupted_one(rows: TrainingSet, loss: str, state: int) -> None:
    run = Recorder()
    whole = train(rows, run, loss=loss, discriminators=2)
    resumed = train(rows, Recorder(resume=run.states[state]), loss=loss, discriminators=2)
    assert weights_of(resumed) == weights_of(whole)


class Unwatched(Recorder):
    """A run that nobody asks how it goes."""

    def tick(self, step: int, steps: int, *, metrics: Callable[[], Metrics], state: Callable[[], bytes] | None) -> None:
        pass


def test_a_gan_that_is_looked_at_ends_in_the_weights_of_one_that_is_not(rows: TrainingSet) -> None:
    assert weights_of(train(rows, Recorder())) == weights_of(train(rows, Unwatched()))


def test_how_near_the_rows_of_a_gan_are_is_told_while_it_learns(rows: TrainingSet) -> None:
    run = Recorder()
    train(rows, run, blend=2)
    game = run.metrics[-60:]
    assert all(0 < metrics["spearman_gap"] < 1 for metrics in game)
    assert not any("spearman_gap" in metrics for metrics in run.metrics[:-60])


class Poured(nn.Module):
    """A generator that gives what it is told to, and counts how often it is asked."""

    latent = 16

    def __init__(self, fields: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.read, self.fields, self.asked = torch.zeros(1), fields, 0

    def forward(self, latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.fields(latent[:, : len(codec.FIELDS)])


def looking(rows: TrainingSet, *generators: Poured) -> Monitor:
    return Monitor(rows, cast(list[Generator], list(generators)))


def test_a_look_tells_columns_that_have_nothing_to_do_with_each_other_from_better_ones(rows: TrainingSet) -> None:
    correlations = torch.from_numpy(np.corrcoef(rows.codec.scores(rows.wines).T)).float()
    factor = torch.linalg.cholesky(correlations)
    independent = looking(rows, Poured(lambda z: z)).look()["spearman_gap"]
    together = looking(rows, Poured(lambda z: z @ factor.T)).look()["spearman_gap"]
    assert together < independent / 2


def test_looks_cost_a_hundredth_of_the_training_whoever_asks(rows: TrainingSet) -> None:
    generator = Poured(lambda z: z)
    monitor = looking(rows, generator)
    assert len({monitor.look()["spearman_gap"] for _ in range(100)}) == 1  # what was seen last, while another look is too dear
    assert generator.asked == 1


def test_numbers_that_are_not_finite_have_no_gap(rows: TrainingSet) -> None:
    assert looking(rows, Poured(lambda z: z / 0), Poured(lambda z: z)).look() == {}


def test_a_checkpoint_may_be_taken_after_every_step_of_what_is_not_done_again(rows: TrainingSet) -> None:
    run = Recorder()
    train(rows, run, classifier_steps=40, blend=2, discriminators=2)
    assert len(run.metrics) == 225  # 40 steps of each discriminator's classifier, 5 of the autoencoder, 60 of both games
    assert len(run.states) == 60


def test_a_checkpoint_of_other_networks_is_not_used_and_the_job_is_done_anew(few_wines: Wines, caplog: pytest.LogCaptureFixture) -> None:
    job = assignment(few_wines, method="classifier", checkpoint_interval_s=0)
    other = Silent()
    work(replace(job, params=job.params | {"hidden": 8}), other)

    watcher = Silent()
    resumed = work(replace(job, checkpoint=other.states[-1]), watcher)

    assert unpack(resumed).parts == unpack(work(job, Silent())).parts
    assert "starting anew: the checkpoint does not fit what is trained here" in caplog.text
    assert [line[:13] for line in watcher.lines] == ["starting anew"]


def test_another_seed_gives_other_weights(rows: TrainingSet) -> None:
    assert weights_of(train(rows, Recorder(seed=1))) != weights_of(train(rows, Recorder(seed=2)))


@pytest.mark.parametrize("other", [1 + 2**32, 2**63 - 1])
def test_a_seed_counts_in_all_of_its_bits(rows: TrainingSet, other: int) -> None:
    assert weights_of(train(rows, Recorder(seed=1), steps=1)) != weights_of(train(rows, Recorder(seed=other), steps=1))


def test_of_the_networks_of_a_blend_no_two_start_alike() -> None:
    params = GanParams.model_validate(tiny_params("gan") | {"blend": 4, "discriminators": 4})
    classifiers = [classifier_method.build(params, Recorder(), nth=nth) for nth in range(16)]
    built = [gan._build(nth, classifiers[nth::4], params, Recorder()) for nth in range(4)]
    heads = [weights(discriminator) for _, discriminators in built for discriminator in discriminators]
    assert [len({weights(net) for net in nets}) for nets in (classifiers, [generator for generator, _ in built])] == [16, 4]
    assert len(set(heads)) == 16


@pytest.mark.parametrize("job", ["classifier", "adopted"])
def test_the_last_step_is_always_checkpointed_and_what_goes_on_from_there_ends_in_the_same_bundle(
    request: pytest.FixtureRequest, fewest: Wines, job: str
) -> None:
    whole: Finished = request.getfixturevalue(job)
    rarely, watcher = replace(whole.assignment, checkpoint_interval_s=3600.0), Silent()
    work(rarely, watcher)
    [last] = watcher.states
    assert last == whole.watcher.states[-1]
    assert unpack(work(replace(rarely, checkpoint=last), Silent())).parts == unpack(whole.bundle).parts


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_all_networks_to_finite_weights(rows: TrainingSet, loss: str) -> None:
    run = Recorder()
    trained = train(rows, run, loss=loss, discriminators=2)
    assert len(run.metrics) == 75  # 5 steps of each discriminator's classifier, 5 of the autoencoder, 60 of the game
    assert all(math.isfinite(value) for metrics in run.metrics for value in metrics.values())
    assert all(bool(torch.isfinite(weight).all()) for net in nets(trained) for weight in net.state_dict().values())


def test_the_losses_are_three_different_games(rows: TrainingSet) -> None:
    assert len({weights_of(train(rows, Recorder(), loss=loss))[1] for loss in LOSSES}) == 3


@pytest.mark.parametrize(("blend", "discriminators"), [(1, 1), (1, 3), (2, 2)])
def test_each_discriminator_starts_from_the_trunk_of_a_classifier_of_its_own(rows: TrainingSet, blend: int, discriminators: int) -> None:
    trained = train(rows, Recorder(), steps=1, lr=1e-12, classifier_steps=40, blend=blend, discriminators=discriminators)
    assert trained.classifier is not None
    assert trained.discriminator is not None
    trunks = [cast(Discriminator, member).trunk.state_dict() for member in trained.discriminator.members]
    assert len(trunks) == blend * discriminators
    for name, weight in trained.classifier.trunk.state_dict().items():
        torch.testing.assert_close(trunks[0][name], weight, atol=1e-9, rtol=0)
    for one, other in combinations(trunks, 2):
        assert not any(torch.equal(one[name], other[name]) for name in one.keys() & other.keys())  # the other kind of trunk has other blocks


@pytest.mark.parametrize(
    ("blend", "discriminators", "attention", "kinds"),
    [(1, 3, True, [Trunk, AttentiveTrunk, Trunk]), (2, 2, True, [Trunk, AttentiveTrunk] * 2), (1, 1, True, [Trunk]), (1, 2, False, [Trunk, Trunk])],
)
def test_every_second_discriminator_of_a_game_attends(rows: TrainingSet, blend: int, discriminators: int, attention: bool, kinds: list[type[Trunk]]) -> None:
    trained = train(rows, Recorder(), steps=1, blend=blend, discriminators=discriminators, attention=attention)
    assert trained.discriminator is not None
    assert [type(cast(Discriminator, member).trunk) for member in trained.discriminator.members] == kinds
    assert trained.classifier is not None
    assert type(trained.classifier.trunk) is Trunk


@pytest.mark.parametrize("n", [5, 16])  # which makes tokens that are no multiple of worker.nets.IMAGES, and that are: two ways to the same products
def test_attention_is_what_torch_calls_so(n: int) -> None:
    attention, places = Attention(8), torch.randn(n, TOKENS, 8, generator=torch.Generator().manual_seed(0))
    looked = attention.look(leaky_relu(places.flatten(0, 1), SLOPE)).unflatten(0, (n, TOKENS))
    asked, found, told = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in looked.chunk(3, dim=2))
    heard = places + attention.tell(scaled_dot_product_attention(asked, found, told).transpose(1, 2).reshape(n * TOKENS, 8)).unflatten(0, (n, TOKENS))
    expected = heard + attention.narrow(leaky_relu(attention.widen(leaky_relu(heard, SLOPE).flatten(0, 1)), SLOPE)).unflatten(0, (n, TOKENS))
    torch.testing.assert_close(attention(places.transpose(1, 2)), expected.transpose(1, 2))


def test_attention_survives_scores_that_an_exponential_does_not() -> None:
    attention, tokens = Attention(8), torch.randn(5, 8, TOKENS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        attention.look.weight.mul_(1e4)
    told = attention(tokens)
    (slope,) = torch.autograd.grad(told.sum(), tokens)
    assert bool(told.isfinite().all())
    assert bool(slope.isfinite().all())


def test_several_discriminators_answer_with_their_mean(rows: TrainingSet) -> None:
    panel = train(rows, Recorder(), blend=1, discriminators=3).discriminator
    assert panel is not None
    batch = rows.batch(8, torch.Generator().manual_seed(0))
    logits = [member(batch.fields, batch.condition) for member in panel.members]
    torch.testing.assert_close(panel(batch.fields, batch.condition), (logits[0] + logits[1] + logits[2]) / 3)


def check_turns(rows: TrainingSet, blend: Blend, order: list[int]) -> None:
    """Every run of rows is poured by whose turn it is, and by no other."""
    n = 2 * len(order) * RUN
    batch, latent = rows.batch(n, torch.Generator().manual_seed(0)), torch.randn(n, blend.latent, generator=torch.Generator().manual_seed(1))
    poured = blend(latent, batch.condition)
    for turn in range(2 * len(order)):
        run = slice(turn * RUN, (turn + 1) * RUN)
        for nth, (generator, latents) in enumerate(zip(blend.generators, blend.latents, strict=True)):
            own = generator(latent[run, :latents], batch.condition[run])
            assert torch.allclose(poured[run], own, atol=1e-5) == (nth == order[turn % len(order)])


def test_the_generators_of_a_blend_pour_in_turn(rows: TrainingSet) -> None:
    blend = train(rows, Recorder(), blend=4, autoencoder=False).source
    assert isinstance(blend, Blend)
    check_turns(rows, blend, [0, 1, 2, 3])


def test_the_autoencoder_beside_them_pours_every_other_run(rows: TrainingSet) -> None:
    blend = train(rows, Recorder(), blend=2).source
    assert isinstance(blend, Blend)
    check_turns(rows, blend, [0, 2, 1, 2])
    assert BLOCK % blend.turns == 0


@pytest.mark.parametrize("blend", [1, 2, 4, 8])
@pytest.mark.parametrize("autoencoder", [True, False])
def test_a_block_is_whole_turns_of_every_blend(blend: int, autoencoder: bool) -> None:
    assert BLOCK % (RUN * blend * (gan.GAN_TURNS + 1 if autoencoder else 1)) == 0


def test_each_generator_of_a_blend_gets_even_rows() -> None:
    for seed in range(100):
        runs = draw(seed, 0, BLOCK, dims=32).latent.reshape(-1, 4, RUN, 32)
        assert np.abs(runs.mean((0, 2))).max() < 0.25  # with every fourth row instead of runs, .9


def test_a_named_classifier_is_taken_over_as_it_is(classifier: Finished, adopted: Finished) -> None:
    bundle = unpack(adopted.bundle)
    assert bundle.manifest.lineage.classifier_model == "cellar-door"
    assert bundle.parts[CLASSIFIER_WEIGHTS] == unpack(classifier.bundle).parts[CLASSIFIER_WEIGHTS]


def test_a_named_classifier_makes_another_discriminator_than_its_own_would(rows: TrainingSet, classifier: Finished) -> None:
    named = train(rows, Recorder(classifier=unpack(classifier.bundle).parts[CLASSIFIER_WEIGHTS]))
    own = train(rows, Recorder())
    assert weights_of(named)[0] != weights_of(own)[0]
    assert weights_of(named)[1] != weights_of(own)[1]


@pytest.mark.parametrize(("name", "size"), [("hidden", 8), ("channels", 8), ("blocks", 2)])
def test_a_classifier_of_another_shape_is_refused(few_wines: Wines, classifier: Finished, name: str, size: int) -> None:
    job = assignment(few_wines)
    job = replace(job, params=job.params | {name: size}, classifier=unpack(classifier.bundle).parts[CLASSIFIER_WEIGHTS])
    with pytest.raises(TrainingRefused, match="another shape than channels, blocks and hidden ask for"):
        work(job, Silent())


def test_without_holdout_the_report_is_in_sample_and_says_so(adopted: Finished) -> None:
    manifest = unpack(adopted.bundle).manifest
    assert manifest.report.in_sample
    assert manifest.report.notes[0] == "no row was held out: measured on the training rows themselves, so it flatters the model"
    assert manifest.calibrations["discriminator"].in_sample
    assert not manifest.calibrations["critic"].in_sample  # it holds out wines of its own
    assert (manifest.lineage.train_rows, manifest.lineage.holdout_rows) == (80, 0)
    assert {"spearman_gap", "coverage"} <= set(manifest.report.measures)


def test_with_a_holdout_the_report_is_about_rows_that_training_never_saw(tiny: Bundle) -> None:
    report, lineage = tiny.manifest.report, tiny.manifest.lineage
    assert not report.in_sample
    assert not any("no row was held out" in note for note in report.notes)
    assert report.rows <= lineage.holdout_rows
    assert lineage.train_rows + lineage.holdout_rows == 240
    assert abs(lineage.holdout_rows - 48) <= 8


def test_a_measure_stands_between_a_floor_and_a_ceiling(tiny: Bundle) -> None:
    measure = tiny.manifest.report.measures["spearman_gap"]
    assert measure.floor is not None
    assert measure.ceiling is not None
    assert measure.spread is not None
    assert measure.ceiling < measure.floor  # columns that were shuffled depend on nothing
    assert measure.ceiling < measure.value < 1
    assert 0 < measure.spread < 0.2


def test_a_classifier_is_measured_on_wines_that_it_never_saw(few_wines: Wines, classifier: Finished) -> None:
    manifest = unpack(classifier.bundle).manifest
    unseen = once(split(few_wines, holdout=0.2, seed=0).holdout)
    assert manifest.report.rows == len(unseen)
    p = np.exp(_logits_of(classifier, unseen))
    expected = (p / p.sum(1, keepdims=True)) @ np.arange(11)
    assert manifest.report.measures["mad"].value == pytest.approx(np.abs(expected - unseen.quality).mean(), abs=1e-4)
    assert set(manifest.report.by_type) == {"white"}  # fewer than 30 red ones were held out
    assert "boosted trees" in manifest.report.findings
    assert manifest.calibrations == {}


def test_no_part_tells_where_it_was_made(tiny: Bundle) -> None:
    for name, part in tiny.parts.items():
        told = _but_for_weights(part) if name.endswith(".onnx") else part
        assert b".py" not in told, name  # the exporter notes the source lines, with their paths, unless told not to


def _but_for_weights(graph: bytes) -> bytes:
    """What stands in a graph beside its weights: among a million of those any three bytes come by themselves."""
    model = onnx.load_model_from_string(graph)
    for weight in model.graph.initializer:
        weight.ClearField("raw_data")
    return bytes(model.SerializeToString())


def test_each_method_leaves_its_parts(tiny: Bundle, classifier: Finished) -> None:
    assert set(tiny.parts) == {GENERATOR, DISCRIMINATOR, CRITIC, CLASSIFIER, CLASSIFIER_WEIGHTS, DCR}
    assert set(unpack(classifier.bundle).parts) == {CLASSIFIER, CLASSIFIER_WEIGHTS}


@pytest.mark.parametrize("name", params.METHODS)
def test_each_method_that_the_api_knows_has_its_file(name: str) -> None:
    assert callable(find(name))


def test_a_name_that_is_no_method_is_none(few_wines: Wines) -> None:
    with pytest.raises(KeyError, match="found 'pipeline'"):
        find("pipeline")


def test_a_new_method_is_one_file_and_one_line(few_wines: Wines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.methods, "__path__", [*worker.methods.__path__, str(Path(__file__).parent / "methods")])  # the file
    monkeypatch.setitem(params.METHODS, "bootstrap", Params)  # the line

    bundle = unpack(work(assignment(few_wines, method="bootstrap"), Silent()))

    assert set(bundle.parts) == {POOL, CRITIC, DCR}
    assert bundle.manifest.pool == bundle.manifest.lineage.train_rows
    assert bundle.manifest.report.measures["exact_copies"].value == 1
    sampler = Sampler(bundle)
    assert sampler.odds(Condition(min_dcr=0.001)).passed == 0  # it pours training rows only
    wines = sampler.wines(Condition((5,), ("red",)), seed=1, offset=0, n=10)
    assert ((wines.quality == 5) & wines.red).all()


@pytest.mark.parametrize("job", ["classifier", "adopted"])
def test_progress_rises_from_nothing_and_stays_below_the_whole(request: pytest.FixtureRequest, job: str) -> None:
    shares = request.getfixturevalue(job).watcher.shares
    assert len(shares) >= 4
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1


def test_lineage_is_enough_to_train_the_model_again(fewest: Wines, adopted: Finished) -> None:
    lineage = unpack(adopted.bundle).manifest.lineage
    assert lineage.dataset_id == "test"
    assert lineage.dataset_sha256 == digest(csv_of(fewest))
    assert lineage.dataset_synthetic
    assert lineage.params == params.resolve("gan", tiny_params("gan") | {"steps": 60, "holdout": 0, "blend": 2, "discriminators": 2}).model_dump()
    assert lineage.seed == 0
    assert lineage.code_version == app.__version__
    assert lineage.torch_version == torch.__version__
    assert lineage.device.startswith("cpu")
    assert lineage.train_cpu_s > 0


def test_what_the_asker_was_warned_of_and_the_job_stay_with_the_model(adopted: Finished) -> None:
    lineage = unpack(adopted.bundle).manifest.lineage
    assert (lineage.warnings, lineage.job_id) == (["synthetic"], "job-1")


def test_the_labels_are_those_of_the_training_rows(fewest: Wines, adopted: Finished) -> None:
    expected = {name: Counter(fewest.quality[fewest.red == (name == "red")].tolist()) for name in TYPES}
    assert unpack(adopted.bundle).manifest.labels == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, so asking for one is fine")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(few_wines: Wines, device: str) -> None:
    with pytest.raises(TrainingRefused, match=f"CUVEE_DEVICE is {device}, but torch .* sees no GPU here; set it to auto or cpu"):
        work(replace(assignment(few_wines), device=device), Silent())


def test_too_few_wines_of_a_type_are_refused(few_wines: Wines) -> None:
    reds = few_wines.take(few_wines.red).take(slice(0, 5))
    few_reds = concatenate([few_wines.take(~few_wines.red), reds])
    with pytest.raises(TrainingRefused, match="expected no red wine or at least 20 to train on, found 5"):
        work(assignment(few_reds, holdout=0), Silent())


def _logits_of(classifier: Finished, wines: Wines) -> Floats:
    """What the exported classifier says of wines, (rows, 11)."""
    bundle = unpack(classifier.bundle)
    inputs = {"fields": codec.from_state(bundle.manifest.codec).scores(wines), "condition": codec.neutral_condition(wines.red)}
    return np.asarray(session(bundle.parts[CLASSIFIER]).run(None, inputs)[0], dtype=np.float64)


def _timeless(manifest: Manifest) -> Manifest:
    """The manifest without the seconds that anything took."""
    lineage = manifest.lineage.model_copy(update={"train_wall_s": 0, "train_cpu_s": 0})
    report = manifest.report.model_copy(update={"rows_per_cpu_s": None})
    return manifest.model_copy(update={"lineage": lineage, "report": report})
