"""Claim a job, let a training process work on it, keep the lease, publish or give back.

The training runs in a process of its own: the lease is kept however busy it is, an out-of-memory kill is seen at
once, a cancelled training is really over, and its GPU memory is really free. Nothing is open in the database while
it trains.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app import aliases, datasets, gate, leases, registry, retention
from app.bundle import CLASSIFIER_WEIGHTS, unpack
from app.db import UNAVAILABLE, Database
from app.errors import CuveeError, DatabaseDamaged, LeaseLost
from app.jobs import Job, Lease
from app.settings import Settings
from worker.assignment import Assignment, write_assignment
from worker.frames import Frame, receive

log = logging.getLogger("cuvee.worker")

LAST_WORDS_S = 3.0  # that a training has for its last checkpoint when the worker is asked to stop
GIVE_UP_SHARE = 2 / 3  # of the lease without a database: then the training is ended before another may start it
DATABASE_RETRY_S = 0.5
# for glibc, which otherwise hands a step's activations back to the kernel and faults them in again, thousands of pages a step
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}  # the most that any glibc takes

Result = TypeVar("Result")


class Stopped(Exception):
    """The worker was asked to stop."""


@dataclass
class _Child:
    """A training process and what it has said; ``inbox`` ends with None when it is gone."""

    process: subprocess.Popen[bytes]
    inbox: queue.Queue[Frame | None]

    def last_words(self) -> Iterator[Frame]:
        """Asks the training to save itself and end, and gives what it says until it is gone or its time is over."""
        self.process.terminate()
        deadline = time.monotonic() + LAST_WORDS_S
        with suppress(queue.Empty):
            while (frame := self.inbox.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                yield frame

    def end(self) -> None:
        """Ends the process and waits for it: it holds nothing that would need more than that."""
        self.process.kill()
        self.process.wait()


class Supervisor:
    """One worker: at most one job at a time. ``stop`` may be set from a signal handler or another thread."""

    def __init__(self, db: Database, settings: Settings, *, name: str, stop: threading.Event) -> None:
        self._db, self._settings, self._name, self._stop = db, settings, name, stop
        self._checkpoints = 0
        self._renewed_at = 0.0
        self._owed: Lease | None = None

    def run(self, *, drain: bool = False) -> None:
        """Works until stopped; with ``drain`` until no job is ready."""
        while not self._stop.is_set():
            try:
                worked = self.run_one()
            except (*UNAVAILABLE, DatabaseDamaged) as error:
                log.warning("the database is unavailable, trying again: %s", error)
            else:
                if worked:
                    continue
                if drain:
                    return
            self._stop.wait(self._settings.poll_interval_s)

    def run_one(self) -> bool:
        """Whether there was a job to work on; returns when that job is over or somebody else's."""
        self._settle()
        with self._db.write() as tx:
            leases.reap(tx)
            job = leases.claim(tx, worker=self._name, lease_s=self._settings.lease_s)
        if job is None:
            return False
        self._renewed_at = time.monotonic()
        log.info("job %s: attempt %d (%s on %s)", job.id, job.attempt, job.method, job.dataset_id)
        try:
            self._attempt(job)
        except LeaseLost as lost:
            log.warning("job %s: %s", job.id, lost.detail)
            self._owed = job.lease
            self._settle()
        return True

    def _settle(self) -> None:
        """Gives back a lease that ended in a cancellation, or in an outage that kept us from giving it back."""
        if (lease := self._owed) is None:
            return
        with self._db.write() as tx, suppress(LeaseLost):  # it was taken over: nothing to give back
            if not leases.confirm_cancel(tx, lease):
                leases.release(tx, lease, reason="the database was out of its worker's reach")
        self._owed = None

    def _attempt(self, job: Job) -> None:
        """Works on the job, and leaves it in a state that anybody can go on from, whatever happens here."""
        try:
            self._work(job)
        except Stopped:
            self._insist(lambda tx: leases.release(tx, job.lease, reason="its worker was asked to stop"))
            log.info("job %s: released, another worker goes on from its last checkpoint", job.id)
        except LeaseLost:
            raise
        except UNAVAILABLE as error:
            raise LeaseLost(f"the database is unavailable: {error}") from error
        except Exception as error:
            log.exception("job %s: the worker itself failed", job.id)
            self._fail(job, f"the worker failed: {type(error).__name__}: {error}")

    def _work(self, job: Job) -> None:
        try:
            child = self._spawn(self._assignment(job))
        except CuveeError as refused:
            self._refuse(job, refused.detail)
            return
        self._checkpoints = 0
        try:
            self._attend(job, child)
        finally:
            child.end()

    def _attend(self, job: Job, child: _Child) -> None:
        """Hears the child out, keeping the lease meanwhile."""
        heard_at = time.monotonic()
        while True:
            if self._stop.is_set():
                self._part(job, child)
                return
            try:
                frame = child.inbox.get(timeout=self._settings.poll_interval_s)
            except queue.Empty:
                self._check(job.lease)
            else:
                heard_at = time.monotonic()
                if self._heed(job, frame, child):
                    return
            if time.monotonic() - heard_at > self._settings.stall_s:
                child.end()  # before another may start the same training beside it
                self._fail(job, f"the training said nothing for {self._settings.stall_s:g} s and was ended")
                return
            if time.monotonic() - self._renewed_at > self._settings.lease_s / 3:
                self._insist(lambda tx: leases.renew(tx, job.lease, lease_s=self._settings.lease_s))
                self._renewed_at = time.monotonic()

    def _part(self, job: Job, child: _Child) -> None:
        """Keeps what the child still has to say; ``Stopped`` unless that ends the job."""
        for frame in child.last_words():
            if self._heed(job, frame, child):
                return
        raise Stopped

    def _heed(self, job: Job, frame: Frame | None, child: _Child) -> bool:
        """Acts on one frame; whether the attempt is over."""
        lease, lease_s = job.lease, self._settings.lease_s
        match frame:
            case Frame("progress", fields):
                self._insist(lambda tx: leases.report(tx, lease, lease_s=lease_s, **fields))
            case Frame("log", fields):
                self._insist(lambda tx: leases.note(tx, lease, **fields))
            case Frame("checkpoint", _, state):
                self._checkpoints += 1
                self._insist(lambda tx: leases.save_checkpoint(tx, lease, number=self._checkpoints, state=state))
            case Frame("bundle", _, data):
                self._publish(job, data)
                return True
            case Frame("refused", fields):
                self._refuse(job, fields["error"])
                return True
            case Frame("crashed", fields):
                self._fail(job, fields["error"])
                return True
            case _ if self._stop.is_set():
                raise Stopped  # who stops a whole group of processes reaches the training before us
            case _:
                self._fail(job, _exit_reason(child.process.wait()))
                return True
        return False

    def _publish(self, job: Job, data: bytes) -> None:
        """Registers the model and ends the job, both or neither."""
        bundle = unpack(data)

        def publish(tx: Connection) -> list[str]:
            leases.check(tx, job.lease)
            registry.publish(tx, bundle, data, job_id=job.id)  # before anything is locked, for it is long on its way
            verdict = gate.judge(tx, bundle, job.promote)
            leases.finish(tx, job.lease, model_id=bundle.id, verdict=verdict)
            if verdict.promoted:
                aliases.point(tx, gate.contested(bundle), bundle.id, reason=verdict.reason, by=f"job {job.id}")
            return retention.prune(tx, keep=self._settings.keep_models, spare=bundle.id)

        try:
            dropped = self._insist(publish)
        except IntegrityError:
            self._check(job.lease)  # another may have finished the job while ours was on its way
            raise
        log.info("job %s: registered as model %s%s", job.id, bundle.id, f"; deleted the oldest: {', '.join(dropped)}" if dropped else "")

    def _fail(self, job: Job, error: str) -> None:
        log.warning("job %s: attempt %d failed: %s", job.id, job.attempt, error)
        self._insist(lambda tx: leases.fail(tx, job.lease, error=error, retry=True))

    def _refuse(self, job: Job, error: str) -> None:
        log.warning("job %s: failed for good: %s", job.id, error)
        self._insist(lambda tx: leases.fail(tx, job.lease, error=error, retry=False))

    def _check(self, lease: Lease) -> None:
        """``LeaseLost`` if the job was cancelled or taken over; cheap enough to ask every second."""
        # without an answer there is no news: renewing the lease is what insists on one
        with suppress(*UNAVAILABLE), self._db.read() as tx:
            leases.check(tx, lease)

    def _insist(self, write: Callable[[Connection], Result]) -> Result:
        """The result of one write transaction, tried again while the database is away, but not past the lease."""
        give_up_at = self._renewed_at + self._settings.lease_s * GIVE_UP_SHARE
        while True:
            try:
                with self._db.write() as tx:
                    return write(tx)
            except UNAVAILABLE as error:
                if time.monotonic() > give_up_at:
                    raise LeaseLost(f"the database was unavailable for {self._settings.lease_s * GIVE_UP_SHARE:g} s: {error}") from error
                time.sleep(DATABASE_RETRY_S)

    def _assignment(self, job: Job) -> Assignment:
        with self._db.read() as tx:
            dataset = datasets.get(tx, job.dataset_id)
            classifier = job.params.get("classifier")
            weights = registry.load(tx, classifier).parts[CLASSIFIER_WEIGHTS] if classifier else None
            return Assignment(
                job_id=job.id,
                method=job.method,
                params=job.params,
                seed=job.seed,
                dataset_id=dataset.id,
                dataset_synthetic=dataset.synthetic,
                warnings=job.warnings,
                classifier_model=classifier,
                device=self._settings.device,
                threads=self._settings.threads,
                checkpoint_interval_s=self._settings.checkpoint_interval_s,
                dcr_step=self._settings.dcr_step,
                dataset=datasets.content(tx, dataset.id),
                checkpoint=leases.last_checkpoint(tx, job.id),
                classifier=weights,
            )

    def _spawn(self, assignment: Assignment) -> _Child:
        threads = str(self._settings.threads)
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            start_new_session=True,  # Ctrl-C is for the supervisor, which then decides
        )
        inbox: queue.Queue[Frame | None] = queue.Queue()
        threading.Thread(target=_listen, args=(cast(BinaryIO, process.stdout), inbox), daemon=True).start()
        # beside us: a pipe holds less than a dataset, and the child reads only once it has loaded torch
        threading.Thread(target=_tell, args=(cast(BinaryIO, process.stdin), assignment), daemon=True).start()
        return _Child(process, inbox)


def _tell(stream: BinaryIO, assignment: Assignment) -> None:
    with suppress(BrokenPipeError):  # it died at once: the inbox says so
        write_assignment(stream, assignment)


def _listen(stream: BinaryIO, inbox: queue.Queue[Frame | None]) -> None:
    try:
        while (frame := receive(stream)) is not None:
            inbox.put(frame)
    finally:
        inbox.put(None)


def _exit_reason(status: int) -> str:
    if status == -9:
        return "the training process was killed (SIGKILL): most often the machine ran out of memory"
    if status == -15:
        return "the training process was asked to end (SIGTERM), though its worker was not"
    return f"the training process ended with {f'signal {-status}' if status < 0 else f'status {status}'} and no result; the worker's log has its last words"
