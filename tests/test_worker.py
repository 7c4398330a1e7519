"""Real workers, really killed: jobs are finished exactly once, whatever happens to who works on them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO, cast

import httpx
import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from safetensors.torch import load
from sqlalchemy.engine import Connection

from app import datasets, events, jobs, leases, registry
from app.bundle import DCR, Bundle, unpack
from app.db import Database
from app.db import datasets as datasets_table
from app.errors import Deleted, LeaseLost
from app.jobs import Job, Request, Verdict
from app.params import resolve
from app.sampler import Condition, Sampler
from app.settings import Settings
from app.wine import Wines
from tests.conftest import Silent, assignment, connections, serve, stored, tiny_params, wait_for
from worker.assignment import write_assignment
from worker.frames import receive
from worker.pipeline import work
from worker.supervisor import Supervisor

FEW_WINES = b"".join((Path(datasets.__file__).parent / "starter" / datasets.STARTER_FILE).read_bytes().splitlines(keepends=True)[:241])
LEASE_S = 2.0
SEED = 3
STEPS = 3_000
LONG_STEPS = 100_000
STALL_S = 20.0  # longer than a training takes to say its first word on a slow machine
ON_SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)  # what is said of processes, not of databases


class Workers:
    """Worker processes on one database, ended when the test is over."""

    def __init__(self, db: Database) -> None:
        self._environment = os.environ | {
            "CUVEE_DATABASE_URL": db.url.render_as_string(hide_password=False),
            "CUVEE_LEASE_S": str(LEASE_S),
            "CUVEE_POLL_INTERVAL_S": "0.1",
            "CUVEE_CHECKPOINT_INTERVAL_S": "0.2",
            "CUVEE_DEVICE": "cpu",
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "worker", *arguments], env=self._environment | environment)
        self._processes.append(process)
        return process

    def drain(self, **environment: str) -> None:
        """One worker, until no job is ready."""
        assert self.start("--drain", **environment).wait(120) == 0

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def workers(db: Database) -> Iterator[Workers]:
    group = Workers(db)
    yield group
    group.end()


def enqueue(db: Database, method: str = "gan", **given: object) -> Job:
    tiny = tiny_params(method)
    params = resolve(method, tiny | given).model_dump()
    few = stored(db, FEW_WINES)  # few, so that their report is quick
    with db.write() as tx:
        return jobs.enqueue(tx, Request(method=method, dataset_id=few.id, params=params, seed=SEED))


def read(db: Database, job: Job) -> Job:
    with db.read() as tx:
        return jobs.get(tx, job.id)


def checkpointed_step(db: Database, job: Job) -> int:
    """The step of the newest checkpoint, 0 before the first."""
    with db.read() as tx:
        state = leases.last_checkpoint(tx, job.id)
    return 0 if state is None else int(load(state)["step"])


def child_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The training process of a worker."""
    wait_for(lambda: psutil.Process(process.pid).children())
    child = psutil.Process(process.pid).children()[0]
    # stopped between fork and exec, it would hold its parent, which waits for the exec
    wait_for(lambda: "worker.child" in child.cmdline())
    return child


def freeze(process: subprocess.Popen[bytes], db: Database) -> None:
    """Stops it, but not in the middle of a write: on SQLite that holds everybody up for as long as it lasts."""
    process.send_signal(signal.SIGSTOP)
    while db.url.get_backend_name() == "sqlite" and is_locked(Path(str(db.url.database))):
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)


def is_locked(file: Path) -> bool:
    with closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def freeze_in_a_write(process: subprocess.Popen[bytes], db: Database, *, where: str) -> None:
    """Stops it in the middle of a write on PostgreSQL, at a place that its connection shows."""

    def stopped_there() -> bool:
        process.send_signal(signal.SIGSTOP)
        for pause in (0.02, 0.3):  # and still there when all that was on its way has arrived
            time.sleep(pause)
            if not connections(db, where):
                process.send_signal(signal.SIGCONT)
                return False
        return True

    wait_for(stopped_there)


def lines(db: Database, job: Job) -> list[str]:
    """What its watchers were told in words."""
    with db.read() as tx:
        told = events.news(tx, job.id, after=0, limit=10_000)
    assert told.events[-1].kind == "end"
    return [event.data["message"] for event in told.events if event.kind == "log"]


def wait_until_training(db: Database, job: Job) -> None:
    wait_for(lambda: checkpointed_step(db, job) > 0)


def models_of(db: Database, job: Job) -> list[str]:
    with db.read() as tx:
        return [model.id for model in registry.page(tx, limit=100, offset=0) if model.job_id == job.id]


def test_a_job_becomes_a_registered_model_that_pours(db: Database, workers: Workers) -> None:
    job = enqueue(db)

    workers.drain(CUVEE_DCR_STEP="0")

    done = read(db, job)
    assert (done.state, done.progress, done.attempt, done.failures, done.error) == ("succeeded", 1.0, 1, 0, None)
    assert models_of(db, job) == [done.model_id]
    with db.read() as tx:
        bundle = registry.load(tx, str(done.model_id))
    assert bundle.manifest.lineage.job_id == job.id
    assert DCR not in bundle.parts  # as this worker's deployment wants it
    assert len(Sampler(bundle).wines(Condition(), seed=1, offset=0, n=7)) == 7


def test_a_killed_training_is_resumed_from_its_checkpoint_by_another_worker_to_the_very_same_model(db: Database, workers: Workers, few_wines: Wines) -> None:
    job = enqueue(db, "classifier", classifier_steps=STEPS)
    first = workers.start()
    wait_for(lambda: checkpointed_step(db, job) > 100)
    child_of(first).kill()
    wait_for(lambda: read(db, job).failures == 1)
    first.kill()
    failed, kept = read(db, job), checkpointed_step(db, job)
    assert (failed.failures, failed.error) == (1, "the training process was killed (SIGKILL): most often the machine ran out of memory")

    workers.start()
    wait_for(lambda: read(db, job).worker != failed.worker and "step" in read(db, job).metrics)
    assert read(db, job).metrics["step"] > kept  # from scratch it would begin at 1

    wait_for(lambda: read(db, job).state == "succeeded", timeout_s=180)
    assert models_of(db, job) == [read(db, job).model_id]
    with db.read() as tx:
        resumed = registry.load(tx, str(read(db, job).model_id))
    uninterrupted = work(assignment(few_wines, method="classifier", seed=SEED, classifier_steps=STEPS), Silent())
    assert resumed.parts == unpack(uninterrupted).parts
    told = lines(db, job)
    assert told[0].startswith("attempt 1 begins on worker ")
    assert told[1].startswith("attempt 1 failed: the training process was killed (SIGKILL)")
    assert told[1].endswith("(failure 1 of 3, tried again at once)")
    assert f"goes on from the last checkpoint: {kept} of {STEPS} steps were done" in told


@ON_SQLITE
def test_a_killed_worker_leaves_no_orphan_and_its_job_goes_to_another(db: Database, workers: Workers) -> None:
    job = enqueue(db, steps=LONG_STEPS)
    first = workers.start()
    wait_until_training(db, job)
    child = child_of(first)

    first.kill()

    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    workers.start()
    wait_for(lambda: read(db, job).attempt == 2)
    assert read(db, job).failures == 1


def test_a_stopped_worker_that_wakes_after_its_lease_can_write_nothing(db: Database, workers: Workers) -> None:
    job = enqueue(db, steps=LONG_STEPS)
    zombie = workers.start()
    wait_until_training(db, job)
    zombies_child = child_of(zombie)
    freeze(zombie, db)
    wait_for(lambda: read(db, job).stalled)
    heir = workers.start()
    wait_for(lambda: read(db, job).attempt == 2)

    zombie.send_signal(signal.SIGCONT)

    wait_for(lambda: not zombies_child.is_running())  # it understood, and ended its training
    assert zombie.poll() is None
    now = read(db, job)
    assert (now.state, now.attempt) == ("running", 2)
    assert now.worker is not None
    assert now.worker.endswith(f":{heir.pid}")


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)  # where who writes locks rows, not all of it
@pytest.mark.parametrize(
    "where",
    ["state = 'idle in transaction' AND backend_xid IS NOT NULL", "state = 'active' AND wait_event = 'ClientRead'"],
    ids=["between two statements", "while it sends a long value"],
)
def test_a_worker_that_is_stopped_in_the_middle_of_a_write_does_not_keep_its_job_from_others(db: Database, workers: Workers, where: str) -> None:
    job = enqueue(db, steps=LONG_STEPS, hidden=256)  # so that a checkpoint is more than a socket holds
    zombie = workers.start(CUVEE_CHECKPOINT_INTERVAL_S="0")
    wait_until_training(db, job)
    zombies_child = child_of(zombie)
    freeze_in_a_write(zombie, db, where=where)

    heir = workers.start(CUVEE_LEASE_S="60")

    wait_for(lambda: read(db, job).attempt == 2)
    zombie.send_signal(signal.SIGCONT)
    wait_for(lambda: not zombies_child.is_running())  # it understood, and ended its training
    assert zombie.poll() is None
    assert (read(db, job).worker or "").endswith(f":{heir.pid}")


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("meanwhile", "ends_as"), [("cancelled", "cancelled"), ("taken over", "running"), ("finished", "succeeded")])
def test_a_model_that_was_long_on_its_way_is_not_registered_if_the_job_is_not_its_workers_any_more(
    db: Database, tiny_bundle: bytes, monkeypatch: pytest.MonkeyPatch, meanwhile: str, ends_as: str
) -> None:
    job = enqueue(db)
    supervisor = Supervisor(db, Settings(database_url=db.url.render_as_string(hide_password=False)), name="late", stop=Event())
    with db.write() as tx:
        late = leases.claim(tx, worker="late", lease_s=-1.0)
    publish = registry.publish

    def others_first(tx: Connection, bundle: Bundle, data: bytes, *, job_id: str | None) -> None:
        with db.write() as other:
            if meanwhile == "cancelled":
                jobs.cancel(other, job.id)
            elif (heir := leases.claim(other, worker="heir", lease_s=600)) is not None and meanwhile == "finished":
                publish(other, bundle, data, job_id=job_id)
                leases.finish(other, heir.lease, model_id=bundle.id, verdict=Verdict(False, ""))
        publish(tx, bundle, data, job_id=job_id)

    monkeypatch.setattr(registry, "publish", others_first)
    assert late is not None
    with pytest.raises(LeaseLost):
        supervisor._publish(late, tiny_bundle)

    assert (read(db, job).state, models_of(db, job)) == (ends_as, [unpack(tiny_bundle).id] if meanwhile == "finished" else [])


def test_cancelling_stops_a_running_job_within_five_seconds(db: Database, workers: Workers) -> None:
    job = enqueue(db, steps=LONG_STEPS)
    worker = workers.start()
    wait_until_training(db, job)
    child = child_of(worker)

    with db.write() as tx:
        assert jobs.cancel(tx, job.id).state == "cancelling"

    wait_for(lambda: read(db, job).state == "cancelled", timeout_s=5)
    assert not child.is_running()
    assert checkpointed_step(db, job) > 0
    assert worker.poll() is None


@pytest.mark.parametrize("whole_group", [False, True], ids=["the worker", "its training too"])
def test_sigterm_releases_the_job_at_no_cost_and_keeps_every_step(db: Database, workers: Workers, whole_group: bool) -> None:
    job = enqueue(db, "classifier", classifier_steps=LONG_STEPS)
    worker = workers.start(CUVEE_CHECKPOINT_INTERVAL_S="3600")
    wait_for(lambda: read(db, job).metrics.get("step", 0) > 100)
    child, step = child_of(worker), read(db, job).metrics["step"]

    if whole_group:  # as a service manager does
        child.terminate()
    worker.terminate()

    assert worker.wait(90) == 0
    assert not child.is_running()
    assert checkpointed_step(db, job) >= step
    released = read(db, job)
    assert (released.state, released.attempt, released.failures, released.error) == ("queued", 1, 0, None)


@ON_SQLITE
def test_a_job_that_can_never_succeed_fails_at_once_and_says_why(db: Database, workers: Workers) -> None:
    job = enqueue(db)

    workers.drain(CUVEE_DEVICE="cuda")

    failed = read(db, job)
    assert (failed.state, failed.failures) == ("failed", 1)
    assert "CUVEE_DEVICE is cuda" in (failed.error or "")


@ON_SQLITE
def test_a_training_that_says_nothing_is_ended_and_tried_again(db: Database, workers: Workers) -> None:
    job = enqueue(db, steps=LONG_STEPS)
    worker = workers.start(CUVEE_STALL_S=str(STALL_S), CUVEE_LEASE_S="60")
    wait_until_training(db, job)
    child = child_of(worker)

    child.suspend()

    wait_for(lambda: read(db, job).failures == 1)
    assert read(db, job).error == "the training said nothing for 20 s and was ended"
    assert not child.is_running()


@ON_SQLITE
def test_a_training_that_hangs_while_it_starts_does_not_keep_the_worker_from_stopping(db: Database, workers: Workers) -> None:
    job = enqueue(db)
    worker = workers.start()
    child_of(worker).suspend()

    worker.terminate()

    assert worker.wait(90) == 0
    assert (read(db, job).state, read(db, job).failures) == ("queued", 0)


@ON_SQLITE
def test_a_gan_starts_from_a_registered_classifier(db: Database, workers: Workers) -> None:
    classifier_job = enqueue(db, "classifier")
    workers.drain()
    classifier = str(read(db, classifier_job).model_id)

    with db.read() as tx:
        original = registry.load(tx, classifier)
    job = enqueue(db, classifier=classifier, autoencoder=False)
    workers.drain(CUVEE_KEEP_MODELS="1")

    with db.read() as tx:
        model = registry.load(tx, str(read(db, job).model_id))
        with pytest.raises(Deleted, match="CUVEE_KEEP_MODELS is 1"):  # once nobody needs it any more
            registry.load(tx, classifier)
    assert model.manifest.lineage.classifier_model == classifier
    assert model.parts["classifier.safetensors"] == original.parts["classifier.safetensors"]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_database_that_takes_no_writes_is_waited_for_by_workers_and_a_problem_to_who_asks(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(database_url=db.url.render_as_string(hide_password=False), poll_interval_s=0.1)
    alone = Thread(target=Supervisor(db, settings, name="alone", stop=Event()).run, kwargs={"drain": True})
    read_only(db, "on")

    alone.start()
    with serve(settings) as api:
        answer = api.post("/train", json={"dataset": "starter"})
    wait_for(lambda: "the database is unavailable, trying again" in caplog.text)

    assert (answer.status_code, answer.json()["type"]) == (503, "urn:cuvee:database-not-ready")
    assert alone.is_alive()
    read_only(db, "off")
    alone.join()  # nothing is left to do


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_job_whose_rows_the_database_calls_damaged_fails_and_says_so_and_keeps_nobody(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    job = enqueue(db)
    names = [column.name for column in datasets_table.columns if column.name != "content"]
    with db.write() as tx:
        for statement in (
            "CREATE FUNCTION damaged(bytea) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN RAISE 'missing chunk number 0' USING ERRCODE = 'data_corrupted'; END $$",
            "ALTER TABLE datasets RENAME TO whole",
            f"CREATE VIEW datasets AS SELECT {', '.join(names)}, damaged(content) AS content FROM whole",  # noqa: S608
        ):
            tx.execute(sa.text(statement))

    Supervisor(db, Settings(database_url=db.url.render_as_string(hide_password=False)), name="alone", stop=Event()).run_one()

    ended = read(db, job)
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert f"job {job.id}: failed for good: the database says" in caplog.text
    assert ended.error == "the database says that what it stores is damaged: missing chunk number 0\nCONTEXT:  PL/pgSQL function damaged(bytea) line 1 at RAISE"


def test_a_training_process_ends_in_order_while_its_supervisor_is_busy(few_wines: Wines) -> None:
    few_reds = few_wines.take(np.flatnonzero(~few_wines.red | (np.cumsum(few_wines.red) <= 5)))
    with subprocess.Popen([sys.executable, "-m", "worker.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        write_assignment(cast(BinaryIO, child.stdin), assignment(few_reds))  # and the pipe stays open
        frame = receive(cast(BinaryIO, child.stdout))
        status = child.wait(60)
    assert frame is not None
    assert (frame.kind, frame.fields["error"][:20]) == ("refused", "expected no red wine")
    assert status == 0


def read_only(db: Database, switch: str) -> None:
    """For every connection of the database that is opened from now on."""
    with db.write() as tx:
        tx.execute(sa.text("SET TRANSACTION READ WRITE"))
        tx.execute(sa.text(f"ALTER DATABASE {db.url.database} SET default_transaction_read_only = {switch}"))
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        tx.execute(sa.text(others))
    db.close()


def test_ctrl_c_stops_api_and_worker_cleanly(tmp_path: Path, unused_port: int) -> None:
    environment = os.environ | {"CUVEE_DATABASE_URL": f"sqlite:///{tmp_path}/cuvee.db", "CUVEE_PORT": str(unused_port)}
    process = subprocess.Popen([sys.executable, "-m", "app.cli", "up"], env=environment)
    url = f"http://127.0.0.1:{unused_port}"

    wait_for(lambda: answers(f"{url}/readyz"))
    wait_for(lambda: len(psutil.Process(process.pid).children()) == 2)
    children = psutil.Process(process.pid).children()
    assert len(httpx.get(f"{url}/samples?n=500&quality=7").json()) == 500
    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 0
    assert not any(child.is_running() for child in children)
    with closing(Database(environment["CUVEE_DATABASE_URL"])) as db, db.read() as tx:
        assert jobs.page(tx, state=None, limit=1, offset=0) == []


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
