"""Which models go, which stay, and what is said of those that went."""

from __future__ import annotations

import threading

import httpx
import pytest

from app import gate, jobs, leases, registry, retention
from app.bundle import Bundle
from app.db import Database
from app.errors import Conflict, Deleted
from app.jobs import Request, Verdict
from tests.conftest import pouring_only, register


@pytest.fixture
def six(db: Database, tiny: Bundle) -> list[str]:
    """The ids of six models, the oldest first."""
    return register(db, *(pouring_only(tiny, quality) for quality in range(3, 9)))


def point(db: Database, alias: str, model: str) -> None:
    with db.write() as tx:
        registry.point(tx, alias, model, reason="test")


def there(db: Database) -> set[str]:
    """The models that are registered."""
    with db.read() as tx:
        return {model.id for model in registry.page(tx, limit=100, offset=0)}


def start_from(db: Database, classifier: str) -> str:
    """A queued job that starts from this model."""
    with db.write() as tx:
        return jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={"classifier": classifier}, seed=1)).id


def test_what_somebody_needs_is_not_deleted(db: Database, six: list[str]) -> None:
    with db.write() as tx:
        starter = registry.install_starter(tx)
    point(db, "champion", six[0])
    point(db, "favourite", six[0])
    job = start_from(db, six[1])

    for model, words in (
        (six[0], "what champion, favourite stands for"),
        ("champion", "champion, favourite"),
        (six[1], f"job {job} starts from"),
        (starter, "the starter"),
    ):
        with pytest.raises(Conflict, match=words), db.write() as tx:
            retention.delete(tx, model, reason="", by="")
    with db.write() as tx:
        jobs.cancel(tx, job)
        retention.delete(tx, six[1], reason="", by="")

    assert there(db) == {starter, *six} - {six[1]}


def test_what_was_deleted_says_so_and_may_come_back(db: Database, six: list[str], tiny: Bundle) -> None:
    with db.write() as tx:
        retention.delete(tx, six[0], reason="corked", by="Ana")

    for look in (registry.resolve, registry.load, registry.get):
        with pytest.raises(Deleted, match=rf"model {six[0]} was deleted at 20\d\d-.* by Ana: corked"), db.read() as tx:
            look(tx, six[0])

    register(db, pouring_only(tiny, 3))
    assert there(db) == set(six)


def test_the_oldest_beyond_the_number_go_but_for_those_that_are_needed(db: Database, six: list[str]) -> None:
    for model in (six[0], six[1], six[2]):
        point(db, "champion", model)  # a rollback needs the second
    start_from(db, six[3])

    with db.write() as tx:
        assert retention.prune(tx, keep=None) == []
        assert retention.prune(tx, keep=1) == [six[4], six[0]]
        assert retention.prune(tx, keep=1) == []

    assert there(db) == {six[1], six[2], six[3], six[5]}
    with db.write() as tx:
        assert registry.rollback(tx, "champion").model_id == six[1]
        with pytest.raises(Conflict, match=rf"passed over: model {six[0]} was deleted .*CUVEE_KEEP_MODELS is 1"):
            registry.rollback(tx, "champion")


def test_a_model_that_was_registered_a_moment_ago_is_spared_though_others_were_faster(db: Database, six: list[str]) -> None:
    with db.write() as tx:
        assert set(retention.prune(tx, keep=1, spare=six[2])) == set(six) - {six[2], six[5]}


def test_two_workers_that_finish_at_once_leave_as_many_as_are_to_be_kept(db: Database, six: list[str], tiny: Bundle) -> None:
    start = threading.Barrier(2)

    def finish(quality: int) -> None:
        bundle = pouring_only(tiny, quality)
        start.wait(10)
        with db.write() as tx:
            registry.publish(tx, bundle, b"bytes", job_id=None)
            gate.judge(tx, bundle, "never")
            retention.prune(tx, keep=3, spare=bundle.id)

    threads = [threading.Thread(target=finish, args=[quality]) for quality in (9, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert there(db) == {six[5], pouring_only(tiny, 9).id, pouring_only(tiny, 10).id}


def test_over_http_a_deleted_model_is_gone_and_its_job_and_the_history_say_so(api: httpx.Client, sqlite_db: Database, tiny: Bundle) -> None:
    bundle = pouring_only(tiny, 5)
    with sqlite_db.write() as tx:
        jobs.enqueue(tx, Request(method="gan", dataset_id="starter", params={}, seed=1))
        job = leases.claim(tx, worker="w", lease_s=60)
        assert job is not None
        leases.finish(tx, job.lease, model_id=bundle.id, verdict=Verdict(False, ""))
    register(sqlite_db, bundle)
    api.put("/aliases/candidate", json={"model": bundle.id})
    refused = api.delete(f"/models/{bundle.id}")
    assert (refused.status_code, "candidate" in refused.json()["detail"]) == (409, True)
    assert api.get(f"/jobs/{job.id}").json()["model_deleted_at"] is None
    api.put("/aliases/candidate", json={"model": "champion"})

    assert api.delete(f"/models/{bundle.id}?reason=corked&by=Ana").status_code == 204

    gone = api.get(f"/models/{bundle.id}")
    assert (gone.status_code, gone.json()["type"]) == (410, "urn:cuvee:deleted")
    assert "by Ana: corked" in gone.json()["detail"]
    assert (api.get(f"/jobs/{job.id}").json()["model_id"], api.get("/jobs").json()[0]["model_deleted_at"][:2]) == (bundle.id, "20")
    assert [change["model_exists"] for change in api.get("/aliases/candidate").json()["history"]] == [True, False]
    assert [api.delete(f"/models/{name}").status_code for name in (bundle.id, "nope")] == [410, 404]
