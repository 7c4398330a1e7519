"""A service in small: some workers and an API on one database. All processes are started here, and none outlives it."""

from __future__ import annotations

import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from app import datasets, jobs, migrations, registry, uploads
from app.db import Database
from app.formats import CSV
from app.jobs import Job, Request
from app.params import resolve
from chaos.stores import Store

ROOT = Path(__file__).resolve().parents[1]
LEASE_S = 4.0
SETTINGS = {
    "CUVEE_LEASE_S": str(LEASE_S),
    "CUVEE_POLL_INTERVAL_S": "0.2",
    "CUVEE_CHECKPOINT_INTERVAL_S": "0.3",
    "CUVEE_STALL_S": "60",
    "CUVEE_DEVICE": "cpu",
}
CLOCK_SHIFT_S = 6 * 3600.0  # of the first worker's machine
ROWS = 400  # of the dataset: a report on them is quick
MARK = "CHAOS_HOUSE"  # in the environment of each process that belongs here, whoever started it
QUICK: dict[str, object] = {"channels": 4, "blocks": 1, "hidden": 8, "batch": 32, "classifier_steps": 1500}
STOP_AFTER_S = 60.0


class Never(AssertionError):
    """Something that had to happen did not."""


def wait_for(condition: Callable[[], object], what: str, *, timeout_s: float = 120.0) -> None:
    """Returns once the condition holds; ``Never`` if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Never(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(0.05)


@dataclass
class House:
    """The processes, and what was seen that must not be (``broken``)."""

    store: Store
    db: Database
    log: Path
    port: int
    settings: Mapping[str, str]
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    api: subprocess.Popen[bytes] | None = None
    api_starts: int = 0
    serving: bool = False  # whether the API has no excuse
    broken: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://127.0.0.1:{self.port}"

    def start_worker(self, index: int) -> None:
        """Starts the worker of that place (anew)."""
        shifted = {"PYTHONPATH": str(ROOT / "chaos" / "shifted"), "CHAOS_CLOCK_SHIFT_S": str(CLOCK_SHIFT_S)} if index == 0 else {}
        process = self._start("worker", **shifted)
        self.workers[index : index + 1] = [process]

    def start_api(self) -> None:
        """Starts the API (anew) and waits until it is ready."""
        self.api = self._start("app.main", CUVEE_PORT=str(self.port))
        self.api_starts += 1
        wait_for(lambda: _answers(f"{self.url}/readyz"), "the API to be ready")
        self.serving = True

    def mend(self) -> None:
        """Starts again whoever is gone. A worker that finds no database when it starts may say so and end; whoever was ready may not."""
        ready = self.log.read_text()
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                if f":{worker.pid} is ready" in ready:
                    self.broken.append(f"worker {worker.pid} ended by itself with status {worker.returncode}")
                self.start_worker(index)
        if self.api is not None and self.api.poll() is not None:
            self.broken.append(f"the API ended by itself with status {self.api.returncode}")
            self.start_api()

    def children(self, index: int) -> list[psutil.Process]:
        """The training process of a worker, if it has one that has begun."""
        with suppress(psutil.NoSuchProcess):
            # between fork and exec it is still its parent's image, and holds its parent
            return [child for child in psutil.Process(self.workers[index].pid).children() if "worker.child" in child.cmdline()]
        return []

    def marked(self) -> list[psutil.Process]:
        """Every process alive that belongs here."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def jobs(self) -> list[Job]:
        """All of them."""
        with self.db.read() as tx:
            return jobs.page(tx, state=None, limit=10_000, offset=0)

    def stop(self) -> None:
        """Asks every process to stop and waits for it; one that does not is ended, and noted."""
        self.serving = False
        processes = [*self.workers, *([self.api] if self.api else [])]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                status = process.wait(STOP_AFTER_S)
            except subprocess.TimeoutExpired:
                self.broken.append(f"process {process.pid} did not stop within {STOP_AFTER_S:g} s")
                process.kill()
                process.wait()
            else:
                if status not in (0, -signal.SIGTERM):  # uvicorn ends by the signal that it got
                    self.broken.append(f"process {process.pid} stopped with status {status}")

    def end(self) -> None:
        """Whatever is left, at once."""
        for process in [*self.workers, *([self.api] if self.api else [])]:
            process.kill()
            process.wait()

    def _start(self, module: str, **environment: str) -> subprocess.Popen[bytes]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("CUVEE_")}
        own = {MARK: self.mark, "CUVEE_DATABASE_URL": self.store.url, **self.settings, **environment}
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=plain | own, stdout=log, stderr=log)


@contextmanager
def furnished(store: Store, folder: Path, *, workers: int, quick_jobs: int, settings: Mapping[str, str] | None = None) -> Iterator[House]:
    """A house at work: migrated, an API, workers, and so many jobs. ``settings`` go over those of a house."""
    with closing(Database(store.url)) as db:
        migrations.upgrade(db)
        with db.write() as tx:
            registry.install_starter(tx)
        datasets.install_starter(db)
        house = House(store, db, folder / "processes.log", _free_port(), {**SETTINGS, **(settings or {})})
        enqueue(db, quick_jobs)
        try:
            for index in range(workers):
                house.start_worker(index)
            house.start_api()
            yield house
        finally:
            house.end()


def enqueue(db: Database, count: int, **given: object) -> list[Job]:
    """Jobs on few wines, one like another: so must their models be."""
    starter = (Path(datasets.__file__).parent / "starter" / datasets.STARTER_FILE).read_bytes()
    table = uploads.read(io.BytesIO(b"".join(starter.splitlines(keepends=True)[: ROWS + 1])), CSV, max_bytes=2**24)
    params = resolve("classifier", QUICK | given).model_dump()
    with db.write() as tx:
        few, _ = datasets.add(tx, table, name="few wines")
        return [jobs.enqueue(tx, Request(method="classifier", dataset_id=few.id, params=params, seed=1, promote="never")) for _ in range(count)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
