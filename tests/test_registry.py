"""The registry: published once, verified when loaded, promoted for a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from app import gate, jobs, leases, registry
from app.bundle import DECODER, ENCODER, GENERATOR, Bundle, Measure, digest, pack, unpack
from app.db import Database, models
from app.errors import BundleInvalid, Conflict, LeaseLost, NotFound
from app.jobs import Comparison, Promote, Request, Verdict

EVEN = {"c2st": 0.6, "tstr_r2": 0.3, "dcr_closer_to_train": 0.55, "near_copies": 0.05}  # the champion of most tests
CEILING = {"c2st": 0.53, "tstr_r2": 0.37, "dcr_closer_to_train": 0.5, "near_copies": 0.05}


def measured(bundle: Bundle, values: Mapping[str, float] = MappingProxyType({}), *, spread: float | None = 0.03, in_sample: bool = False) -> Bundle:
    """The same model with another report: the champion's values, but for those given."""
    measures = {name: Measure(value=value, spread=spread, floor=0.97, ceiling=CEILING[name]) for name, value in {**EVEN, **values}.items()}
    report = bundle.manifest.report.model_copy(update={"measures": measures, "in_sample": in_sample})
    return unpack(pack(bundle.manifest.model_copy(update={"report": report}), bundle.parts))


def judged(db: Database, challenger: Bundle, promote: Promote = "auto") -> Verdict:
    """The verdict on a model that has just been trained."""
    with db.write() as tx:
        return gate.judge(tx, challenger, promote)


def publish(db: Database, bundle: Bundle, *, champion: bool = False) -> None:
    with db.write() as tx:
        registry.publish(tx, bundle, pack(bundle.manifest, bundle.parts), job_id=None)
        if champion:
            registry.point(tx, registry.CHAMPION, bundle.id, reason="test")


def test_a_published_model_is_loaded_as_it_was(db: Database, tiny: Bundle, tiny_bundle: bytes) -> None:
    with db.write() as tx:
        registry.publish(tx, tiny, tiny_bundle, job_id=None)

    with db.read() as tx:
        assert registry.load(tx, tiny.id) == tiny
        assert registry.get(tx, tiny.id).size == len(tiny_bundle)


def test_a_job_registers_exactly_one_model(db: Database, tiny: Bundle) -> None:
    with db.write() as tx:
        job = jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        registry.publish(tx, tiny, b"bytes", job_id=job.id)

    other = measured(tiny)
    with pytest.raises(sa.exc.IntegrityError), db.write() as tx:
        registry.publish(tx, other, b"other bytes", job_id=job.id)


def test_publishing_and_finishing_happen_together_or_not_at_all(db: Database, tiny: Bundle, tiny_bundle: bytes) -> None:
    with db.write() as tx:
        jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        job = leases.claim(tx, worker="a", lease_s=60)
    assert job is not None
    with db.write() as tx:
        jobs.cancel(tx, job.id)

    def publish_and_finish() -> None:
        with db.write() as tx:
            registry.publish(tx, tiny, tiny_bundle, job_id=job.id)
            leases.finish(tx, job.lease, model_id=tiny.id, verdict=Verdict(False, ""))

    with pytest.raises(LeaseLost):
        publish_and_finish()

    with db.read() as tx:
        assert registry.existing(tx, [tiny.id]) == set()


def test_a_model_answers_to_its_id_and_to_its_aliases(db: Database, tiny: Bundle) -> None:
    publish(db, tiny, champion=True)

    with db.read() as tx:
        assert registry.resolve(tx, tiny.id) == registry.resolve(tx, "champion") == tiny.id
        assert registry.get(tx, "champion").aliases == ("champion",)


def test_an_unknown_name_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound, match="'nope'"), db.read() as tx:
        registry.resolve(tx, "nope")


def test_damaged_bytes_are_refused_and_named(db: Database, tiny: Bundle, tiny_bundle: bytes) -> None:
    at = tiny_bundle.index(tiny.parts["generator.onnx"]) + 1000
    damaged = tiny_bundle[:at] + bytes([tiny_bundle[at] ^ 1]) + tiny_bundle[at + 1 :]
    with db.write() as tx:
        registry.publish(tx, tiny, tiny_bundle, job_id=None)
        tx.execute(sa.update(models).values(bundle=damaged))

    with pytest.raises(BundleInvalid), db.read() as tx:
        registry.load(tx, tiny.id)


def test_the_starter_is_installed_once_and_becomes_champion(db: Database) -> None:
    for _ in range(2):
        with db.write() as tx:
            starter = registry.install_starter(tx)

    with db.read() as tx:
        assert [model.id for model in registry.page(tx, limit=10, offset=0)] == [starter]
        assert registry.resolve(tx, "champion") == starter


def test_the_first_model_becomes_champion(db: Database, tiny: Bundle) -> None:
    assert judged(db, measured(tiny, {"c2st": 0.9})) == Verdict(True, "promoted: there was no champion to compare with")


BETTER = {"c2st": 0.55, "tstr_r2": 0.35, "dcr_closer_to_train": 0.505}  # by more than 0.0424, the spread of both together
WORSE = {"c2st": 0.65, "tstr_r2": 0.25, "dcr_closer_to_train": 0.6, "near_copies": 0.1}


@pytest.mark.parametrize("name", BETTER)
def test_better_in_one_measure_and_even_in_the_rest_promotes(db: Database, tiny: Bundle, name: str) -> None:
    publish(db, measured(tiny), champion=True)

    verdict = judged(db, measured(tiny, {name: BETTER[name]}))

    assert verdict.promoted
    assert {c.metric: c.outcome for c in verdict.gate} == dict.fromkeys(EVEN, "even") | {name: "better"}


@pytest.mark.parametrize("name", WORSE)
def test_worse_in_one_measure_is_not_made_good_by_all_others(db: Database, tiny: Bundle, name: str) -> None:
    publish(db, measured(tiny), champion=True)

    verdict = judged(db, measured(tiny, BETTER | {name: WORSE[name]}))

    assert not verdict.promoted
    assert {c.metric: c.outcome for c in verdict.gate}[name] == "worse"
    assert verdict.reason.startswith(f"not promoted: worse than the champion, by more than half the spread, in {name} (")
    assert "though better in " in verdict.reason


@pytest.mark.parametrize("value", [0.56, 0.6, 0.62])
def test_a_gain_within_the_spread_of_both_and_a_loss_within_half_of_it_are_none(db: Database, tiny: Bundle, value: float) -> None:
    publish(db, measured(tiny), champion=True)  # 0.6 and 0.56 are more than one spread apart, but not more than both together

    verdict = judged(db, measured(tiny, {"c2st": value}))

    assert not verdict.promoted
    assert {c.outcome for c in verdict.gate} == {"even"}


def test_a_loss_of_more_than_half_the_spread_is_not_traded_for_a_gain(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)

    verdict = judged(db, measured(tiny, {"c2st": 0.63, "dcr_closer_to_train": 0.5}))

    assert verdict.reason == (
        "not promoted: worse than the champion, by more than half the spread, in c2st (0.6300 against 0.6000, spread 0.0424), "
        "though better in dcr_closer_to_train (0.5000 against 0.5500, spread 0.0424)"
    )


@pytest.mark.parametrize("lucky", [{"c2st": 0.4}, {"dcr_closer_to_train": 0.4}, {"near_copies": 0.0}])
def test_beyond_the_best_there_is_nothing_is_won_or_lost(db: Database, tiny: Bundle, lucky: dict[str, float]) -> None:
    best = {"c2st": 0.5, "dcr_closer_to_train": 0.5, "near_copies": 0.05}
    publish(db, measured(tiny, best, spread=0.001), champion=True)
    assert {c.outcome for c in judged(db, measured(tiny, best | lucky, spread=0.001)).gate} == {"even"}

    publish(db, measured(tiny, best | lucky, spread=0.001), champion=True)
    assert {c.outcome for c in judged(db, measured(tiny, best, spread=0.001)).gate} == {"even"}


def test_near_copies_may_be_as_many_as_among_unseen_real_wines_or_as_the_champion_s(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny, {"near_copies": 0.08}, spread=0.001), champion=True)

    outcomes = [judged(db, measured(tiny, {"near_copies": share}, spread=0.001)).gate[-1].outcome for share in (0.05, 0.079, 0.08, 0.09)]

    assert outcomes == ["better", "even", "even", "worse"]


def with_encoder(bundle: Bundle) -> Bundle:
    """The same model, could it vary wines too."""
    parts = {**bundle.parts, ENCODER: b"encoder", DECODER: b"decoder"}
    digests = {name: digest(part) for name, part in parts.items()}
    return unpack(pack(bundle.manifest.model_copy(update={"parts": digests}), parts))


def test_a_model_that_varies_wines_contests_its_own_alias_and_all_others_the_champion(tiny: Bundle) -> None:
    assert (gate.contested(tiny), gate.contested(with_encoder(tiny))) == ("champion", "autoencoder")


def test_the_first_autoencoder_is_not_compared_with_the_champion(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)

    verdict = judged(db, with_encoder(measured(tiny, {"c2st": 0.9})))

    assert verdict == Verdict(True, "promoted: there was no autoencoder to compare with")


def test_a_champion_is_not_compared_with_the_autoencoder(db: Database, tiny: Bundle) -> None:
    point(db, with_encoder(measured(tiny)), "autoencoder")

    assert judged(db, measured(tiny, {"c2st": 0.9})) == Verdict(True, "promoted: there was no champion to compare with")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"c2st": 0.5}, "promoted: better than the autoencoder in c2st (0.5000 against 0.6000, spread 0.0424), worse in nothing that the gate compares"),
        ({"c2st": 0.7}, "not promoted: worse than the autoencoder, by more than half the spread, in c2st (0.7000 against 0.6000, spread 0.0424)"),
    ],
)
def test_of_two_autoencoders_the_gate_decides(db: Database, tiny: Bundle, changed: dict[str, float], reason: str) -> None:
    point(db, holder := with_encoder(measured(tiny)), "autoencoder")
    publish(db, measured(tiny, {"c2st": 0.55}), champion=True)

    verdict = judged(db, with_encoder(measured(tiny, changed)))

    assert (verdict.champion, verdict.reason) == (holder.id, reason)


def test_two_autoencoders_that_are_even_or_not_comparable_are_told_so_by_that_name(db: Database, tiny: Bundle) -> None:
    point(db, with_encoder(measured(tiny)), "autoencoder")

    reasons = [judged(db, with_encoder(measured(tiny, {"c2st": 0.61}, in_sample=in_sample))).reason for in_sample in (False, True)]

    assert reasons[0].startswith("not promoted: even with the autoencoder in c2st")
    assert reasons[1] == "not promoted: its report is in-sample, so there is nothing to compare with the autoencoder's"


def point(db: Database, bundle: Bundle, alias: str) -> None:
    """A registered model and an alias for it."""
    publish(db, bundle)
    with db.write() as tx:
        registry.point(tx, alias, bundle.id, reason="test")


shares = st.floats(0, 1)


@given(st.tuples(shares, shares), st.tuples(shares, shares), st.floats(0, 0.1))
def test_of_two_models_one_is_worse_wherever_the_other_is_better_so_that_never_both_become_champion(
    first: tuple[float, float], second: tuple[float, float], spread: float
) -> None:
    here, there = (
        [gate.compare(measure, *(Measure(value=pair[i % 2], spread=spread, ceiling=0.05) for pair in order)) for i, measure in enumerate(gate.GATE)]
        for order in ((first, second), (second, first))
    )
    assert len(here) == len(there) == len(gate.GATE)
    for mine, yours in zip(here, there, strict=True):
        assert mine is not None
        assert yours is not None
        assert "better" not in (mine.outcome, yours.outcome) or {mine.outcome, yours.outcome} == {"better", "worse"}


def test_the_verdict_has_the_figures_that_it_rests_on(db: Database, tiny: Bundle) -> None:
    publish(db, champion := measured(tiny, spread=0.003), champion=True)

    verdict = judged(db, measured(tiny, {"c2st": 0.5801}, spread=0.004))

    assert verdict.champion == champion.id
    assert verdict.gate[0] == Comparison("c2st", challenger=0.5801, champion=0.6, spread=0.005, outcome="better")
    assert [c.metric for c in verdict.gate] == ["c2st", "tstr_r2", "dcr_closer_to_train", "near_copies"]
    assert verdict.reason == "promoted: better than the champion in c2st (0.5801 against 0.6000, spread 0.0050), worse in nothing that the gate compares"


def test_a_report_on_training_rows_promotes_nobody(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)

    verdict = judged(db, measured(tiny, {"c2st": 0.5}, in_sample=True))

    assert (verdict.promoted, verdict.gate) == (False, ())
    assert "in-sample" in verdict.reason


def test_what_was_not_measured_repeatedly_is_not_compared(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)
    unrepeated = measured(tiny, {"c2st": 0.5}, spread=None)

    verdict = judged(db, unrepeated)

    assert (verdict.promoted, verdict.gate) == (False, ())
    assert verdict.reason.startswith("not promoted: c2st, tstr_r2, dcr_closer_to_train, near_copies and its spread are not in both reports")


@pytest.mark.parametrize("promote", ["auto", "always"])
def test_a_model_that_does_not_pour_is_never_champion(db: Database, tiny: Bundle, promote: Promote) -> None:
    parts = {name: part for name, part in tiny.parts.items() if name != GENERATOR}

    assert judged(db, replace(tiny, parts=parts), promote).reason == "not promoted: it does not generate wines, and a champion must pour"


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ({"dataset_sha256": "another"}, "dataset_sha256"),
        ({"params": {"holdout": 0.2, "split_seed": 1}}, "split_seed"),
        ({"params": {"holdout": 0.3, "split_seed": 0}}, "holdout"),
    ],
)
def test_reports_of_other_rows_are_no_match(db: Database, tiny: Bundle, other: dict[str, Any], differing: str) -> None:
    publish(db, measured(tiny), champion=True)
    better = measured(tiny, {"c2st": 0.5})
    lineage = better.manifest.lineage.model_copy(update=other)
    elsewhere = replace(better, manifest=better.manifest.model_copy(update={"lineage": lineage}))

    verdict = judged(db, elsewhere)

    assert (verdict.promoted, verdict.gate) == (False, ())
    assert f"the champion was measured otherwise ({differing} differ)" in verdict.reason


def test_reports_of_two_protocols_are_no_match(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)
    better = measured(tiny, {"c2st": 0.5})
    report = better.manifest.report.model_copy(update={"protocol": 99})

    verdict = judged(db, replace(better, manifest=better.manifest.model_copy(update={"report": report})))

    assert "(protocol differ)" in verdict.reason


def test_of_two_models_that_finish_together_the_second_meets_the_first(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)
    best, good = measured(tiny, {"c2st": 0.5}), measured(tiny, {"c2st": 0.55})
    first_judged, second_started = threading.Event(), threading.Event()

    def finish_first() -> None:
        with db.write() as tx:
            assert promoted(tx, best)
            first_judged.set()
            second_started.wait(10)
            time.sleep(0.2)  # the second is waiting for us by now, or it is not waiting at all

    first = threading.Thread(target=finish_first)
    first.start()
    first_judged.wait(10)
    second_started.set()
    with db.write() as tx:
        assert not promoted(tx, good)
    first.join()

    with db.read() as tx:
        assert registry.resolve(tx, "champion") == best.id


def promoted(tx: Connection, bundle: Bundle) -> bool:
    """What a supervisor does when a training is over."""
    verdict = gate.judge(tx, bundle, "auto")
    registry.publish(tx, bundle, pack(bundle.manifest, bundle.parts), job_id=None)
    if verdict.promoted:
        registry.point(tx, registry.CHAMPION, bundle.id, reason=verdict.reason)
    return verdict.promoted


def test_a_classifier_that_may_have_seen_the_holdout_starts_nothing(db: Database, tiny: Bundle) -> None:
    publish(db, tiny)
    lineage = tiny.manifest.lineage
    split = {"holdout": lineage.params["holdout"], "split_seed": lineage.params["split_seed"]}

    with db.read() as tx:
        assert registry.pin_classifier(tx, tiny.id, dataset_sha256=lineage.dataset_sha256, params=split) == tiny.id
        assert registry.pin_classifier(tx, tiny.id, dataset_sha256="another", params=split | {"holdout": 0}) == tiny.id
        with pytest.raises(Conflict, match="may have seen what this training holds out"):
            registry.pin_classifier(tx, tiny.id, dataset_sha256=lineage.dataset_sha256, params=split | {"split_seed": 7})


def test_a_newer_starter_takes_over_from_an_older_one_but_not_from_a_trained_model(db: Database, tiny: Bundle) -> None:
    publish(db, tiny, champion=True)  # as if an older package had shipped it: no job made it

    with db.write() as tx:
        assert registry.install_starter(tx) == registry.resolve(tx, "champion")
        registry.rollback(tx, "champion", by="somebody")
        registry.install_starter(tx)
        assert registry.resolve(tx, "champion") == tiny.id  # nor from what was chosen by hand

    with db.write() as tx:
        jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        trained = measured(tiny, {"c2st": 0.7})
        registry.publish(tx, trained, pack(trained.manifest, trained.parts), job_id=jobs.page(tx, state=None, limit=1, offset=0)[0].id)
        registry.point(tx, registry.CHAMPION, trained.id, reason="test")
        registry.install_starter(tx)
        assert registry.resolve(tx, "champion") == trained.id


def test_who_asks_for_it_decides_the_promotion(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)

    assert judged(db, measured(tiny, {"c2st": 0.9}), "always").promoted
    assert not judged(db, measured(tiny, {"c2st": 0.5}), "never").promoted


def test_the_verdict_is_kept_with_the_job_and_shown_with_its_model(db: Database, tiny: Bundle) -> None:
    publish(db, measured(tiny), champion=True)
    better = measured(tiny, {"c2st": 0.5})
    verdict = judged(db, better)
    with db.write() as tx:
        jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        job = leases.claim(tx, worker="a", lease_s=60)
        assert job is not None
        leases.finish(tx, job.lease, model_id=better.id, verdict=verdict)
        registry.publish(tx, better, b"bytes", job_id=job.id)

    with db.read() as tx:
        assert jobs.get(tx, job.id).verdict == registry.get(tx, better.id).verdict == verdict
        assert [model.verdict for model in registry.page(tx, limit=2, offset=0)].count(verdict) == 1
