"""The rows that ``GET /samples`` pours, and the headers that make each answer a receipt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path

import httpx
import pandas as pd
import pytest

from app import migrations, registry
from app.api.samples import STREAM_ABOVE
from app.db import Database
from app.settings import Settings
from tests.conftest import serve

NAMES = [
    "fixed_acidity",
    "volatile_acidity",
    "citric_acid",
    "residual_sugar",
    "chlorides",
    "free_sulfur_dioxide",
    "total_sulfur_dioxide",
    "density",
    "pH",
    "sulphates",
    "alcohol",
    "quality",
    "type",
]
GRID = {  # decimal places, and the bounds that no wine is outside of
    "fixed_acidity": (2, 0, 30),
    "volatile_acidity": (3, 0, 5),
    "citric_acid": (2, 0, 5),
    "residual_sugar": (2, 0, 300),
    "chlorides": (3, 0, 2),
    "free_sulfur_dioxide": (1, 0, 500),
    "total_sulfur_dioxide": (1, 0, 1000),
    "density": (5, 0.95, 1.15),
    "pH": (2, 2, 5),
    "sulphates": (2, 0, 5),
    "alcohol": (2, 5, 20),
}


def serve_starter(folder: Path) -> AbstractContextManager[httpx.Client]:
    """The API on the database in this folder, made there with the starter model if it was not."""
    database = Database(f"sqlite:///{folder}/cuvee.db")
    migrations.upgrade(database)
    with database.write() as tx:
        registry.install_starter(tx)
    database.close()
    return serve(Settings(database_url=f"sqlite:///{folder}/cuvee.db", download=False, cache_dir=folder / "cache"))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all tests here: pouring changes nothing."""
    with serve_starter(tmp_path_factory.mktemp("samples")) as client:
        yield client


def pour(api: httpx.Client, query: str, **headers: str) -> httpx.Response:
    """A good answer to ``GET /samples?{query}``."""
    answer = api.get(f"/samples?{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def objects(answer: httpx.Response) -> list[str]:
    """The text of each row of a JSON answer, as it came."""
    return answer.text.removeprefix("[{").removesuffix("}]").split("},{")


def lines(answer: httpx.Response) -> list[str]:
    """The lines of a CSV answer without its header, as they came."""
    return answer.text.removesuffix("\n").split("\n")[1:]


def champion(api: httpx.Client) -> str:
    """The id of the champion."""
    return str(api.get("/models/champion").json()["id"])


@pytest.mark.parametrize("n", [1, 100, 511, 512, 513, 2000])
def test_there_are_exactly_n_rows(api: httpx.Client, n: int) -> None:
    assert len(pour(api, f"n={n}").json()) == n


def test_there_are_100_rows_where_nothing_is_said(api: httpx.Client) -> None:
    assert len(pour(api, "").json()) == 100


def test_every_row_has_the_13_columns_in_their_order(api: httpx.Client) -> None:
    assert {tuple(row) for row in pour(api, "n=700&seed=1").json()} == {tuple(NAMES)}


def test_a_csv_begins_with_the_13_columns_in_their_order(api: httpx.Client) -> None:
    assert pour(api, "n=1&format=csv").text.split("\n")[0] == ",".join(NAMES)


@pytest.mark.parametrize(("offset", "n"), [(0, 1), (1, 1), (0, 512), (511, 2), (512, 488), (700, 300), (999, 1)])
def test_a_row_is_byte_for_byte_the_same_in_every_json_answer_that_holds_it(api: httpx.Client, offset: int, n: int) -> None:
    whole = objects(pour(api, "n=1000&seed=7"))
    assert objects(pour(api, f"n={n}&offset={offset}&seed=7")) == whole[offset : offset + n]


@pytest.mark.parametrize(("offset", "n"), [(0, 1), (511, 2), (512, 488), (700, 300)])
def test_a_row_is_byte_for_byte_the_same_in_every_csv_answer_that_holds_it(api: httpx.Client, offset: int, n: int) -> None:
    whole = lines(pour(api, "n=1000&seed=7&format=csv"))
    assert lines(pour(api, f"n={n}&offset={offset}&seed=7&format=csv")) == whole[offset : offset + n]


def test_a_condition_does_not_break_paging(api: httpx.Client) -> None:
    whole = objects(pour(api, "n=600&seed=7&quality=4&quality=8&type=white"))
    assert objects(pour(api, "n=100&offset=500&seed=7&type=white&quality=8&quality=4")) == whole[500:]


def test_json_and_csv_hold_the_same_values(api: httpx.Client) -> None:
    as_json = [[str(value) for value in row.values()] for row in pour(api, "n=600&seed=3").json()]
    assert [line.split(",") for line in lines(pour(api, "n=600&seed=3&format=csv"))] == as_json


def test_rows_far_down_the_table_can_be_asked_for(api: httpx.Client) -> None:
    two = objects(pour(api, "n=2&seed=7&offset=9000000000000000"))
    assert objects(pour(api, "n=1&seed=7&offset=9000000000000001")) == two[1:]


def test_another_seed_is_another_table(api: httpx.Client) -> None:
    assert set(objects(pour(api, "n=50&seed=1"))).isdisjoint(objects(pour(api, "n=50&seed=2")))


def test_the_same_bytes_come_after_a_restart(tmp_path: Path) -> None:
    with serve_starter(tmp_path) as client:
        before = pour(client, "n=600&seed=7").content
    with serve_starter(tmp_path) as client:
        assert pour(client, "n=600&seed=7").content == before


def test_the_same_bytes_come_from_two_servers_that_share_nothing(api: httpx.Client, tmp_path: Path) -> None:
    with serve_starter(tmp_path) as other:
        assert pour(other, "n=600&seed=7&offset=100").content == pour(api, "n=600&seed=7&offset=100").content


def test_following_next_links_walks_the_table_without_gap_or_overlap(api: httpx.Client) -> None:
    walked, page = [], pour(api, "n=170&seed=7&quality=6&quality=7")
    for _ in range(4):
        walked += objects(page)
        page = api.get(page.links["next"]["url"])
    assert walked == objects(pour(api, "n=680&seed=7&quality=6&quality=7"))


def test_a_walk_that_began_without_a_seed_stays_in_one_table(api: httpx.Client) -> None:
    first = pour(api, "n=10")
    second = api.get(first.links["next"]["url"])
    assert objects(first) + objects(second) == objects(pour(api, f"n=20&seed={first.headers['cuvee-seed']}"))


def test_the_last_row_that_can_be_asked_for_has_no_next_page(api: httpx.Client) -> None:
    assert "next" not in pour(api, "n=1&offset=9007199254740991").links


@pytest.mark.parametrize("query", ["n=20", "n=20&format=csv", "n=20&seed=5&offset=3&quality=7&quality=5&type=red"])
def test_content_location_returns_the_very_same_bytes_and_etag(api: httpx.Client, query: str) -> None:
    first = pour(api, query)
    again = api.get(first.headers["content-location"])
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])


def test_content_location_keeps_a_format_that_was_asked_for_by_accept(api: httpx.Client) -> None:
    first = pour(api, "n=20&seed=1", accept="text/csv")
    assert pour(api, first.headers["content-location"].split("?")[1], accept="application/json").content == first.content


def test_a_seed_that_was_picked_is_said_and_gives_the_same_rows_again(api: httpx.Client) -> None:
    first = pour(api, "n=20")
    assert pour(api, f"n=20&seed={first.headers['cuvee-seed']}").content == first.content


@pytest.mark.parametrize("query", ["n=20", "n=600&quality=7&offset=300&include=row&format=csv", "n=100&format=parquet&type=red&mix=balanced"])
def test_answers_without_a_seed_are_different_rows_poured_ahead_or_not_each_with_the_url_that_returns_it(api: httpx.Client, query: str) -> None:
    answers = [pour(api, query) for _ in range(8)]
    assert len({answer.headers["cuvee-seed"] for answer in answers}) == 8
    pinned = [api.get(answer.headers["content-location"]) for answer in answers]
    assert [answer.content for answer in pinned] == [answer.content for answer in answers]
    told = "etag", "link", "cuvee-model", "cuvee-seed", "content-type", "content-location"
    assert [[answer.headers[name] for name in told] for answer in pinned] == [[answer.headers[name] for name in told] for answer in answers]


def test_the_answer_says_which_model_poured_it(api: httpx.Client) -> None:
    assert pour(api, "n=1").headers["cuvee-model"] == champion(api)


def test_an_answer_is_immutable_where_seed_and_model_are_pinned(api: httpx.Client) -> None:
    assert pour(api, f"n=1&seed=1&model={champion(api)}").headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("query", ["n=1", "n=1&seed=1", "n=1&seed=1&model=champion", "n=1&model={id}"])
def test_an_answer_that_leaves_seed_or_model_open_is_not_kept_by_caches(api: httpx.Client, query: str) -> None:
    assert pour(api, query.format(id=champion(api))).headers["cache-control"] == "no-cache"


def test_rows_that_the_client_has_already_are_not_sent_again(api: httpx.Client) -> None:
    etag = pour(api, "n=20&seed=1").headers["etag"]
    answer = api.get("/samples?n=20&seed=1", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize("header", ["W/{etag}", '"another", {etag}', "*"])
def test_if_none_match_is_read_as_http_defines_it(api: httpx.Client, header: str) -> None:
    etag = pour(api, "n=20&seed=1").headers["etag"]
    assert api.get("/samples?n=20&seed=1", headers={"If-None-Match": header.format(etag=etag)}).status_code == 304


@pytest.mark.parametrize("query", ["n=21&seed=1", "n=20&seed=2", "n=20&seed=1&offset=1", "n=20&seed=1&quality=5", "n=20&seed=1&format=csv"])
def test_an_etag_names_one_answer_only(api: httpx.Client, query: str) -> None:
    etag = pour(api, "n=20&seed=1").headers["etag"]
    assert api.get(f"/samples?{query}", headers={"If-None-Match": etag}).status_code == 200


def test_every_row_is_of_the_quality_that_was_asked_for(api: httpx.Client) -> None:
    assert {row["quality"] for row in pour(api, "n=600&seed=1&quality=7").json()} == {7}


def test_qualities_asked_for_together_come_mixed(api: httpx.Client) -> None:
    assert {row["quality"] for row in pour(api, "n=600&seed=1&quality=4&quality=8").json()} == {4, 8}


def test_every_row_is_of_the_type_that_was_asked_for(api: httpx.Client) -> None:
    assert {row["type"] for row in pour(api, "n=600&seed=1&type=red").json()} == {"red"}


def test_both_types_asked_for_are_both_poured(api: httpx.Client) -> None:
    assert {row["type"] for row in pour(api, "n=600&seed=1&type=red&type=white").json()} == {"red", "white"}


def test_quality_and_type_hold_together(api: httpx.Client) -> None:
    assert {(row["quality"], row["type"]) for row in pour(api, "n=600&seed=1&quality=8&type=red").json()} == {(8, "red")}


def test_a_quality_that_the_training_data_hardly_hold_comes_with_a_warning(api: httpx.Client) -> None:
    assert pour(api, "n=5&quality=3").headers["cuvee-warning"] == "quality 3 rests on 24 training rows only"


def test_a_well_known_quality_comes_without_a_warning(api: httpx.Client) -> None:
    assert "cuvee-warning" not in pour(api, "n=5&quality=6").headers


@pytest.mark.parametrize("name", GRID)
def test_every_value_lies_on_its_decimal_grid_and_inside_physical_bounds(api: httpx.Client, name: str) -> None:
    column = lines(pour(api, "n=4000&seed=11&format=csv"))
    decimals, low, high = GRID[name]
    values = [Decimal(line.split(",")[NAMES.index(name)]) for line in column]
    assert [v for v in values if v != round(v, decimals) or not low <= v <= high] == []


def test_free_sulfur_dioxide_is_never_above_the_total(api: httpx.Client) -> None:
    rows = pour(api, "n=4000&seed=11").json()
    assert [row for row in rows if row["free_sulfur_dioxide"] > row["total_sulfur_dioxide"]] == []


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/json", "application/json"),
        ("text/csv", "text/csv; charset=utf-8"),
        ("TEXT/CSV", "text/csv; charset=utf-8"),
        ("text/*", "text/csv; charset=utf-8"),
        ("*/*", "application/json"),
        ("text/csv;q=0.9, application/json;q=0.1", "text/csv; charset=utf-8"),
        ("text/csv;q=0.1, application/json;q=0.9", "application/json"),
        ("application/json;q=0, */*", "text/csv; charset=utf-8"),
        ("text/csv; q=0.5, */*; q=0.1", "text/csv; charset=utf-8"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
    ],
)
def test_the_format_is_the_one_that_accept_likes_best(api: httpx.Client, accept: str, media_type: str) -> None:
    assert pour(api, "n=1", accept=accept).headers["content-type"] == media_type


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0, application/json;q=0", "*/*;q=0"])
def test_an_accept_header_that_nothing_of_ours_fits_gets_406(api: httpx.Client, accept: str) -> None:
    answer = api.get("/samples", headers={"Accept": accept})
    assert (answer.status_code, answer.json()["type"]) == (406, "urn:cuvee:not-acceptable")


def test_format_in_the_query_beats_the_accept_header(api: httpx.Client) -> None:
    assert pour(api, "n=1&format=csv", accept="application/json").headers["content-type"] == "text/csv; charset=utf-8"


def test_pandas_reads_the_json_from_its_url(api: httpx.Client) -> None:
    table = pd.read_json(f"{api.base_url}/samples?n=30&seed=1")
    assert (table.shape, list(table.columns)) == ((30, 13), NAMES)


def test_pandas_reads_the_csv_from_its_url(api: httpx.Client) -> None:
    table = pd.read_csv(f"{api.base_url}/samples?n=30&seed=1&format=csv")
    assert table.to_dict("records") == pour(api, "n=30&seed=1").json()


def test_a_streamed_json_answer_is_its_pages_put_together(api: httpx.Client) -> None:
    streamed = pour(api, f"n={STREAM_ABOVE + 1}&seed=7")
    pages = objects(pour(api, f"n={STREAM_ABOVE}&seed=7")) + objects(pour(api, f"n=1&offset={STREAM_ABOVE}&seed=7"))
    assert (streamed.headers["transfer-encoding"], objects(streamed)) == ("chunked", pages)


def test_a_streamed_csv_answer_is_its_pages_put_together(api: httpx.Client) -> None:
    streamed = pour(api, f"n={STREAM_ABOVE + 1}&seed=7&format=csv")
    pages = lines(pour(api, f"n={STREAM_ABOVE}&seed=7&format=csv")) + lines(pour(api, f"n=1&offset={STREAM_ABOVE}&seed=7&format=csv"))
    assert (streamed.headers["transfer-encoding"], lines(streamed)) == ("chunked", pages)


def test_a_client_that_leaves_in_the_middle_of_a_big_answer_does_not_hurt_the_next(api: httpx.Client) -> None:
    with api.stream("GET", "/samples?n=1000000&seed=1") as answer:
        assert next(answer.iter_bytes(1000)).startswith(b'[{"fixed_acidity":')
    assert len(pour(api, "n=10").json()) == 10


def test_more_rows_than_the_cap_are_refused_with_the_cap_named(api: httpx.Client) -> None:
    answer = api.get("/samples?n=10000001")
    assert (answer.status_code, answer.json()["errors"][0]["expected"], answer.json()["errors"][0]["found"]) == (422, "at most 10000000", "10000001")
