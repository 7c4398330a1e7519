"""What can go wrong, a function each. A fault is over when its function returns: what it killed runs again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

import psutil

from chaos.house import LEASE_S, STOP_AFTER_S, House
from chaos.stores import Postgres

Fault = Callable[[House, Random], None]
HEADROOM_BYTES = 2**20  # that a training may still take when memory runs out


def supervisor_is_killed(house: House, random: Random) -> None:
    """SIGKILL: the machine of a worker goes away."""
    index = random.randrange(len(house.workers))
    house.workers[index].kill()
    house.workers[index].wait()
    house.start_worker(index)


def supervisor_is_frozen(house: House, random: Random) -> None:
    """SIGSTOP for longer than its lease, then SIGCONT: a virtual machine that is moved."""
    worker = random.choice(house.workers)
    worker.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_S * random.uniform(0.5, 1.5))
    worker.send_signal(signal.SIGCONT)


def workers_are_deployed(house: House, random: Random) -> None:
    """SIGTERM to a worker, half of the time to its training too, as service managers do; a new one is started. It may cost no job a failure."""
    index = random.randrange(len(house.workers))
    worker = house.workers[index]
    held = [job for job in house.jobs() if job.state == "running" and (job.worker or "").endswith(f":{worker.pid}")]
    if random.random() < 0.5:
        for child in house.children(index):
            with suppress(psutil.NoSuchProcess):
                child.terminate()
    worker.terminate()
    status = worker.wait(STOP_AFTER_S)
    if status != 0:
        house.broken.append(f"worker {worker.pid} answered SIGTERM with status {status}")
    spent = {job.id: job.failures for job in house.jobs()}
    house.broken += [f"a deploy cost job {job.id} a failure" for job in held if spent[job.id] > job.failures]
    house.start_worker(index)


def training_is_killed(house: House, random: Random) -> None:
    """SIGKILL to a training process, as the kernel does where memory is short."""
    _strike(house, random, signal.SIGKILL)


def training_is_asked_to_end(house: House, random: Random) -> None:
    """SIGTERM to a training process alone."""
    _strike(house, random, signal.SIGTERM)


def training_is_frozen(house: House, random: Random) -> None:
    """SIGSTOP to a training process for a while."""
    for child in _trainings(house, random)[:1]:
        with suppress(psutil.NoSuchProcess):
            child.suspend()
            time.sleep(random.uniform(0.5, 2))
            child.resume()


def memory_runs_out(house: House, random: Random) -> None:
    """A training process is refused any more memory."""
    for child in _trainings(house, random)[:1]:
        with suppress(psutil.NoSuchProcess):
            limit = child.memory_info().vms + HEADROOM_BYTES
            child.rlimit(psutil.RLIMIT_AS, (limit, psutil.RLIM_INFINITY))
            time.sleep(3)
            child.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


def api_is_killed(house: House, random: Random) -> None:
    """SIGKILL to the API."""
    _restart_api(house, signal.SIGKILL)


def api_is_deployed(house: House, random: Random) -> None:
    """SIGTERM to the API."""
    _restart_api(house, signal.SIGTERM)


def api_is_frozen(house: House, random: Random) -> None:
    """SIGSTOP to the API for a while: askers wait, and are answered."""
    assert house.api is not None
    house.api.send_signal(signal.SIGSTOP)
    time.sleep(random.uniform(0.5, 2))
    house.api.send_signal(signal.SIGCONT)


def disk_fills(house: House, random: Random) -> None:
    """The database's disk takes not a byte more, sometimes for longer than a lease."""
    with house.store.disk_full():
        time.sleep(LEASE_S * random.uniform(0.3, 1.3))


def database_takes_no_writes(house: House, random: Random) -> None:
    """Read-only (PostgreSQL), or held by another writer (SQLite)."""
    with house.store.unwritable():
        time.sleep(LEASE_S * random.uniform(0.3, 1.3))


def database_goes_away(house: House, random: Random) -> None:
    """PostgreSQL is stopped and started again."""
    assert isinstance(house.store, Postgres)
    with house.store.away():
        time.sleep(random.uniform(0, LEASE_S))


def connections_are_cut(house: House, random: Random) -> None:
    """pg_terminate_backend on every connection, a few times."""
    assert isinstance(house.store, Postgres)
    for _ in range(3):
        house.store.drop_connections()
        time.sleep(random.uniform(0, 0.5))


def faults_of(house: House) -> list[Fault]:
    """All that this house can be tried with."""
    everywhere: list[Fault] = [
        supervisor_is_killed,
        supervisor_is_frozen,
        workers_are_deployed,
        training_is_killed,
        training_is_asked_to_end,
        training_is_frozen,
        memory_runs_out,
        api_is_killed,
        api_is_deployed,
        api_is_frozen,
        database_takes_no_writes,
    ]
    of_a_disk: list[Fault] = [disk_fills] if house.store.fillable else []
    of_a_server: list[Fault] = [database_goes_away, connections_are_cut] if isinstance(house.store, Postgres) else []
    return everywhere + of_a_disk + of_a_server


def _trainings(house: House, random: Random) -> list[psutil.Process]:
    found = [child for index in range(len(house.workers)) for child in house.children(index)]
    random.shuffle(found)
    return found


def _strike(house: House, random: Random, number: signal.Signals) -> None:
    for child in _trainings(house, random)[:1]:
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def _restart_api(house: House, number: signal.Signals) -> None:
    assert house.api is not None
    house.serving = False
    house.api.send_signal(number)
    house.api.wait(STOP_AFTER_S)
    house.start_api()
