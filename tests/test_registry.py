"""The registry: published once, verified when loaded, promoted for a reason."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app import jobs, registry
from app.bundle import GENERATOR, Bundle, Measure, pack, unpack
from app.db import Database, models
from app.errors import BundleInvalid, Conflict, NotFound
from app.jobs import Promote, Request


def with_c2st(bundle: Bundle, value: float, *, spread: float = 0.01, in_sample: bool = False) -> Bundle:
    """The same model with another report."""
    measure = Measure(value=value, spread=spread, floor=0.97, ceiling=0.5)
    report = bundle.manifest.report.model_copy(update={"measures": {"c2st": measure}, "in_sample": in_sample})
    return unpack(pack(bundle.manifest.model_copy(update={"report": report}), bundle.parts))


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

    other = with_c2st(tiny, 0.6)
    with pytest.raises(sa.exc.IntegrityError), db.write() as tx:
        registry.publish(tx, other, b"other bytes", job_id=job.id)


def test_finishing_and_publishing_happen_together_or_not_at_all(db: Database, tiny: Bundle, tiny_bundle: bytes) -> None:
    with db.write() as tx:
        jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        job = jobs.claim(tx, worker="a", lease_s=60)
        registry.publish(tx, tiny, tiny_bundle, job_id=None)  # the same model is there already
    assert job is not None

    def finish_and_publish() -> None:
        with db.write() as tx:
            jobs.finish(tx, job.lease, model_id=tiny.id, verdict="")
            registry.publish(tx, tiny, tiny_bundle, job_id=job.id)

    with pytest.raises(sa.exc.IntegrityError):
        finish_and_publish()

    with db.read() as tx:
        assert jobs.get(tx, job.id).state == "running"


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
    with db.read() as tx:
        assert registry.judge(tx, with_c2st(tiny, 0.9), "auto").promote


@pytest.mark.parametrize(("value", "promoted"), [(0.585, True), (0.595, False), (0.6, False), (0.7, False)])
def test_a_challenger_must_beat_the_champion_by_more_than_its_spread(db: Database, tiny: Bundle, value: float, promoted: bool) -> None:
    publish(db, with_c2st(tiny, 0.6), champion=True)

    with db.read() as tx:
        verdict = registry.judge(tx, with_c2st(tiny, value, spread=0.01), "auto")

    assert verdict.promote is promoted
    assert f"c2st {value:.4f} (spread 0.0100) against the champion's 0.6000" in verdict.reason


def test_a_report_on_training_rows_promotes_nobody(db: Database, tiny: Bundle) -> None:
    publish(db, with_c2st(tiny, 0.6), champion=True)

    with db.read() as tx:
        verdict = registry.judge(tx, with_c2st(tiny, 0.5, in_sample=True), "auto")

    assert not verdict.promote
    assert "in-sample" in verdict.reason


@pytest.mark.parametrize("promote", ["auto", "always"])
def test_a_model_that_does_not_pour_is_never_champion(db: Database, tiny: Bundle, promote: Promote) -> None:
    parts = {name: part for name, part in tiny.parts.items() if name != GENERATOR}

    with db.write() as tx:
        verdict = registry.judge(tx, replace(tiny, parts=parts), promote)

    assert not verdict.promote
    assert verdict.reason == "not promoted: it does not generate wines, and a champion must pour"


@pytest.mark.parametrize("other", [{"dataset_sha256": "another"}, {"params": {"holdout": 0.2, "split_seed": 1}}, {"params": {"holdout": 0.3, "split_seed": 0}}])
def test_reports_of_other_rows_are_no_match(db: Database, tiny: Bundle, other: dict[str, Any]) -> None:
    publish(db, with_c2st(tiny, 0.6), champion=True)
    better = with_c2st(tiny, 0.5)
    lineage = better.manifest.lineage.model_copy(update=other)
    elsewhere = replace(better, manifest=better.manifest.model_copy(update={"lineage": lineage}))

    with db.write() as tx:
        verdict = registry.judge(tx, elsewhere, "auto")

    assert not verdict.promote
    assert "measured on other rows" in verdict.reason


def test_of_two_models_that_finish_together_the_second_meets_the_first(db: Database, tiny: Bundle) -> None:
    publish(db, with_c2st(tiny, 0.6), champion=True)
    best, good = with_c2st(tiny, 0.5), with_c2st(tiny, 0.55)
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
    verdict = registry.judge(tx, bundle, "auto")
    registry.publish(tx, bundle, pack(bundle.manifest, bundle.parts), job_id=None)
    if verdict.promote:
        registry.point(tx, registry.CHAMPION, bundle.id, reason=verdict.reason)
    return verdict.promote


def test_a_classifier_that_may_have_seen_the_holdout_starts_nothing(db: Database, tiny: Bundle) -> None:
    publish(db, tiny)
    lineage = tiny.manifest.lineage
    split = {"holdout": lineage.params["holdout"], "split_seed": lineage.params["split_seed"]}

    with db.read() as tx:
        assert registry.pin_classifier(tx, tiny.id, dataset_sha256=lineage.dataset_sha256, params=split) == tiny.id
        assert registry.pin_classifier(tx, tiny.id, dataset_sha256="another", params=split | {"holdout": 0}) == tiny.id
        with pytest.raises(Conflict, match="may have seen what this training holds out"):
            registry.pin_classifier(tx, tiny.id, dataset_sha256=lineage.dataset_sha256, params=split | {"split_seed": 7})


def test_a_newer_starter_takes_over_from_an_older_one_but_not_from_a_trained_model(db: Database, tiny: Bundle, tiny_bundle: bytes) -> None:
    publish(db, tiny, champion=True)  # as if an older package had shipped it: no job made it

    with db.write() as tx:
        assert registry.install_starter(tx) == registry.resolve(tx, "champion")

    with db.write() as tx:
        jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        trained = with_c2st(tiny, 0.7)
        registry.publish(tx, trained, tiny_bundle, job_id=jobs.page(tx, state=None, limit=1, offset=0)[0].id)
        registry.point(tx, registry.CHAMPION, trained.id, reason="test")
        registry.install_starter(tx)
        assert registry.resolve(tx, "champion") == trained.id


def test_who_asks_for_it_decides_the_promotion(db: Database, tiny: Bundle) -> None:
    publish(db, with_c2st(tiny, 0.6), champion=True)

    with db.read() as tx:
        assert registry.judge(tx, with_c2st(tiny, 0.9), "always").promote
        assert not registry.judge(tx, with_c2st(tiny, 0.5), "never").promote
