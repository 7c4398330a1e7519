"""``POST /score``: one score per wine, the same whatever it is scored beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app import registry
from app.api.scores import ScoreAnswer
from app.bundle import CLASSIFIER, CRITIC, DISCRIMINATOR, GENERATOR, Bundle, Calibration, pack, unpack
from app.db import Database
from app.settings import Settings
from tests.conftest import serve, starter_db


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database with the starter model for all tests here: they add models, and change none."""
    with starter_db(tmp_path_factory.mktemp("score")) as database:
        yield database


@pytest.fixture(scope="module")
def api(db: Database) -> Iterator[httpx.Client]:
    """One server over it."""
    with serve(Settings(database_url=db.url.render_as_string(hide_password=False), download=False)) as client:
        yield client


def scores(api: httpx.Client, rows: list[Any], **more: str) -> list[Any]:
    """The scores of these rows."""
    answer = api.post("/score", json={"rows": rows} | more)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["rows"])


def pour(api: httpx.Client, query: str) -> list[Any]:
    """Rows as ``GET /samples`` gives them."""
    return list(api.get(f"/samples?{query}").json())


def test_there_is_one_score_for_each_row(api: httpx.Client) -> None:
    assert [len(scores(api, pour(api, f"n={n}&seed=1"))) for n in (1, 31, 32, 33, 100)] == [1, 31, 32, 33, 100]


@pytest.mark.parametrize("n", [1, 4, 5, 100])
@pytest.mark.parametrize("explain", [False, True])
def test_what_comes_is_the_answer_that_the_documentation_describes(api: httpx.Client, n: int, explain: bool) -> None:
    body = api.post("/score", json={"rows": pour(api, f"n={n}&seed=1"), "explain": explain}).text
    assert ScoreAnswer.model_validate_json(body).model_dump_json() == body


def test_scores_come_in_the_order_of_the_rows(api: httpx.Client) -> None:
    rows = pour(api, "n=50&seed=1")
    assert scores(api, rows[::-1]) == scores(api, rows)[::-1]


def test_a_score_does_not_depend_on_the_rows_beside_it(api: httpx.Client) -> None:
    rows = pour(api, "n=100&seed=2")
    alone = [scores(api, [row])[0] for row in rows]
    batches = [scores(api, rows[:size]) for size in range(1, 101)]
    assert batches == [alone[:size] for size in range(1, 101)]


def test_a_score_does_not_depend_on_its_place_among_the_rows(api: httpx.Client) -> None:
    rows = pour(api, "n=40&seed=2")
    whole = scores(api, rows)
    assert [scores(api, rows[first:]) for first in range(40)] == [whole[first:] for first in range(40)]


SHARES = ("p_real", "discriminator", "critic", "percentile")


def test_p_real_and_what_it_comes_from_lie_between_0_and_1(api: httpx.Client) -> None:
    assert [s for s in scores(api, pour(api, "n=1000&seed=3")) if not all(0 <= s[name] <= 1 for name in SHARES)] == []


def test_so_they_do_for_wines_at_the_physical_bounds(api: httpx.Client) -> None:
    wine = pour(api, "n=1&seed=3")[0]
    low = wine | {"fixed_acidity": 0, "citric_acid": 0, "density": 0.95, "pH": 2, "alcohol": 5, "free_sulfur_dioxide": 0, "total_sulfur_dioxide": 0}
    high = wine | {"fixed_acidity": 30, "residual_sugar": 300, "density": 1.15, "pH": 5, "alcohol": 20, "total_sulfur_dioxide": 1000}
    assert [s for s in scores(api, [low, high]) if not all(0 <= s[name] <= 1 for name in SHARES)] == []


def test_p_real_is_the_critic_s(api: httpx.Client) -> None:
    assert [s for s in scores(api, pour(api, "n=50&seed=3")) if s["p_real"] != s["critic"] or s["p_real"] == s["discriminator"]] == []


def test_a_wine_as_dense_as_syrup_is_called_unreal(api: httpx.Client) -> None:
    syrup = scores(api, [row | {"density": 1.05} for row in pour(api, "n=200&seed=3")])
    assert [s for s in syrup if s["p_real"] > 0.01 or s["percentile"] > 0.05] == []


def test_the_model_s_own_wines_look_about_as_real_as_real_ones(api: httpx.Client) -> None:
    percentiles = sorted(s["percentile"] for s in scores(api, pour(api, "n=1000&seed=5")))
    assert 0.4 < percentiles[500] < 0.65


def test_wines_with_other_wines_density_and_alcohol_rank_low_among_real_ones(api: httpx.Client) -> None:
    rows = pour(api, "n=200&seed=3&type=white")
    odd = [row | {"density": other["density"], "alcohol": third["alcohol"]} for row, other, third in zip(rows, rows[1:], rows[2:], strict=False)]
    assert sorted(s["percentile"] for s in scores(api, odd))[100] < 0.05


def test_a_predicted_quality_is_on_the_tasters_scale(api: httpx.Client) -> None:
    assert {s["predicted_quality"] for s in scores(api, pour(api, "n=1000&seed=3"))} <= set(range(11))


def test_a_predicted_quality_does_not_look_at_the_score_that_it_has_to_tell(api: httpx.Client) -> None:
    wine = pour(api, "n=1&seed=3")[0]
    assert len({s["predicted_quality"] for s in scores(api, [wine | {"quality": quality} for quality in range(11)])}) == 1


def test_wines_poured_at_quality_8_are_predicted_better_than_wines_poured_at_4(api: httpx.Client) -> None:
    worse, better = (sum(s["predicted_quality"] for s in scores(api, pour(api, f"n=200&seed=3&quality={q}"))) for q in (4, 8))
    assert worse < better


def test_whole_numbers_are_numbers(api: httpx.Client) -> None:
    wine = pour(api, "n=1&seed=3")[0]
    assert scores(api, [wine | {"alcohol": 10}]) == scores(api, [wine | {"alcohol": 10.0}])


def test_the_answer_names_the_model_that_an_alias_stands_for(api: httpx.Client) -> None:
    champion = api.get("/models/champion").json()["id"]
    assert api.post("/score", json={"rows": pour(api, "n=1")}).json()["model"] == champion


def test_a_model_can_be_named_by_its_id(api: httpx.Client) -> None:
    rows, champion = pour(api, "n=5&seed=1"), api.get("/models/champion").json()["id"]
    assert scores(api, rows, model=champion) == scores(api, rows)


def register(db: Database, starter: Bundle, without: set[str], **changes: object) -> str:
    """The id of a new model: the starter without some of its parts, its manifest changed."""
    parts = {name: part for name, part in starter.parts.items() if name not in without}
    digests = {name: starter.manifest.parts[name] for name in parts}
    data = pack(starter.manifest.model_copy(update=changes | {"parts": digests}), parts)
    bundle = unpack(data)
    with db.write() as tx:
        registry.publish(tx, bundle, data, job_id=None)
    return bundle.id


def test_another_model_gives_other_scores(api: httpx.Client, db: Database, starter: Bundle) -> None:
    other = register(
        db, starter, set(), calibrations=dict.fromkeys(("discriminator", "critic"), Calibration(slope=1.0, intercept=3.0, rows=1, in_sample=False))
    )
    rows = pour(api, "n=5&seed=1")
    assert scores(api, rows, model=other) != scores(api, rows)


@pytest.fixture(scope="module")
def classifier(db: Database, starter: Bundle) -> str:
    """The id of a model that knows qualities and nothing else."""
    return register(db, starter, {GENERATOR, DISCRIMINATOR, CRITIC}, method="classifier", calibrations={}, ranks=[])


def test_without_a_critic_p_real_is_the_discriminator_s(api: httpx.Client, db: Database, starter: Bundle) -> None:
    rows = pour(api, "n=40&seed=1")
    calibrations = {"discriminator": starter.manifest.calibrations["discriminator"]}
    answers = scores(api, rows, model=register(db, starter, {CRITIC}, calibrations=calibrations, ranks=[]))
    both = scores(api, rows)
    assert [(a["p_real"], a["discriminator"], a["critic"], a["percentile"]) for a in answers] == [
        (s["discriminator"], s["discriminator"], None, None) for s in both
    ]
    assert [a["predicted_quality"] for a in answers] == [s["predicted_quality"] for s in both]


def test_without_a_discriminator_the_critic_still_scores(api: httpx.Client, db: Database, starter: Bundle) -> None:
    rows = pour(api, "n=40&seed=1")
    calibrations = {"critic": starter.manifest.calibrations["critic"]}
    answers = scores(api, rows, model=register(db, starter, {DISCRIMINATOR}, calibrations=calibrations))
    assert answers == [s | {"discriminator": None} for s in scores(api, rows)]


def test_a_classifier_alone_tells_the_quality_and_nothing_else(api: httpx.Client, classifier: str) -> None:
    answers = scores(api, pour(api, "n=40&seed=1"), model=classifier)
    judged = [(a["p_real"], a["discriminator"], a["critic"], a["percentile"]) for a in answers]
    assert judged == [(None, None, None, None)] * 40
    assert all(3 <= a["predicted_quality"] <= 9 for a in answers)


def test_without_a_classifier_no_quality_is_predicted(api: httpx.Client, db: Database, starter: Bundle) -> None:
    rows = pour(api, "n=40&seed=1")
    answers = scores(api, rows, model=register(db, starter, {CLASSIFIER}))
    assert answers == [s | {"predicted_quality": None} for s in scores(api, rows)]


def test_a_model_with_nothing_to_score_with_is_a_conflict(api: httpx.Client, db: Database, starter: Bundle) -> None:
    mute = register(db, starter, {CLASSIFIER, CRITIC, DISCRIMINATOR})
    answer = api.post("/score", json={"rows": pour(api, "n=1"), "model": mute})
    assert (answer.status_code, answer.json()["type"], answer.json()["detail"]) == (
        409,
        "urn:cuvee:conflict",
        f"model {mute} was trained by method 'gan' and has neither critic, discriminator nor classifier to score with; GET /models lists others",
    )


def test_a_model_without_a_generator_can_not_pour(api: httpx.Client, classifier: str) -> None:
    answer = api.get(f"/samples?model={classifier}")
    assert (answer.status_code, answer.json()["type"], answer.json()["detail"]) == (
        409,
        "urn:cuvee:conflict",
        f"model {classifier} was trained by method 'classifier', which does not generate wines; GET /models lists others",
    )


def test_a_type_that_the_model_never_saw_is_refused_with_its_row_named(api: httpx.Client, db: Database, starter: Bundle) -> None:
    white_only = register(db, starter, set(), labels={"white": starter.manifest.labels["white"]})
    answer = api.post("/score", json={"rows": pour(api, "n=1&type=white") + pour(api, "n=1&type=red"), "model": white_only})
    fault = answer.json()["errors"][0]
    assert (answer.status_code, fault["pointer"], fault["expected"], fault["found"]) == (422, "/body/rows/1/type", "white", "red")
