"""The registry: published once, verified when loaded, promoted for a reason."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app import jobs, registry
from app.bundle import Bundle, Measure, pack, unpack
from app.db import Database, models
from app.errors import BundleInvalid, NotFound
from app.jobs import Request


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


def test_the_starter_does_not_displace_a_champion(db: Database, tiny: Bundle) -> None:
    publish(db, tiny, champion=True)

    with db.write() as tx:
        registry.install_starter(tx)
        assert registry.resolve(tx, "champion") == tiny.id


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


def test_who_asks_for_it_decides_the_promotion(db: Database, tiny: Bundle) -> None:
    publish(db, with_c2st(tiny, 0.6), champion=True)

    with db.read() as tx:
        assert registry.judge(tx, with_c2st(tiny, 0.9), "always").promote
        assert not registry.judge(tx, with_c2st(tiny, 0.5), "never").promote
