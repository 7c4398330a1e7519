"""Limits and mixes: the same table, rows passed over; held against a plain reference that makes every row and looks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import datasets, migrations, registry
from app.bundle import Bundle, pack, unpack
from app.db import Database
from app.noise import MAX_ROW
from app.sampler import BLOCK, PROBE_SEED, Condition, Range, Sampler
from app.settings import Settings
from app.split import split
from app.wine import COLUMNS, MEASUREMENTS, Wines
from tests.conftest import csv_of, register, serve, stored
from tests.test_api_samples import serve_starter

ALCOHOL, PH = MEASUREMENTS.index("alcohol"), MEASUREMENTS.index("pH")
TOKEN = "grapes-of-wrath-1939"  # noqa: S105 - opens nothing but the server below
LIMIT = 50_000


@pytest.fixture(scope="module")
def sampler(starter: Bundle) -> Sampler:
    return Sampler(starter)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all tests here, whose requests may make 50,000 rows."""
    url = f"sqlite:///{tmp_path_factory.mktemp('conditions')}/cuvee.db"
    database = Database(url)
    migrations.upgrade(database)
    with database.write() as tx:
        registry.install_starter(tx)
    datasets.install_starter(database)
    database.close()
    with serve(Settings(database_url=url, download=False, max_rows=LIMIT, token=TOKEN)) as client:
        yield client


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Labels and limits that one row in a hundred passes at least."""
    ranges = draw(
        st.lists(
            st.sampled_from([Range(ALCOHOL, 1100, 1300), Range(ALCOHOL, 500, 1000), Range(PH, 310, 330), Range(PH, 200, 340), Range(3, 0, 300)]),
            max_size=2,
            unique_by=lambda r: r.column,
        )
    )
    return Condition(draw(st.sampled_from([(), (6,), (5, 7)])), draw(st.sampled_from([(), ("white",), ("red",)])), tuple(ranges), draw(st.booleans()))


def reference(sampler: Sampler, condition: Condition, *, seed: int, offset: int, n: int) -> tuple[Wines, list[int]]:
    """Every row of the labels from the offset on, one table; those within the limits; the first n of them and their places."""
    made = sampler.wines(condition.labels, seed=seed, offset=offset, n=200 * n + BLOCK)
    passed = [i for i in range(len(made)) if all(r.low <= made.ticks[i, r.column] <= r.high for r in condition.ranges)][:n]
    return made.take(np.array(passed)), [offset + i for i in passed]


@settings(deadline=None, max_examples=25)
@given(condition=conditions(), seed=st.integers(0, 2**63 - 1), offset=st.integers(0, 1500), n=st.integers(1, 40))
def test_rows_within_limits_are_those_of_the_table_that_are_within_them(sampler: Sampler, condition: Condition, seed: int, offset: int, n: int) -> None:
    expected, places = reference(sampler, condition, seed=seed, offset=offset, n=n)
    blocks = list(sampler.blocks(condition, seed=seed, offset=offset, n=n))
    assert [row for block in blocks for row in block.rows.tolist()] == places
    assert np.array_equal(np.concatenate([block.wines.ticks for block in blocks]), expected.ticks)


@settings(deadline=None, max_examples=15)
@given(condition=conditions(), seed=st.integers(0, 2**63 - 1), pages=st.lists(st.integers(1, 60), min_size=2, max_size=4))
def test_pages_that_go_on_behind_the_last_row_are_the_whole(sampler: Sampler, condition: Condition, seed: int, pages: list[int]) -> None:
    whole = sampler.wines(condition, seed=seed, offset=0, n=sum(pages))
    ticks, offset = [], 0
    for n in pages:
        for block in sampler.blocks(condition, seed=seed, offset=offset, n=n):
            ticks.append(block.wines.ticks)
            last = int(block.rows[-1])
        offset = last + 1
    assert np.array_equal(np.concatenate(ticks), whole.ticks)


def test_a_balanced_mix_has_every_quality_as_often(sampler: Sampler) -> None:
    counts = np.bincount(sampler.wines(Condition(balanced=True), seed=1, offset=0, n=7000).quality, minlength=11)
    assert (np.abs(counts[3:10] - 1000) < 60).all()
    assert counts.sum() == counts[3:10].sum()


def test_a_balanced_mix_keeps_the_types_of_each_quality(sampler: Sampler) -> None:
    mixed, balanced = (sampler.wines(Condition((5, 8), balanced=b), seed=1, offset=0, n=8000) for b in (False, True))
    for quality in (5, 8):
        shares = [wines.red[wines.quality == quality].mean() for wines in (mixed, balanced)]
        assert abs(shares[0] - shares[1]) < 0.03


def test_the_odds_are_the_share_of_rows_that_pass(sampler: Sampler) -> None:
    condition = Condition((7,), (), (Range(ALCOHOL, 1200, 2000), Range(PH, 200, 320)))
    made = sampler.wines(condition.labels, seed=3, offset=0, n=20_000).measurements()
    alcohol, acid = made[:, ALCOHOL] >= 12, made[:, PH] <= 3.2
    odds = sampler.odds(condition)
    assert odds.share == pytest.approx((alcohol & acid).mean(), abs=0.02)
    assert odds.without["pH"] / odds.probed == pytest.approx(alcohol.mean(), abs=0.02)
    assert odds.without["alcohol"] / odds.probed == pytest.approx(acid.mean(), abs=0.02)
    assert odds.binding == ("alcohol" if alcohol.mean() < acid.mean() else "pH")


def test_limits_that_hardly_any_row_passes_are_tried_on_more_rows(sampler: Sampler) -> None:
    easy, hard = (sampler.odds(Condition(ranges=(Range(ALCOHOL, low, 2000),))) for low in (1000, 1390))
    assert hard.probed == 8 * easy.probed


def pour(api: httpx.Client, query: str) -> httpx.Response:
    """A good answer."""
    answer = api.get(f"/samples?{query}")
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_every_measurement_can_be_limited(api: httpx.Client, column: Any) -> None:
    values = sorted(row[column.name] for row in pour(api, "n=400&seed=5").json())
    low, high = values[100], values[300]
    rows = pour(api, f"n=150&seed=1&{column.name}_min={low}&{column.name}_max={high}").json()
    assert len(rows) == 150
    assert all(low <= row[column.name] <= high for row in rows)
    assert {low, high} <= {row[column.name] for row in pour(api, f"n=3000&seed=1&{column.name}_min={low}&{column.name}_max={high}").json()}  # both within


def test_limits_are_found_again_behind_the_link(api: httpx.Client) -> None:
    query = "quality=6&quality=7&type=white&alcohol_min=11&pH_max=3.2&mix=balanced&seed=4"
    whole = pour(api, f"n=300&{query}").json()
    answer = pour(api, f"n=120&{query}")
    following = api.get(answer.links["next"]["url"])
    assert answer.json() == whole[:120]
    assert following.json() == whole[120:240]
    assert api.get(answer.headers["content-location"]).content == answer.content


def test_include_row_is_the_position_in_the_table(api: httpx.Client) -> None:
    rows = pour(api, "n=50&seed=4&alcohol_min=12&offset=30&include=row").json()
    assert [row["row"] for row in rows] == sorted({row["row"] for row in rows})
    assert rows[0]["row"] >= 30
    table = pour(api, f"n={rows[-1]['row'] + 1}&seed=4").json()
    assert all(table[row["row"]] == {k: v for k, v in row.items() if k != "row"} for row in rows)
    assert sum(row["alcohol"] >= 12 for row in table[30:]) == 50


@pytest.mark.parametrize("media_type", ["json", "csv", "arrow"])
def test_rows_are_scored_where_a_whole_block_passes_none(api: httpx.Client, media_type: str) -> None:
    (last,) = pour(api, f"n=1&seed=4&offset={BLOCK - 1}").json()  # of its block, and passed over by what follows
    asked = f"n=3&seed=4&offset={BLOCK - 1}&alcohol_min={last['alcohol'] + 0.01:.2f}&include=row&include=p_real&include=predicted_quality&format={media_type}"
    answer = pour(api, asked)
    assert answer.status_code == 200, answer.text
    if media_type == "json":
        assert all(row["row"] >= BLOCK and 0 <= row["p_real"] <= 1 for row in answer.json())
        assert len(answer.json()) == 3


def test_include_tells_what_score_tells(api: httpx.Client) -> None:
    rows = pour(api, "n=40&seed=4&include=p_real&include=predicted_quality").json()
    plain = pour(api, "n=40&seed=4").json()
    scores = api.post("/score", json={"rows": plain}).json()["rows"]
    assert [{k: v for k, v in row.items() if k in plain[0]} for row in rows] == plain
    assert [row["p_real"] for row in rows] == [round(score["p_real"], 6) for score in scores]
    assert [row["predicted_quality"] for row in rows] == [score["predicted_quality"] for score in scores]


def test_limits_that_no_row_passes_are_refused_before_any_work(api: httpx.Client) -> None:
    answer = api.get("/samples?n=1&alcohol_min=19&pH_max=3.3")
    assert answer.status_code == 422
    assert "expected limits that some rows pass, found that 0 of 32768 rows do" in answer.json()["detail"]
    assert answer.json()["errors"][0]["pointer"] == "/query/alcohol_min"


def test_more_than_the_deployment_allows_to_be_made_is_refused_and_says_what_would_do(api: httpx.Client) -> None:
    detail = api.get("/samples?n=20000&alcohol_min=12.5").json()["detail"]
    assert "so 20000 rows mean making about" in detail
    most = int(detail.split("ask for at most ")[1].split(",")[0])
    assert len(pour(api, f"n={most}&alcohol_min=12.5").json()) == most


def test_limits_with_nothing_between_them_are_refused(api: httpx.Client) -> None:
    for limits in ("pH_min=3.4&pH_max=3.2", "pH_min=3.201&pH_max=3.209"):
        answer = api.get(f"/samples?{limits}")
        assert answer.status_code == 422
        assert "pH_min, pH_max: expected limits with a value of the grid (steps of 0.01) between them" in answer.json()["detail"]


@pytest.mark.parametrize("query", ["alcohol_min=4", "alcohol_max=21", "pH_min=nan", "density_max=inf", "alcohol_minimum=9"])
def test_limits_outside_of_what_wine_can_be_are_refused(api: httpx.Client, query: str) -> None:
    assert api.get(f"/samples?{query}").status_code == 422


def test_who_has_the_token_may_ask_for_more(api: httpx.Client) -> None:
    asked = f"/samples?n={LIMIT + 1}&format=csv"
    assert api.get(asked).status_code == 422
    assert api.get(asked, headers={"Authorization": f"Bearer {TOKEN}"}).text.count("\n") == LIMIT + 2
    refused = api.get(asked, headers={"Authorization": "Bearer grapes"})
    assert (refused.status_code, refused.json()["type"]) == (401, "urn:cuvee:unauthorised")


def test_a_check_tells_what_the_sample_then_does(api: httpx.Client) -> None:
    asked = {"n": 500, "quality": [7], "alcohol_min": 12}
    told = api.post("/samples/check", json=asked).json()
    rows = pour(api, "n=500&quality=7&alcohol_min=12&seed=1&include=row").json()
    assert told["feasible"]
    assert told["binding"] == "alcohol"
    assert told["rows_scanned"] == pytest.approx(rows[-1]["row"], rel=0.2)
    assert told["acceptance"] == pytest.approx(500 / rows[-1]["row"], rel=0.2)
    assert told["without"] == {"alcohol": 1.0}
    assert told["seconds"] > 0


def test_a_check_of_what_can_not_be_says_why(api: httpx.Client) -> None:
    told = api.post("/samples/check", json={"n": 10, "alcohol_min": 19}).json()
    assert (told["feasible"], told["acceptance"], told["rows_scanned"], told["seconds"]) == (False, 0, None, None)
    assert "expected limits that some rows pass" in told["warnings"][0]


def test_a_check_says_that_the_training_rows_are_not_here(api: httpx.Client) -> None:
    told = api.post("/samples/check", json={}).json()
    assert told["training_rows"] is None
    assert any("its dataset 'uci'" in warning for warning in told["warnings"])


def test_a_check_counts_the_training_rows_behind_a_condition(sqlite_db: Database, few_wines: Wines, tiny: Bundle) -> None:
    uploaded = stored(sqlite_db, csv_of(few_wines))
    lineage = tiny.manifest.lineage.model_copy(update={"dataset_id": uploaded.id})
    (bundle,) = register(sqlite_db, unpack(pack(tiny.manifest.model_copy(update={"lineage": lineage}), tiny.parts)))
    with serve(Settings(database_url=sqlite_db.url.render_as_string(hide_password=False), download=False)) as client:
        told = client.post("/samples/check", json={"model": bundle, "n": 1, "quality": [6], "type": ["white"], "alcohol_min": 10.5}).json()
    train = split(few_wines, holdout=lineage.params["holdout"], seed=lineage.params["split_seed"]).train
    assert told["training_rows"] == ((train.quality == 6) & ~train.red & (train.measurements()[:, ALCOHOL] >= 10.5)).sum() > 0


def test_a_check_warns_of_rare_qualities(api: httpx.Client) -> None:
    warnings = api.post("/samples/check", json={"quality": [3]}).json()["warnings"]
    assert warnings[0] == "quality 3 rests on 24 training rows only"


def test_head_says_what_get_would_and_pours_nothing(api: httpx.Client) -> None:
    asked = "/samples?n=20&seed=1&format=csv"
    head, get = api.head(asked), api.get(asked)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-location", "cuvee-model", "cuvee-seed", "link", "content-type"):
        assert head.headers[name] == get.headers[name]


def test_limits_around_one_lucky_row_are_given_up_in_words_and_others_are_served_meanwhile(api: httpx.Client) -> None:
    (wine,) = pour(api, f"n=1&seed={PROBE_SEED}").json()
    limits = "&".join(f"{name}_{end}={wine[name]}" for name in MEASUREMENTS for end in ("min", "max"))
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.get(f"{api.base_url}/samples?n=1&seed=7&{limits}", timeout=60)))
    asking.start()
    while asking.is_alive():
        assert len(pour(api, "n=1").json()) == 1
    assert answers[0].status_code == 422
    assert answers[0].json()["detail"].startswith("n: expected 1 rows within the limits, found 0 of them among")


def test_rows_behind_the_end_of_the_table_are_refused(api: httpx.Client) -> None:
    assert api.get(f"/samples?n=1&offset={MAX_ROW - 1}").status_code == 200
    answer = api.get(f"/samples?n=2&offset={MAX_ROW - 1}")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/offset")


def test_the_limit_that_binds_is_the_one_that_is_pointed_at(api: httpx.Client) -> None:
    assert api.get("/samples?n=1&alcohol_max=6&pH_min=2.5").json()["errors"][0]["pointer"] == "/query/alcohol_max"


def test_credentials_for_somebody_else_are_no_matter_where_there_is_no_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serve_starter(tmp_path_factory.mktemp("no-token")) as client:
        assert client.get("/samples?n=1", headers={"Authorization": "Basic d2luZQ=="}).status_code == 200


def test_a_refused_token_comes_with_the_challenge_and_the_scheme_in_any_case(api: httpx.Client) -> None:
    assert api.get("/samples?n=1", headers={"Authorization": "Bearer grapes"}).headers["www-authenticate"] == "Bearer"
    assert api.get(f"/samples?n={LIMIT + 1}&format=csv", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
