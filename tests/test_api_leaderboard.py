"""The leaderboard: models measured alike, side by side, better first, between floor and ceiling; over HTTP and as one command."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
import sqlalchemy as sa

from app import gate, jobs, registry
from app.bundle import Bundle, Measure, Report, pack, unpack
from app.db import Database, models
from app.leaderboard import COLUMNS
from app.measures import MEASURES
from app.settings import Settings
from app.split import split
from app.wine import Wines
from tests.conftest import TINY, csv_of, serve, wait_for
from worker.evaluate.classification import classification

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "leaderboard.py"
OURS = {"dataset_id": "mine", "dataset_sha256": "5" * 64}


@pytest.fixture
def board(db: Database) -> Iterator[httpx.Client]:
    """The API over an empty registry, on each kind of database."""
    with serve(Settings(database_url=db.url.render_as_string(hide_password=False), download=False)) as client:
        yield client


def enter(
    db: Database,
    bundle: Bundle,
    measures: Mapping[str, float],
    *,
    alias: str | None = None,
    report: Mapping[str, object] | None = None,
    lineage: Mapping[str, object] | None = None,
    split: Mapping[str, object] | None = None,
    **manifest: object,
) -> str:
    """The id of a model with these values in its report."""
    own = {name: Measure(value=value, spread=0.01, floor=0.9, ceiling=0.1) for name, value in measures.items()}
    changed = bundle.manifest.model_copy(
        update={
            "report": Report(**{"protocol": 2, "in_sample": False, "rows": 80, "measures": own, "notes": [], **(report or {})}),
            "lineage": bundle.manifest.lineage.model_copy(
                update={**OURS, "params": {**bundle.manifest.lineage.params, **(split or {})}, "seed": len(measures), **(lineage or {})}
            ),
            **manifest,
        }
    )
    data = pack(changed, bundle.parts)
    model = unpack(data)
    with db.write() as tx:
        registry.publish(tx, model, data, job_id=None)
        if alias:
            registry.point(tx, alias, model.id, reason="test")
    return model.id


@pytest.fixture
def three(db: Database, tiny: Bundle) -> list[str]:
    """Three models of one split, by their ``c2st``; the first is champion, and the last is a classifier, which has none."""
    return [
        enter(db, tiny, {"c2st": 0.6, "coverage": 0.5}, alias="champion"),
        enter(db, tiny, {"c2st": 0.7, "coverage": 0.9, "nndr": 0.5}, pool=100),
        enter(db, tiny, {"accuracy": 0.5}, method="classifier"),
    ]


def listed(client: httpx.Client, **asked: object) -> list[str]:
    """The ids of the models that the leaderboard shows, in its order."""
    answer = client.get("/leaderboard", params={name: str(value) for name, value in asked.items()})
    assert answer.status_code == 200, answer.text
    return [row["model"] for row in answer.json() if row["method"]]


def test_the_best_model_comes_first_and_one_that_lacks_the_measure_last(board: httpx.Client, three: list[str]) -> None:
    assert listed(board) == three
    assert listed(board, order="desc") == [three[1], three[0], three[2]]


def test_of_what_should_be_high_the_highest_comes_first(board: httpx.Client, three: list[str]) -> None:
    assert listed(board, sort="coverage") == [three[1], three[0], three[2]]
    assert listed(board, sort="accuracy")[0] == three[2]


def test_the_table_can_be_sorted_by_each_of_its_columns_both_ways(board: httpx.Client, three: list[str]) -> None:
    for column in COLUMNS:
        for order in ("asc", "desc"):
            rows = board.get("/leaderboard", params={"sort": column.name, "order": order}).json()
            values = [row[column.name] for row in rows[: len(three)]]
            known = [value for value in values if value is not None]
            assert values == sorted(known, reverse=order == "desc") + [None] * (len(values) - len(known)), column.name


def test_floor_and_ceiling_of_every_measure_follow_the_models(board: httpx.Client, three: list[str]) -> None:
    floor, ceiling = board.get("/leaderboard").json()[len(three) :]
    assert (floor["model"], ceiling["model"], floor["method"], ceiling["method"]) == ("floor", "ceiling", None, None)
    for name in ("c2st", "coverage", "nndr", "accuracy"):
        assert (floor[name], ceiling[name]) == (0.9, 0.1)
    assert floor["ks"] is None  # nobody measured it


def test_a_row_says_what_the_model_is_and_what_it_cost(board: httpx.Client, db: Database, tiny: Bundle) -> None:
    report = {
        "by_quality": {5: {"c2st": Measure(value=0.6)}, 7: {"c2st": Measure(value=0.8)}, 9: {"ks": Measure(value=0.9)}},
        "findings": {"confidence": {"poured": 0.99, "real": 0.4}},
        "rows_per_cpu_s": 12_345.6,
    }
    lineage = {"classifier_model": "0123456789abcdef", "seed": 2**53 - 1, "train_cpu_s": 1.5, "train_wall_s": 2.5}
    model = enter(db, tiny, {"c2st": 0.6}, alias="champion", report=report, lineage=lineage, split={"split_seed": 2**32 - 1}, pool=100, method="search")
    with db.write() as tx:
        registry.point(tx, "adversary", model, reason="test")
    (row, _, _) = board.get("/leaderboard").json()
    assert {name: value for name, value in row.items() if value is not None and name != "created_at"} == {
        "model": model,
        "aliases": "adversary champion",
        "method": "search",
        "preset": "default",
        "seed": 2**53 - 1,
        "c2st": 0.6,
        "c2st_spread": 0.01,
        "c2st_worst": 0.8,
        "confidence": 0.99,
        "confidence_real": 0.4,
        "classifier": "0123456789abcdef",
        "pool": 100,
        "train_cpu_s": 1.5,
        "train_wall_s": 2.5,
        "rows_per_cpu_s": 12_345.6,
    }


def test_only_models_of_one_dataset_and_split_meet(board: httpx.Client, db: Database, tiny: Bundle, three: list[str]) -> None:
    others = {
        "dataset": enter(db, tiny, {"c2st": 0.51}, lineage={"dataset_id": "other", "dataset_sha256": "6" * 64}),
        "holdout": enter(db, tiny, {"c2st": 0.52}, split={"holdout": 0.3}),
        "split_seed": enter(db, tiny, {"c2st": 0.53}, split={"split_seed": 1}),
    }
    assert listed(board) == listed(board, dataset="mine", holdout=0.2, split_seed=0) == three
    assert listed(board, dataset="other") == [others["dataset"]]
    assert listed(board, holdout=0.3) == [others["holdout"]]
    assert listed(board, split_seed=1) == [others["split_seed"]]


def test_an_id_that_stood_for_other_rows_then_is_no_bridge_between_them(board: httpx.Client, db: Database, tiny: Bundle) -> None:
    enter(db, tiny, {"c2st": 0.51}, alias="champion", lineage={"dataset_id": "starter", "dataset_sha256": "6" * 64})  # an older package's starter
    assert len(listed(board)) == 1
    assert listed(board, dataset="starter") == []  # none was trained on the one that is stored here


def test_what_an_older_protocol_measured_is_left_out_and_said_to_be(board: httpx.Client, db: Database, tiny: Bundle, three: list[str]) -> None:
    newer = enter(db, tiny, {"c2st": 0.99}, report={"protocol": 3})
    answer = board.get("/leaderboard")
    assert [row["model"] for row in answer.json()] == [newer, "floor", "ceiling"]
    assert answer.headers["cuvee-warning"] == "3 models of this split were measured by an older protocol and are left out: train them again"


def test_the_answer_says_which_dataset_and_split_it_is_about(board: httpx.Client, three: list[str]) -> None:
    answer = board.get("/leaderboard?sort=coverage&limit=2")
    assert answer.headers["content-location"] == "/leaderboard?dataset=mine&holdout=0.2&split_seed=0&sort=coverage&limit=2&format=json&offset=0"
    assert board.get(answer.headers["content-location"]).content == answer.content


def test_page_by_page_it_is_the_same_table(board: httpx.Client, three: list[str]) -> None:
    seen: list[str] = []
    answer = board.get("/leaderboard?limit=2&sort=created_at&order=asc")
    while True:
        seen += [row["model"] for row in answer.json()]
        if "next" not in answer.links:
            break
        answer = board.get(answer.links["next"]["url"])
    assert seen == [*three[:2], "floor", "ceiling", three[2], "floor", "ceiling"]  # each page can be read by itself
    assert board.get("/leaderboard?offset=3").json() == []


def test_without_comparable_models_there_is_no_floor_either(board: httpx.Client, three: list[str]) -> None:
    answer = board.get("/leaderboard?holdout=0.5")
    assert (answer.status_code, answer.json()) == (200, [])
    assert board.get("/leaderboard?holdout=0.5&format=csv").text.splitlines() == as_csv(board).splitlines()[:1]


def as_csv(client: httpx.Client) -> str:
    return client.get("/leaderboard", headers={"Accept": "text/csv"}).text


def test_json_and_csv_are_the_same_table(board: httpx.Client, three: list[str]) -> None:
    from_json = pd.DataFrame(board.get("/leaderboard").json())
    from_csv = pd.read_csv(io.StringIO(as_csv(board)))
    assert from_csv.columns.tolist() == from_json.columns.tolist()
    assert from_csv["model"].tolist() == [*three, "floor", "ceiling"]
    for name in MEASURES:
        pd.testing.assert_series_equal(from_csv[name].astype(float), from_json[name].astype(float))
    assert [row["aliases"] for row in csv.DictReader(io.StringIO(as_csv(board)))] == ["champion", "", "", "", ""]


def test_a_column_that_there_is_not_is_refused_with_those_there_are(board: httpx.Client, three: list[str]) -> None:
    answer = board.get("/leaderboard?sort=taste")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"], answer.json()["errors"][0]["found"]) == (422, "/query/sort", "taste")
    for column in COLUMNS:
        assert column.name in answer.json()["detail"]


def test_a_dataset_that_nobody_knows_is_not_found(board: httpx.Client, three: list[str]) -> None:
    answer = board.get("/leaderboard?dataset=nope")
    assert (answer.status_code, answer.json()["detail"].split(";")[0]) == (404, "no dataset has the id 'nope'")


def test_without_a_champion_the_split_must_be_named(board: httpx.Client, db: Database, tiny: Bundle) -> None:
    model = enter(db, tiny, {"c2st": 0.6})
    assert "'champion'" in board.get("/leaderboard?dataset=mine").json()["detail"]
    assert listed(board, dataset="mine", holdout=0.2, split_seed=0) == [model]


def test_no_bundle_is_opened_for_it(board: httpx.Client, db: Database, three: list[str]) -> None:
    with db.write() as tx:
        tx.execute(sa.update(models).values(bundle=b"damaged"))
    assert listed(board) == three


def test_who_has_the_table_already_is_not_sent_it_again(board: httpx.Client, three: list[str]) -> None:
    first = board.get("/leaderboard")
    again = board.get("/leaderboard", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert board.get("/leaderboard?format=csv").headers["etag"] != first.headers["etag"]


def test_the_documentation_names_every_column(board: httpx.Client) -> None:
    document = board.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["LeaderboardRow"]["properties"]) == {column.name for column in COLUMNS} | {"aliases"}
    (sort,) = (parameter for parameter in document["paths"]["/leaderboard"]["get"]["parameters"] if parameter["name"] == "sort")
    assert sort["schema"]["enum"] == [column.name for column in COLUMNS]


def test_every_measure_of_a_report_has_its_column_and_knows_which_way_is_better(starter: Bundle, few_wines: Wines) -> None:
    certain = classification(lambda wines: np.full((len(wines), 11), 1 / 11), split(few_wines, holdout=0.2, seed=0))
    for report in (starter.manifest.report, certain):
        assert report.measures
        assert report.measures.keys() <= MEASURES.keys()
    assert {measure.name for measure in gate.GATE} <= MEASURES.keys()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, when it is over, with tiny nets and a database of its own."""
    return subprocess.run([*command(folder), *arguments], capture_output=True, text=True, timeout=300, check=False)


def command(folder: Path) -> list[str]:
    wines = folder / "few wines.csv"
    tiny = json.dumps(TINY | {"tries": 1000, "confidence": 0.999, "pool": 20})
    return [sys.executable, str(SCRIPT), "--dataset", str(wines), "--folder", str(folder), "--params", tiny]


@pytest.fixture
def folder(tmp_path: Path, few_wines: Wines) -> Path:
    """Where the script keeps its database, with a dataset to upload."""
    (tmp_path / "few wines.csv").write_bytes(csv_of(few_wines))
    return tmp_path


def test_one_command_trains_what_is_not_there_yet_and_prints_it_side_by_side(folder: Path) -> None:
    first = run(folder, "--only", "classifier", "search", "gan")
    assert first.returncode == 1
    assert "leaderboard: search failed: quality 3, 4, 5, 6, 7, 8 is practically never hit" in first.stderr  # and the others were trained all the same
    pouring, knowing = (table.splitlines() for table in first.stdout.strip().split("\n\n"))
    assert [line.split(" ")[1] for line in pouring] == ["method", "---", "gan", "floor", "ceiling"]
    assert [line.split(" ")[1] for line in knowing] == ["method", "---", "classifier", "floor"]
    assert {"c2st", "coverage", "train_cpu_s"} <= set(pouring[0].split(" "))
    assert {"accuracy", "train_cpu_s"} <= set(knowing[0].split(" "))

    again = run(folder, "--only", "gan", "classifier")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    with closing(Database(f"sqlite:///{folder}/cuvee.db")) as db, db.read() as tx:
        assert sorted(job.method for job in jobs.page(tx, state=None, limit=10, offset=0)) == ["classifier", "gan", "search"]


def test_ctrl_c_leaves_no_process_behind(folder: Path) -> None:
    process = subprocess.Popen([*command(folder), "--only", "gan"], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 3)  # the service, its API, its worker
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "run it again and it goes on from here" in told
    wait_for(lambda: not any(child.is_running() for child in started))


def test_a_dataset_that_can_not_be_had_is_said_in_words(folder: Path) -> None:
    failed = subprocess.run(
        [sys.executable, str(SCRIPT), "--dataset", "nope", "--folder", str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("leaderboard: no dataset has the id 'nope'")
