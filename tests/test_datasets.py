"""Datasets in the database: the same rows are one dataset, what is shipped keeps its name, and none goes from under a job."""

from __future__ import annotations

import io
import threading
from contextlib import closing

import numpy as np
import pytest
import sqlalchemy as sa

from app import datasets, jobs, leases, migrations, registry, uploads
from app.bundle import Bundle
from app.db import Database
from app.db import datasets as table
from app.errors import Conflict, CuveeError, DatasetDamaged, NotFound, TooLarge
from app.formats import CHUNKS, PARQUET, Sheet
from app.jobs import Job, Request
from app.wine import Wines
from tests.conftest import csv_of, stored


def test_the_same_rows_uploaded_twice_are_one_dataset(db: Database, few_wines: Wines) -> None:
    first = stored(db, csv_of(few_wines))

    assert stored(db, csv_of(few_wines)) == first


def test_an_upload_of_the_starters_rows_does_not_take_its_name(database_url: str, starter_wines: Wines) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)
        uploaded = stored(db, csv_of(starter_wines))

        starter = datasets.install_starter(db)

        assert (starter.id, starter.synthetic, starter.sha256) == ("starter", True, uploaded.sha256)
        assert uploaded.id != "starter"


def test_installing_the_starter_again_changes_nothing(db: Database) -> None:
    assert datasets.install_starter(db) == datasets.install_starter(db)


def delete(db: Database, dataset_id: str, *, force: bool = False) -> None:
    with db.write() as tx:
        datasets.delete(tx, dataset_id, force=force)


def enqueue(db: Database, dataset_id: str) -> Job:
    with db.write() as tx:
        datasets.hold(tx, dataset_id)
        return jobs.enqueue(tx, Request(method="gan", dataset_id=dataset_id, params={}, seed=1))


def cancel(db: Database, job: Job) -> None:
    with db.write() as tx:
        jobs.cancel(tx, job.id)


def damage(db: Database, dataset_id: str) -> None:
    with db.write() as tx:
        content = bytearray(tx.execute(sa.select(table.c.content).where(table.c.id == dataset_id)).scalar_one())
        content[len(content) // 2] ^= 1
        tx.execute(sa.update(table).where(table.c.id == dataset_id).values(content=bytes(content)))


def test_a_deleted_dataset_is_gone_and_its_rows_bring_it_back(db: Database, few_wines: Wines) -> None:
    few = stored(db, csv_of(few_wines))
    delete(db, few.id)
    with db.read() as tx:
        assert [dataset.id for dataset in datasets.page(tx, limit=9, offset=0)] == ["starter"]
        for read in (datasets.get, datasets.content, datasets.hold):
            with pytest.raises(NotFound, match="was deleted; POST /datasets with the same rows brings it back"):
                read(tx, few.id)
        assert tx.execute(sa.select(table.c.content).where(table.c.id == few.id)).scalar_one() == b""
    assert stored(db, csv_of(few_wines)).id == few.id
    with db.read() as tx:
        assert datasets.content(tx, few.id) == csv_of(few_wines)


def test_a_dataset_with_jobs_or_models_is_deleted_only_by_force_and_they_stay(db: Database, few_wines: Wines, starter: Bundle) -> None:
    few = stored(db, csv_of(few_wines))
    job = enqueue(db, few.id)
    cancel(db, job)
    with db.write() as tx:
        registry.publish(tx, starter, b"", job_id=job.id)
        tx.execute(sa.text("UPDATE models SET dataset_id = :id"), {"id": few.id})
    with pytest.raises(Conflict, match=rf"referred to by 1 job \({job.id}\) and 1 model \({starter.id}\); DELETE /datasets/{few.id}\?force=true drops"):
        delete(db, few.id)
    delete(db, few.id, force=True)
    with db.read() as tx:
        assert (jobs.get(tx, job.id).dataset_id, registry.get(tx, starter.id).dataset_id) == (few.id, few.id)


def test_a_refusal_lists_the_newest_twenty_of_many(db: Database, few_wines: Wines) -> None:
    few = stored(db, csv_of(few_wines))
    ids = [enqueue(db, few.id).id for _ in range(21)]
    with pytest.raises(Conflict, match="needed by 21 jobs") as refused:
        delete(db, few.id)
    assert [ids[0] in refused.value.detail, all(job in refused.value.detail for job in ids[1:])] == [False, True]


def test_not_even_force_takes_a_dataset_from_a_job_that_waits_or_runs(db: Database, few_wines: Wines) -> None:
    few = stored(db, csv_of(few_wines))
    enqueue(db, few.id)
    with pytest.raises(Conflict, match=r"not over yet; wait, or POST /jobs/\{id\}/cancel first"):
        delete(db, few.id, force=True)
    with db.write() as tx:
        assert leases.claim(tx, worker="w", lease_s=60) is not None
    with pytest.raises(Conflict, match="not over yet"):
        delete(db, few.id, force=True)
    with db.read() as tx:
        assert datasets.content(tx, few.id) == csv_of(few_wines)


def test_a_deletion_waits_for_who_is_queueing_a_job_and_then_meets_it(db: Database, few_wines: Wines) -> None:
    few = stored(db, csv_of(few_wines))
    refused: list[CuveeError] = []

    def try_to_delete() -> None:
        try:
            delete(db, few.id, force=True)
        except CuveeError as error:
            refused.append(error)

    deletion = threading.Thread(target=try_to_delete)
    with db.write() as tx:
        datasets.hold(tx, few.id)
        jobs.enqueue(tx, Request(method="gan", dataset_id=few.id, params={}, seed=1))
        deletion.start()
        deletion.join(0.3)  # long enough to get ahead of us, if nothing held it
    deletion.join()
    assert [type(error) for error in refused] == [Conflict]


def test_the_starter_is_always_there(db: Database) -> None:
    with pytest.raises(Conflict, match="comes with the package"):
        delete(db, "starter", force=True)


def test_damaged_rows_are_refused_with_both_hashes_until_the_same_rows_come_again(db: Database, few_wines: Wines) -> None:
    few = stored(db, csv_of(few_wines))
    damage(db, few.id)
    with db.read() as tx, pytest.raises(DatasetDamaged, match=rf"damaged where it is stored \(expected SHA-256 {few.sha256}, found .*POST /datasets"):
        datasets.content(tx, few.id)
    assert stored(db, csv_of(few_wines)) == few
    with db.read() as tx:
        assert datasets.content(tx, few.id) == csv_of(few_wines)


def test_a_starter_that_was_damaged_is_mended_when_it_is_installed_again(db: Database) -> None:
    damage(db, "starter")
    datasets.install_starter(db)
    with db.read() as tx:
        assert len(datasets.content(tx, "starter")) > 0


def test_a_small_file_of_many_rows_is_held_to_the_bytes_that_it_would_be_as_csv(few_wines: Wines) -> None:
    many = few_wines.take(np.zeros(20_000, dtype=np.int64))
    packed = b"".join(CHUNKS[PARQUET]([Sheet(many)], ()))
    size = len(csv_of(many))
    assert uploads.read(io.BytesIO(packed), PARQUET, max_bytes=size).rows == 20_000
    with pytest.raises(TooLarge, match="once it is CSV, found more; a deployment may raise CUVEE_MAX_UPLOAD_BYTES"):
        uploads.read(io.BytesIO(packed), PARQUET, max_bytes=size // 2)
    assert len(packed) < size // 2
