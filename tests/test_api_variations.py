"""``POST /variations``: what may be asked, and what an answer says of itself."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pandas as pd
import pytest

from app import gate, registry
from app.bundle import Bundle, unpack
from app.db import Database
from app.settings import Settings
from app.wine import NAMES, Wines
from tests.conftest import Silent, assignment, serve, starter_db
from tests.test_variations import SMALL
from worker.pipeline import work

WHITE: dict[str, Any] = dict(zip(NAMES, [7.0, 0.27, 0.36, 20.7, 0.045, 45.0, 170.0, 1.001, 3.0, 0.45, 8.8, 6, "white"], strict=True))
DRIER = WHITE | {"residual_sugar": 1.6, "density": 0.994, "alcohol": 9.5, "quality": 5}
RED = WHITE | {"total_sulfur_dioxide": 60.0, "type": "red"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The starter model, and no autoencoder yet."""
    with starter_db(tmp_path_factory.mktemp("variations")) as database:
        yield database


@pytest.fixture(scope="module")
def bare(database: Database) -> Iterator[httpx.Client]:
    """The API before an autoencoder was trained."""
    with serve(Settings(database_url=database.url.render_as_string(hide_password=False), download=False)) as client:
        yield client


@pytest.fixture(scope="module")
def bundle(few_wines: Wines) -> bytes:
    return work(assignment(few_wines, method="autoencoder", **SMALL), Silent())


@pytest.fixture(scope="module")
def api(bare: httpx.Client, database: Database, bundle: bytes) -> httpx.Client:
    """The API once there is one."""
    trained: Bundle = unpack(bundle)
    with database.write() as tx:
        registry.publish(tx, trained, bundle, job_id=None)
        registry.point(tx, gate.contested(trained), trained.id, reason="test")
    return bare


def test_before_an_autoencoder_is_trained_it_says_how_to_train_one(bare: httpx.Client) -> None:
    answer = bare.post("/variations", json={"rows": [WHITE]})
    assert (answer.status_code, answer.json()["type"], answer.json()["detail"]) == (
        404,
        "urn:cuvee:not-found",
        'there is no autoencoder to vary wines with yet; train one: POST /train with {"method": "autoencoder"}',
    )


def vary(api: httpx.Client, *rows: dict[str, Any], **asked: object) -> list[dict[str, Any]]:
    """The varied rows."""
    answer = api.post("/variations", json={"rows": rows} | asked)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def test_one_wine_has_ten_variations_of_its_type_and_quality_unless_more_are_asked_for(api: httpx.Client) -> None:
    rows = vary(api, WHITE)
    assert [list(row) for row in rows] == [list(NAMES)] * 10
    assert {(row["quality"], row["type"]) for row in rows} == {(6, "white")}
    assert len(vary(api, WHITE, n=77)) == 77


def test_an_answer_names_the_model_and_the_seed_that_give_it_again(api: httpx.Client) -> None:
    first = api.post("/variations", json={"rows": [WHITE]})
    again = api.post("/variations", json={"rows": [WHITE], "seed": int(first.headers["Cuvee-Seed"]), "model": first.headers["Cuvee-Model"]})
    assert again.content == first.content
    assert first.headers["Cuvee-Model"] == api.get("/models/autoencoder").json()["id"]


def test_without_a_seed_each_answer_is_another(api: httpx.Client) -> None:
    assert vary(api, WHITE, spread=2) != vary(api, WHITE, spread=2)


def test_without_spread_every_row_is_the_reconstruction(api: httpx.Client) -> None:
    assert len({tuple(row.values()) for seed in (1, 2) for row in vary(api, WHITE, spread=0, seed=seed, n=20)}) == 1


@pytest.mark.parametrize("asked", [{"n": 5}, {"steps": 5}])
def test_two_wines_give_the_way_from_one_to_the_other(api: httpx.Client, asked: dict[str, int]) -> None:
    ends = [vary(api, wine, spread=0, n=1)[0] for wine in (WHITE, DRIER)]
    way = vary(api, WHITE, DRIER, **asked)
    assert len(way) == 5
    assert [way[0], way[-1]] == ends


def test_the_way_is_the_same_whatever_the_seed(api: httpx.Client) -> None:
    assert vary(api, WHITE, DRIER, seed=1) == vary(api, WHITE, DRIER, seed=2)


def test_another_quality_may_be_asked_for(api: httpx.Client) -> None:
    better = vary(api, WHITE, quality=7, seed=1)
    assert {(row["quality"], row["type"]) for row in better} == {(7, "white")}
    assert better != [row | {"quality": 7} for row in vary(api, WHITE, seed=1)]


def test_a_rare_quality_is_warned_of(api: httpx.Client) -> None:
    answer = api.post("/variations", json={"rows": [WHITE], "quality": 4})
    assert "quality 4 rests on" in answer.headers["Cuvee-Warning"]


def test_the_answer_can_be_csv(api: httpx.Client) -> None:
    expected = pd.DataFrame(vary(api, WHITE, seed=1))
    by_name = api.post("/variations", json={"rows": [WHITE], "seed": 1, "format": "csv"})
    by_header = api.post("/variations", json={"rows": [WHITE], "seed": 1}, headers={"accept": "text/csv"})
    assert by_name.content == by_header.content
    assert by_name.headers["content-type"].startswith("text/csv")
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(by_name.content)), expected)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rows": []}, "/body/rows"),
    ({"rows": [WHITE] * 3}, "/body/rows"),
    ({"rows": [WHITE | {"alcohol": 99}]}, "/body/rows/0/alcohol"),
    ({"rows": [WHITE], "n": 0}, "/body/n"),
    ({"rows": [WHITE], "n": 10_001}, "/body/n"),
    ({"rows": [WHITE], "spread": -0.1}, "/body/spread"),
    ({"rows": [WHITE], "spread": 5.1}, "/body/spread"),
    ({"rows": [WHITE], "quality": 11}, "/body/quality"),
    ({"rows": [WHITE], "quality": 0}, "/body/quality"),
    ({"rows": [WHITE], "seed": -1}, "/body/seed"),
    ({"rows": [WHITE], "strength": 1}, "/body/strength"),
    ({"rows": [WHITE], "steps": 5}, "/body/steps"),
    ({"rows": [WHITE, DRIER], "steps": 1}, "/body/steps"),
    ({"rows": [WHITE, DRIER], "steps": 5, "n": 5}, "/body/steps"),
    ({"rows": [WHITE, DRIER], "n": 1}, "/body/n"),
    ({"rows": [WHITE, RED]}, "/body/rows/1/type"),
    ({"rows": [WHITE | {"quality": 0}]}, "/body/rows/0/quality"),
]


@pytest.mark.parametrize(("asked", "pointer"), REFUSED)
def test_what_makes_no_sense_is_refused_with_its_place(api: httpx.Client, asked: dict[str, Any], pointer: str) -> None:
    answer = api.post("/variations", json=asked)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_model_without_an_encoder_is_a_conflict_that_says_what_to_do(api: httpx.Client) -> None:
    answer = api.post("/variations", json={"rows": [WHITE], "model": "champion"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cuvee:conflict")
    assert answer.json()["detail"].endswith('has no latent space to walk in; train one: POST /train with {"method": "autoencoder"}')


def test_an_unknown_model_is_not_found_by_its_name(api: httpx.Client) -> None:
    answer = api.post("/variations", json={"rows": [WHITE], "model": "nope"})
    assert (answer.status_code, "'nope'" in answer.json()["detail"]) == (404, True)


def test_an_autoencoder_scores_wines_by_its_critic_and_predicts_no_quality(api: httpx.Client) -> None:
    score = api.post("/score", json={"rows": [WHITE], "model": "autoencoder"}).json()["rows"][0]
    assert score["p_real"] == score["critic"] is not None
    assert (score["discriminator"], score["predicted_quality"]) == (None, None)


def test_an_autoencoder_pours_like_any_model(api: httpx.Client) -> None:
    assert len(api.get("/samples?model=autoencoder&n=50&quality=6&seed=1").json()) == 50


def test_an_answer_says_how_far_each_wine_is_from_its_reconstruction(api: httpx.Client) -> None:
    def errors(*rows: dict[str, Any]) -> list[float]:
        answer = api.post("/variations", json={"rows": rows, "spread": 0})
        return [float(error) for error in answer.headers["cuvee-reconstruction-error"].split(", ")]

    (of_one,) = errors(WHITE)
    again = vary(api, WHITE, spread=0, n=1)[0]
    assert of_one > 0
    assert errors(again, WHITE)[1] == of_one
    assert len(errors(WHITE, again)) == 2
