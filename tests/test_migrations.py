"""The schema: up, down, twice, by two at once, and said plainly when it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app import datasets, events, jobs, migrations, registry
from app.db import Database, metadata
from app.errors import DatabaseNotReady
from app.jobs import Verdict

DATASET_OF_0001 = sa.text(
    "INSERT INTO datasets (id, sha256, source, name, rows, synthetic, snapped, content, created_at) VALUES ('starter', 's', 's', 's', 1, :yes, 0, :content, 0)"
)
JOB_OF_0001 = sa.text(
    "INSERT INTO jobs (id, method, dataset_id, params, seed, priority, promote, warnings, state, attempt, failures, run_after, progress, metrics, "
    "verdict, created_at) VALUES (:id, 'gan', 'starter', '{}', 1, 0, 'auto', '[]', 'succeeded', 1, 0, 0, 1, '{}', :verdict, 0)"
)


def tables(db: Database) -> set[str]:
    with db.read() as tx:
        return set(sa.inspect(tx).get_table_names()) - {"alembic_version"}


def test_the_revisions_lead_to_the_tables_that_the_code_declares(database_url: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)

        with db.read() as tx:
            assert compare_metadata(MigrationContext.configure(tx), metadata) == []


def test_upgrading_twice_changes_nothing_and_keeps_the_data(database_url: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)
        datasets.install_starter(db)

        migrations.upgrade(db)

        with db.read() as tx:
            assert datasets.get(tx, "starter").rows == 6497


def test_downgrading_takes_every_table_away(database_url: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)

        migrations.downgrade(db, "base")

        assert tables(db) == set()


def test_a_verdict_in_words_goes_up_to_one_with_evidence_and_comes_down_again(database_url: str) -> None:
    sentences = {"a": "promoted: c2st 0.56", "b": "not promoted: promote was 'never'", "c": None}
    select = sa.text("SELECT id, verdict FROM jobs ORDER BY id")
    with closing(Database(database_url)) as db:
        migrations.upgrade(db, "0001")
        with db.write() as tx:
            tx.execute(DATASET_OF_0001, {"yes": True, "content": b""})
            tx.execute(JOB_OF_0001, [{"id": job, "verdict": verdict} for job, verdict in sentences.items()])

        migrations.upgrade(db)

        with db.read() as tx:
            assert [jobs.get(tx, job).verdict for job in sentences] == [Verdict(True, sentences["a"] or ""), Verdict(False, sentences["b"] or ""), None]

        migrations.downgrade(db, "0001")

        with db.read() as tx:
            assert {row.id: row.verdict for row in tx.execute(select)} == sentences


def test_a_job_that_was_there_before_events_has_its_last_word(database_url: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db, "0001")
        with db.write() as tx:
            tx.execute(DATASET_OF_0001, {"yes": True, "content": b""})
            tx.execute(JOB_OF_0001, [{"id": "a", "verdict": None}])

        migrations.upgrade(db)

        with db.read() as tx:
            told = events.news(tx, "a", after=0, limit=10)
    assert told.over
    assert [(event.number, event.kind, event.data["state"]) for event in told.events] == [(1, "state", "succeeded"), (2, "end", "succeeded")]


def test_two_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    command = [sys.executable, "-m", "app.cli", "migrate"]
    environment = os.environ | {"CUVEE_DATABASE_URL": database_url}

    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]

    assert [process.wait(60) for process in processes] == [0, 0]
    with closing(Database(database_url)) as db:
        migrations.check(db)
        with db.read() as tx:
            assert len(registry.page(tx, limit=10, offset=0)) == 1


def test_all_that_open_a_new_sqlite_file_at_once_get_it(tmp_path: Path) -> None:
    def open_new(number: int) -> int:
        start.wait()
        with closing(Database(f"sqlite:///{tmp_path}/{number // 4}.db")) as db, db.write() as tx:
            return int(tx.execute(sa.select(1)).scalar_one())

    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        opened = [answer for file in range(15) for answer in pool.map(open_new, range(4 * file, 4 * file + 4))]

    assert opened == [1] * 60


def test_an_empty_database_is_told_from_a_ready_one(database_url: str) -> None:
    with closing(Database(database_url)) as db, pytest.raises(DatabaseNotReady, match="found an empty database; run `cuvee migrate`"):
        migrations.check(db)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x"])
def test_a_database_that_api_and_worker_cannot_share_is_refused(url: str) -> None:
    with pytest.raises(DatabaseNotReady, match="expected"):
        Database(url)
