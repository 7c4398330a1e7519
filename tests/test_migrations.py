"""The schema: up, down, twice, by two at once, and said plainly when it is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app import datasets, events, jobs, migrations, registry
from app.bundle import unpack
from app.db import Database, metadata
from app.db import jobs as job_table
from app.errors import DatabaseNotReady
from app.jobs import Verdict

DATASET_OF_0001 = sa.text(
    "INSERT INTO datasets (id, sha256, source, name, rows, synthetic, snapped, content, created_at) VALUES ('starter', 's', 's', 's', 1, :yes, 0, :content, 0)"
)
JOB_OF_0001 = sa.text(
    "INSERT INTO jobs (id, method, dataset_id, params, seed, priority, promote, warnings, state, attempt, failures, run_after, progress, metrics, "
    "verdict, created_at) VALUES (:id, 'gan', 'starter', '{}', 1, 0, 'auto', '[]', 'succeeded', 1, 0, 0, 1, '{}', :verdict, 0)"
)


REVISIONS = [script.revision for script in ScriptDirectory(str(migrations.FOLDER)).walk_revisions()][::-1]
STARTER = registry.starter_bytes()
REAL: dict[str, Any] = {  # what a revision may look into
    "bundle": STARTER,
    "lineage": unpack(STARTER).manifest.lineage.model_dump(mode="json"),
    "report": unpack(STARTER).manifest.report.model_dump(mode="json"),
    "verdict": {"promoted": True, "reason": "promoted: c2st 0.56", "champion": None, "gate": []},
}


def tables(tx: sa.Connection) -> list[sa.Table]:
    """Those that are there, each after those that it refers to."""
    found = sa.MetaData()
    found.reflect(tx)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def contents(db: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    with db.read() as tx:
        return {table.name: [dict(row._mapping) for row in tx.execute(sa.select(table).order_by(*table.primary_key))] for table in tables(tx)}


def fill(db: Database) -> None:
    """Two rows for each table that is there: one with every column, one with those alone that must not be null."""
    with db.write() as tx:
        for table in tables(tx):
            for row, columns in ((1, list(table.c)), (2, [column for column in table.c if not column.nullable])):
                tx.execute(sa.insert(table).values({column.name: value(table, column, row) for column in columns}))


def value(table: sa.Table, column: sa.Column[Any], row: int) -> Any:
    """One that the column takes; the same in whatever refers to it."""
    if column.foreign_keys:
        other = next(iter(column.foreign_keys)).column
        return value(other.table, other, row)
    checks = [str(check.sqltext) for check in table.constraints if isinstance(check, sa.CheckConstraint)]
    if words := [word for check in checks if column.name in check for word in re.findall(r"'(\w+)'", check)]:
        return words[0]
    match column.type:
        case sa.JSON() | sa.LargeBinary():
            return REAL.get(column.name, {} if isinstance(column.type, sa.JSON) else b"bytes")
        case sa.String():
            return f"{column.name} {row}"
        case sa.Boolean():
            return True
        case _:
            return row


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


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_a_database_of_any_revision_holds_goes_up_to_the_newest_and_comes_down_again_unchanged(database_url: str, revision: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db, revision)
        fill(db)
        before = contents(db)
        assert all(len(rows) == 2 for rows in before.values())

        migrations.upgrade(db)
        migrations.check(db)
        assert {name: len(rows) for name, rows in contents(db).items() if name in before} == dict.fromkeys(before, 2)

        migrations.downgrade(db, revision)
        assert contents(db) == before


def test_downgrading_takes_every_table_away_whatever_is_in_it(database_url: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)
        fill(db)

        migrations.downgrade(db, "base")

        assert contents(db) == {}


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


def test_a_gan_that_was_asked_for_before_there_was_attention_is_trained_without(database_url: str) -> None:
    def params_of(db: Database, job: str) -> dict[str, object]:
        with db.read() as tx:
            return dict(jobs.get(tx, job).params)

    with closing(Database(database_url)) as db:
        migrations.upgrade(db, "0006")
        with db.write() as tx:
            tx.execute(DATASET_OF_0001, {"yes": True, "content": b""})
            tx.execute(JOB_OF_0001, [{"id": "a", "verdict": None}, {"id": "b", "verdict": None}])
            tx.execute(sa.update(job_table).where(job_table.c.id == "b").values(method="classifier"))

        migrations.upgrade(db)
        assert (params_of(db, "a"), params_of(db, "b")) == ({"attention": False}, {})

        migrations.downgrade(db, "0006")
        with db.read() as tx:
            assert tx.execute(sa.select(job_table.c.params)).scalars().all() == [{}, {}]


def test_four_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    command = [sys.executable, "-m", "app.cli", "migrate"]
    environment = os.environ | {"CUVEE_DATABASE_URL": database_url}

    processes = [subprocess.Popen(command, env=environment) for _ in range(4)]

    assert [process.wait(120) for process in processes] == [0] * 4
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


def test_a_database_of_a_newer_version_is_told_from_one_that_needs_migrating(database_url: str) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)
        with db.write() as tx:
            tx.execute(sa.text("UPDATE alembic_version SET version_num = 'later'"))

        for start in (migrations.check, migrations.upgrade):
            with pytest.raises(DatabaseNotReady, match=f"expected schema revision {REVISIONS[-1]} or an earlier one, found later: a newer version"):
                start(db)


def test_an_empty_database_is_told_from_a_ready_one(database_url: str) -> None:
    with closing(Database(database_url)) as db, pytest.raises(DatabaseNotReady, match="found an empty database; run `cuvee migrate`"):
        migrations.check(db)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x"])
def test_a_database_that_api_and_worker_cannot_share_is_refused(url: str) -> None:
    with pytest.raises(DatabaseNotReady, match="expected"):
        Database(url)
