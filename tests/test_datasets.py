"""Datasets in the database: the same rows are one dataset, and what is shipped keeps its name."""

from __future__ import annotations

from contextlib import closing

from app import datasets, migrations
from app.db import Database
from app.wine import Wines
from tests.conftest import csv_of


def test_the_same_rows_uploaded_twice_are_one_dataset(db: Database, few_wines: Wines) -> None:
    first = datasets.upload(db, csv_of(few_wines), name="first")

    assert datasets.upload(db, csv_of(few_wines), name="second") == first


def test_an_upload_of_the_starters_rows_does_not_take_its_name(database_url: str, starter_wines: Wines) -> None:
    with closing(Database(database_url)) as db:
        migrations.upgrade(db)
        uploaded = datasets.upload(db, csv_of(starter_wines), name="mine")

        starter = datasets.install_starter(db)

        assert (starter.id, starter.synthetic, starter.sha256) == ("starter", True, uploaded.sha256)
        assert uploaded.id != "starter"


def test_installing_the_starter_again_changes_nothing(db: Database) -> None:
    assert datasets.install_starter(db) == datasets.install_starter(db)
