"""Search keeps what the classifier was sure of, says what that took, and gives up in time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
import pytest
import torch

from app import codec, migrations, registry
from app.bundle import CLASSIFIER, CLASSIFIER_WEIGHTS, CRITIC, DCR, POOL, Bundle, unpack
from app.db import Database
from app.errors import InvalidInput
from app.inference import session
from app.params import ClassifierParams, SearchParams, resolve
from app.sampler import Condition, Sampler
from app.settings import Settings
from app.tables import read_csv
from app.wine import FREE_SO2, TOTAL_SO2, TYPES, Floats, Wines
from tests.conftest import Silent, assignment, serve
from tests.test_methods import Recorder
from worker import pool
from worker.checkpoint import weights
from worker.methods import classifier, search
from worker.pipeline import work
from worker.training import Findings, TrainingRefused, TrainingSet

SHAPE = {"channels": 4, "blocks": 1, "hidden": 32}
CONFIDENCE = 0.4
TRIES = 20_000


@dataclass
class Found:
    """What a search ended with, and its run."""

    pool: Wines
    findings: Findings
    run: Recorder = field(default_factory=Recorder)


@pytest.fixture(scope="module")
def taught(rows: TrainingSet) -> bytes:
    """A classifier that is sure of some qualities at times, and never of others."""
    net = classifier.train(rows, ClassifierParams.model_validate(SHAPE | {"batch": 32, "classifier_steps": 100}), Recorder()).classifier
    assert net is not None
    return weights(net)


def find(rows: TrainingSet, taught: bytes, *, seed: int = 0, resume: bytes | None = None, **given: object) -> Found:
    """A small search by that classifier."""
    run = Recorder(seed=seed, resume=resume, classifier=taught)
    params = SearchParams.model_validate(SHAPE | {"pool": 60, "tries": TRIES, "confidence": CONFIDENCE} | given)
    trained = search.train(rows, params, run)
    assert trained.pool is not None
    return Found(trained.pool, trained.findings, run)


@pytest.fixture(scope="module")
def uniform(rows: TrainingSet, taught: bytes) -> Found:
    return find(rows, taught)


@pytest.fixture(scope="module")
def marginals(rows: TrainingSet, taught: bytes) -> Found:
    return find(rows, taught, draw="marginals")


@pytest.fixture(params=["uniform", "marginals"])
def found(request: pytest.FixtureRequest) -> Found:
    either: Found = request.getfixturevalue(request.param)
    return either


@pytest.fixture(scope="module")
def finished(few_wines: Wines, taught: bytes) -> bytes:
    """The bundle of a job that searched by that classifier."""
    job = assignment(few_wines, method="search", hidden=32, holdout=0, tries=TRIES, confidence=CONFIDENCE)
    return work(replace(job, classifier=taught, classifier_model="cellar-door"), Silent())


@pytest.fixture(scope="module")
def bundle(finished: bytes) -> Bundle:
    return unpack(finished)


@pytest.fixture(scope="module")
def api(bundle: Bundle, finished: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The API with this one model."""
    folder = tmp_path_factory.mktemp("api")
    database = Database(f"sqlite:///{folder}/cuvee.db")
    migrations.upgrade(database)
    with database.write() as tx:
        registry.publish(tx, bundle, finished, job_id=None)
    database.close()
    with serve(Settings(database_url=f"sqlite:///{folder}/cuvee.db", download=False, cache_dir=folder / "cache")) as client:
        yield client


def confidence(bundle: Bundle, wines: Wines) -> Floats:
    """The probability of the quality that each wine goes by, as anyone would compute it who has the bundle alone."""
    fields = codec.from_state(bundle.manifest.codec).scores(wines)
    (logits,) = session(bundle.parts[CLASSIFIER]).run(None, {"fields": fields, "condition": codec.neutral_condition(wines.red)})
    p = torch.tensor(logits, dtype=torch.float64).softmax(1).numpy()
    return np.asarray(p[np.arange(len(wines)), wines.quality])


def missed(wines: Wines, found: Wines) -> int:
    """A quality of the wines that was not found."""
    return int(np.setdiff1d(wines.quality, found.quality)[0])


def test_the_classifier_of_the_bundle_is_sure_of_every_row_of_its_pool(bundle: Bundle) -> None:
    kept = read_csv(bundle.parts[POOL]).wines
    assert len(kept) >= 40
    assert confidence(bundle, kept).min() >= CONFIDENCE - 1e-5


def test_no_row_has_more_free_than_total_sulfur_dioxide(found: Found) -> None:
    assert (found.pool.ticks[:, FREE_SO2] <= found.pool.ticks[:, TOTAL_SO2]).all()


def test_uniform_points_lie_in_the_box_of_the_training_rows_of_their_type(uniform: Found, few_wines: Wines) -> None:
    for red in (False, True):
        known, points = few_wines.ticks[few_wines.red == red], uniform.pool.ticks[uniform.pool.red == red]
        assert len(points) > 0
        assert (points >= known.min(0)).all()
        assert (points <= known.max(0)).all()


def test_points_of_the_marginals_have_values_of_training_rows_of_their_type(marginals: Found, uniform: Found, few_wines: Wines) -> None:
    def known(wines: Wines) -> bool:
        columns = [(wines.ticks[wines.red == red].T, few_wines.ticks[few_wines.red == red].T) for red in (False, True)]
        return all(np.isin(found, training).all() for one, other in columns for found, training in zip(one, other, strict=True))

    assert known(marginals.pool)
    assert not known(uniform.pool)


def test_no_point_is_kept_twice_even_where_several_qualities_are_likely_enough(rows: TrainingSet, taught: bytes) -> None:
    kept = find(rows, taught, confidence=0.05).pool
    assert len(np.unique(kept.ticks, axis=0)) == len(kept)


def test_the_pool_has_as_many_of_each_label_as_it_wants_or_found(found: Found, few_wines: Wines) -> None:
    wanted = pool.by_label((quotas := pool.quotas(few_wines, 60)), quotas > 0)
    held = Counter(f"{TYPES[int(red)]} {quality}" for red, quality in zip(found.pool.red, found.pool.quality.tolist(), strict=True))
    assert found.findings["rows in pool"] == {label: held[label] for label in wanted}
    assert all(rows <= wanted[label] for label, rows in found.findings["rows in pool"].items())
    assert any(rows == wanted[label] for label, rows in found.findings["rows in pool"].items())


def test_a_quality_that_is_practically_never_hit_is_left_out_and_said_so(found: Found) -> None:
    missing = [label for label, rows in found.findings["rows in pool"].items() if rows == 0]
    assert missing
    assert [found.findings["acceptance"][label] for label in missing] == [0] * len(missing)
    assert all(found.findings["highest probability"][label] < CONFIDENCE for label in missing)
    assert not set(missing) & found.findings["cpu seconds per row"].keys()


def test_acceptance_is_the_share_of_candidates_that_were_hit(found: Found) -> None:
    for label, share in found.findings["acceptance"].items():
        candidates = found.findings["candidates"][label.split()[0]]
        assert share * candidates == pytest.approx(round(share * candidates))
        assert found.findings["rows in pool"][label] <= round(share * candidates)


def test_a_row_of_a_rarer_quality_costs_as_many_times_more(found: Found) -> None:
    acceptance, price = found.findings["acceptance"], found.findings["cpu seconds per row"]
    whites = [label for label in price if label.startswith("white")]
    assert len(whites) >= 2
    assert [acceptance[label] * price[label] for label in whites] == pytest.approx([acceptance[whites[0]] * price[whites[0]]] * len(whites))
    assert all(value > 0 for value in price.values())


def test_a_named_quality_that_is_practically_never_hit_is_refused(rows: TrainingSet, taught: bytes, uniform: Found) -> None:
    never = missed(rows.wines, uniform.pool)
    with pytest.raises(TrainingRefused) as refused:
        find(rows, taught, qualities=[5, never])
    assert str(refused.value).startswith(f"quality {never} is practically never hit: ")
    assert f"candidates were drawn (uniform), and none had it with a probability of at least {CONFIDENCE} (the highest was 0." in str(refused.value)
    assert str(refused.value).endswith("lower confidence, draw otherwise, raise tries, or leave the quality out")


def test_where_nothing_is_hit_it_gives_up_after_a_tenth_of_its_tries(rows: TrainingSet, taught: bytes) -> None:
    with pytest.raises(TrainingRefused, match="is practically never hit: 2000 white and 2000 red candidates were drawn"):
        find(rows, taught, confidence=0.999)


def test_no_more_candidates_are_drawn_than_it_may_try(rows: TrainingSet, taught: bytes) -> None:
    scarce = find(rows, taught, pool=100_000)
    assert scarce.findings["candidates"] == {"white": TRIES, "red": TRIES}


def test_only_named_qualities_are_searched_for(rows: TrainingSet, taught: bytes) -> None:
    assert set(find(rows, taught, qualities=[5]).pool.quality) == {5}


def test_a_quality_that_the_training_rows_do_not_hold_is_refused(rows: TrainingSet, taught: bytes) -> None:
    with pytest.raises(TrainingRefused, match=r"expected some of those that the training rows hold \(.*5, 6.*\), found 0, 10"):
        find(rows, taught, qualities=[10, 0, 5])


@pytest.mark.parametrize(
    ("name", "value"), [("qualities", []), ("qualities", [11]), ("confidence", 0), ("confidence", 1), ("tries", 10), ("pool", 0), ("draw", "all")]
)
def test_params_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=name):
        resolve("search", {name: value})


@pytest.mark.parametrize("draw", ["uniform", "marginals"])
@pytest.mark.parametrize("state", [0, 2, -1])
def test_a_resumed_search_finds_what_an_uninterrupted_one_finds(rows: TrainingSet, taught: bytes, draw: str, state: int) -> None:
    whole = find(rows, taught, draw=draw, pool=10_000)
    resumed = find(rows, taught, draw=draw, pool=10_000, resume=whole.run.states[state])
    assert np.array_equal(resumed.pool.ticks, whole.pool.ticks)
    assert np.array_equal(resumed.pool.quality, whole.pool.quality)
    for name in whole.findings.keys() - {"cpu seconds per row"}:
        assert resumed.findings[name] == whole.findings[name]


def test_a_search_resumed_without_a_named_classifier_has_that_of_its_checkpoint(rows: TrainingSet) -> None:
    params = SearchParams.model_validate(SHAPE | {"pool": 60, "tries": TRIES, "confidence": 0.1, "batch": 32, "classifier_steps": 20})
    run = Recorder()
    whole = search.train(rows, params, run)
    resumed = search.train(rows, params, Recorder(resume=run.states[0]))
    assert whole.pool is not None
    assert resumed.pool is not None
    assert np.array_equal(whole.pool.ticks, resumed.pool.ticks)


def test_another_seed_finds_other_points(rows: TrainingSet, taught: bytes, uniform: Found) -> None:
    other = find(rows, taught, seed=1).pool
    assert not np.isin(other.ticks, uniform.pool.ticks).all(1).any()


def test_what_a_watcher_sees_grows_and_is_finite(found: Found) -> None:
    candidates = [metrics["candidates"] for metrics in found.run.metrics]
    assert candidates == sorted(candidates)
    assert all(math.isfinite(value) for metrics in found.run.metrics for value in metrics.values())
    assert found.run.metrics[-1]["rows"] == len(found.pool)


def test_a_named_classifier_is_the_one_that_is_asked(bundle: Bundle, taught: bytes) -> None:
    assert bundle.parts[CLASSIFIER_WEIGHTS] == taught
    assert bundle.manifest.lineage.classifier_model == "cellar-door"


def test_it_leaves_a_pool_its_classifier_and_a_critic(bundle: Bundle) -> None:
    assert bundle.parts.keys() == {POOL, CLASSIFIER, CLASSIFIER_WEIGHTS, CRITIC, DCR}
    assert bundle.manifest.pool == len(read_csv(bundle.parts[POOL]).wines)


def test_a_job_ends_with_the_pool_that_its_method_found(bundle: Bundle, uniform: Found) -> None:
    assert np.array_equal(read_csv(bundle.parts[POOL]).wines.ticks, uniform.pool.ticks)


def test_the_sampler_pours_rows_of_the_pool(bundle: Bundle, uniform: Found) -> None:
    poured = Sampler(bundle).wines(Condition((5,), ("white",)), seed=1, offset=0, n=100)
    kept = {tuple(row) for row in uniform.pool.ticks[(uniform.pool.quality == 5) & ~uniform.pool.red].tolist()}
    assert {tuple(row) for row in poured.ticks.tolist()} <= kept


def test_the_api_says_that_rows_come_from_a_pool(api: httpx.Client, bundle: Bundle) -> None:
    answer = api.get("/samples", params={"model": bundle.id, "n": 50, "quality": 5, "seed": 1})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cuvee-pool"] == str(bundle.manifest.pool)
    assert {row["quality"] for row in answer.json()} == {5}


def test_the_api_refuses_a_quality_that_was_never_hit(api: httpx.Client, bundle: Bundle, few_wines: Wines, uniform: Found) -> None:
    never = missed(few_wines, uniform.pool)
    answer = api.get("/samples", params={"model": bundle.id, "quality": never})
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"this model's pool holds no wine of quality {never}"


def test_the_api_shows_what_it_took(api: httpx.Client, bundle: Bundle, uniform: Found) -> None:
    shown = api.get(f"/models/{bundle.id}/report").json()
    assert shown["findings"]["acceptance"] == uniform.findings["acceptance"]


@pytest.mark.parametrize("tries", [1000, 5000, 12_000])
@pytest.mark.parametrize("draw", ["uniform", "marginals"])
def test_progress_rises_and_never_exceeds_the_whole(rows: TrainingSet, taught: bytes, tries: int, draw: str) -> None:
    shares = find(rows, taught, tries=tries, draw=draw, confidence=0.05).run.shares
    assert shares == sorted(shares)
    assert shares[-1] <= 1
