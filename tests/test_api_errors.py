"""What bad input gets: a problem document that names the field, what was expected and what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app import migrations, registry
from app.db import Database
from app.params import METHODS
from app.settings import Settings
from tests.conftest import serve

WINE = {
    "fixed_acidity": 7.4,
    "volatile_acidity": 0.7,
    "citric_acid": 0.0,
    "residual_sugar": 1.9,
    "chlorides": 0.076,
    "free_sulfur_dioxide": 11.0,
    "total_sulfur_dioxide": 34.0,
    "density": 0.9978,
    "pH": 3.51,
    "sulphates": 0.56,
    "alcohol": 9.4,
    "quality": 5,
    "type": "red",
}
JSON = {"Content-Type": "application/json"}
LIMIT = 2**16  # bytes of a body, in the API of these tests


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server with small limits for all tests here: what is refused changes nothing."""
    folder = tmp_path_factory.mktemp("errors")
    database = Database(f"sqlite:///{folder}/cuvee.db")
    migrations.upgrade(database)
    with database.write() as tx:
        registry.install_starter(tx)
    database.close()
    settings = Settings(
        database_url=f"sqlite:///{folder}/cuvee.db",
        download=False,
        cache_dir=folder / "cache",
        max_upload_bytes=LIMIT,
        max_json_bytes=LIMIT,
        max_score_rows=5,
        max_rows=1000,
    )
    with serve(settings) as client:
        yield client


def problem(answer: httpx.Response, status: int, kind: str) -> Any:
    """The problem document, once it is seen to be one of this status and type."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    document = answer.json()
    assert (document["status"], document["type"]) == (status, f"urn:cuvee:{kind}")
    return document


def faults(document: Any) -> list[tuple[str, str, str]]:
    """Where, what was expected and what was found, of each fault."""
    return [(fault["pointer"], fault["expected"], fault["found"]) for fault in document["errors"]]


def score(api: httpx.Client, body: object) -> httpx.Response:
    """The answer to ``POST /score`` with this body; NaN and Infinity travel as Python writes them."""
    return api.post("/score", content=json.dumps(body), headers=JSON)


def test_rows_that_the_table_s_end_has_not_enough_of_are_refused_before_any_is_sent(api: httpx.Client) -> None:
    answer = api.get(f"/samples?n=600&offset={2**53 - 601}&alcohol_min=9.2&seed=1")
    assert "600 rows mean making about" in problem(answer, 422, "invalid-input")["detail"]


def test_half_a_surrogate_pair_is_refused_like_any_other_name(api: httpx.Client) -> None:
    answer = api.post("/score", content=b'{"x\\ud800": 1}', headers={"Content-Type": "application/x-ndjson"})
    assert problem(answer, 422, "invalid-input")["errors"][0]["found"] == "x\ud800"


def test_a_json_body_is_held_to_its_own_limit_however_its_type_is_written(api: httpx.Client) -> None:
    body = b'{"rows": [' + b" " * LIMIT + b"]}"
    for written in ("application/json", "Application/JSON", "application/json ; charset=utf-8"):
        problem(api.post("/score", content=body, headers={"Content-Type": written}), 413, "too-large")


def test_of_several_accept_lines_all_count(api: httpx.Client) -> None:
    answer = api.get("/samples?n=1", headers=[("Accept", "application/xml"), ("Accept", "text/csv")])
    assert answer.headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize(("asked", "meant"), [("qualty=7", "quality"), ("ph_min=3", "pH_min"), ("modle=champion", "model")])
def test_a_misspelt_parameter_is_told_the_likeliest(api: httpx.Client, asked: str, meant: str) -> None:
    name = asked.split("=", maxsplit=1)[0]
    document = problem(api.get(f"/samples?{asked}"), 422, "invalid-input")
    assert document["detail"] == f"{name}: there is no such name here; did you mean {meant}?"
    assert faults(document) == [(f"/query/{name}", meant, name)]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/samples/check", {"n": "5"}, [("/body/n", "a whole number", "'5'")]),
        ("/samples/check", {"n": 10**400}, [("/body/n", "at most 9007199254740992", "1" + "0" * 59 + "...")]),
        ("/train", {"params": {"classifier": "x\0"}}, [("/body/params/classifier", "text without control characters", r"'x\x00'")]),
        ("/samples/check", {"alcohol_min": True}, [("/body/alcohol_min", "a number", "true")]),
        ("/train", {"priority": False}, [("/body/priority", "a whole number", "false")]),
        (
            "/train",
            {"params": {"lr": True, "attention": "yes"}},
            [("/body/params/attention", "true or false", "'yes'"), ("/body/params/lr", "a number", "true")],
        ),
        ("/variations", {"rows": [WINE], "spread": "0.5"}, [("/body/spread", "a number", "'0.5'")]),
        ("/score", {"rows": [WINE], "explain": 1}, [("/body/explain", "true or false", "1")]),
    ],
)
def test_in_json_neither_text_nor_a_truth_value_is_a_number(api: httpx.Client, path: str, body: object, expected: list[tuple[str, str, str]]) -> None:
    assert faults(problem(api.post(path, json=body), 422, "invalid-input")) == expected


@pytest.mark.parametrize(
    ("query", "pointer", "expected", "found"),
    [
        ("n=0", "/query/n", "at least 1", "'0'"),
        ("n=-1", "/query/n", "at least 1", "'-1'"),
        ("n=1e12", "/query/n", "a whole number", "'1e12'"),
        ("n=1000000000000", "/query/n", "at most 1000", "1000000000000"),
        ("n=1001", "/query/n", "at most 1000", "1001"),
        ("n=", "/query/n", "a whole number", "''"),
        ("n=2.5", "/query/n", "a whole number", "'2.5'"),
        ("quality=42", "/query/quality/0", "at most 10", "'42'"),
        ("quality=abc", "/query/quality/0", "a whole number", "'abc'"),
        ("quality=5&quality=-1", "/query/quality/1", "at least 0", "'-1'"),
        ("quality=1", "/query/quality", "one that is there (white: 3, 4, 5, 6, 7, 8, 9; red: 3, 4, 5, 6, 7, 8)", "1"),
        ("quality=9&type=red", "/query/quality", "one that is there (white: 3, 4, 5, 6, 7, 8, 9; red: 3, 4, 5, 6, 7, 8)", "9"),
        ("type=rosé", "/query/type/0", "'red' or 'white'", "'rosé'"),
        ("colour=red", "/query/colour", "a name that the documentation lists", "colour"),
        ("seed=-1", "/query/seed", "at least 0", "'-1'"),
        ("seed=9223372036854775808", "/query/seed", "at most 9223372036854775807", "'9223372036854775808'"),
        ("offset=-1", "/query/offset", "at least 0", "'-1'"),
        ("format=xml", "/query/format", "'json', 'ndjson', 'csv', 'parquet' or 'arrow'", "'xml'"),
    ],
)
def test_a_bad_query_is_refused_with_its_field_named(api: httpx.Client, query: str, pointer: str, expected: str, found: str) -> None:
    document = problem(api.get(f"/samples?{query}"), 422, "invalid-input")
    assert faults(document) == [(pointer, expected, found)]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("n=0", "n: expected at least 1, found '0'"),
        ("n=1e12", "n: expected a whole number, found '1e12'"),
        ("n=1001", "n: expected at most 1000 rows in one answer, found 1001; go on with offset"),
        ("type=rosé", "type.0: expected 'red' or 'white', found 'rosé'"),
        ("quality=9&type=red", "the training data hold no wine of quality 9 among red wines"),
    ],
)
def test_the_detail_of_a_refusal_can_be_read_aloud(api: httpx.Client, query: str, detail: str) -> None:
    assert problem(api.get(f"/samples?{query}"), 422, "invalid-input")["detail"] == detail


def test_every_fault_of_a_query_is_listed(api: httpx.Client) -> None:
    document = problem(api.get("/samples?n=0&quality=42&seed=x"), 422, "invalid-input")
    assert [pointer for pointer, _, _ in faults(document)] == ["/query/quality/0", "/query/n", "/query/seed"]


@pytest.mark.parametrize(
    ("change", "pointer", "expected", "found"),
    [
        ({"alcohol": float("nan")}, "/body/rows/0/alcohol", "a finite number", "NaN"),
        ({"alcohol": float("inf")}, "/body/rows/0/alcohol", "a finite number", "Infinity"),
        ({"alcohol": float("-inf")}, "/body/rows/0/alcohol", "a finite number", "-Infinity"),
        ({"alcohol": "9.4"}, "/body/rows/0/alcohol", "a number", "'9.4'"),
        ({"alcohol": 94.0}, "/body/rows/0/alcohol", "at most 20.0", "94.0"),
        ({"pH": 1.9}, "/body/rows/0/pH", "at least 2.0", "1.9"),
        ({"quality": 5.5}, "/body/rows/0/quality", "a whole number", "5.5"),
        ({"quality": 11}, "/body/rows/0/quality", "at most 10", "11"),
        ({"type": "rosé"}, "/body/rows/0/type", "'red' or 'white'", "'rosé'"),
        ({"vintage": 2009}, "/body/rows/0/vintage", "a name that the documentation lists", "rows.0.vintage"),
    ],
)
def test_a_bad_cell_of_a_scored_row_is_named(api: httpx.Client, change: dict[str, object], pointer: str, expected: str, found: str) -> None:
    document = problem(score(api, {"rows": [WINE | change]}), 422, "invalid-input")
    assert faults(document) == [(pointer, expected, found)]


def test_a_missing_column_of_a_scored_row_is_named(api: httpx.Client) -> None:
    without = {name: value for name, value in WINE.items() if name != "pH"}
    assert faults(problem(score(api, {"rows": [without]}), 422, "invalid-input")) == [("/body/rows/0/pH", "a value", "nothing")]


def test_the_row_of_a_bad_cell_is_counted(api: httpx.Client) -> None:
    document = problem(score(api, {"rows": [WINE, WINE, WINE | {"pH": 14}]}), 422, "invalid-input")
    assert [pointer for pointer, _, _ in faults(document)] == ["/body/rows/2/pH"]


@pytest.mark.parametrize("text", ["free_sulfur_dioxide", "total_sulfur_dioxide", "50", "10.5"])
def test_free_sulfur_dioxide_above_the_total_is_refused_with_both_named(api: httpx.Client, text: str) -> None:
    answer = score(api, {"rows": [WINE | {"free_sulfur_dioxide": 50.0, "total_sulfur_dioxide": 10.5}]})
    assert text in problem(answer, 422, "invalid-input")["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", "/body"),
        (b"rows=1", "/body"),
        (b'{"rows": [', "/body"),
        (b'{"rows": "\xff\xfe"}', "/body"),
        (b"null", "/body"),
        (b"[]", "/body"),
        (b"{}", "/body/rows"),
        (b'{"rows": []}', "/body/rows"),
        (b'{"rows": {}}', "/body/rows"),
        (b'{"rows": [1]}', "/body/rows/0"),
    ],
)
def test_a_body_that_is_not_rows_is_refused_with_the_place_named(api: httpx.Client, body: bytes, pointer: str) -> None:
    document = problem(api.post("/score", content=body, headers=JSON), 422, "invalid-input")
    assert [fault["pointer"] for fault in document["errors"]] == [pointer]


def test_empty_rows_are_refused_in_plain_words(api: httpx.Client) -> None:
    assert problem(score(api, {"rows": []}), 422, "invalid-input")["errors"][0]["expected"] == "at least 1 item"


def test_an_unknown_field_beside_the_rows_is_named(api: httpx.Client) -> None:
    document = problem(score(api, {"rows": [WINE], "fast": True}), 422, "invalid-input")
    assert faults(document) == [("/body/fast", "a name that the documentation lists", "fast")]


def test_more_rows_than_may_be_scored_at_once_are_refused_with_the_limit_named(api: httpx.Client) -> None:
    assert faults(problem(score(api, {"rows": [WINE] * 6}), 422, "invalid-input")) == [("/body/rows", "at most 5", "6")]


TAKEN = {"/score": "application/json or text/csv or application/x-ndjson or application/vnd.apache.parquet or application/vnd.apache.arrow.stream"}


@pytest.mark.parametrize("call", ["/score", "/train"])
@pytest.mark.parametrize("found", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_a_body_of_another_type_is_refused_with_both_types_named(api: httpx.Client, call: str, found: str) -> None:
    document = problem(api.post(call, content="{}", headers={"Content-Type": found}), 415, "unsupported-media-type")
    assert faults(document) == [("/header/content-type", TAKEN.get(call, "application/json"), found)]


@pytest.mark.parametrize("call", ["/score", "/train"])
def test_a_body_without_a_type_is_refused(api: httpx.Client, call: str) -> None:
    document = problem(api.post(call, content="{}"), 415, "unsupported-media-type")
    assert faults(document) == [("/header/content-type", TAKEN.get(call, "application/json"), "no Content-Type")]


def test_a_charset_beside_the_type_is_fine(api: httpx.Client) -> None:
    assert api.post("/score", content=json.dumps({"rows": [WINE]}), headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize(("call", "media_type"), [("/score", "application/json"), ("/train", "application/json"), ("/datasets", "text/csv")])
def test_a_body_that_announces_too_many_bytes_is_refused_with_the_limit_named(api: httpx.Client, call: str, media_type: str) -> None:
    document = problem(api.post(call, content=b" " * (LIMIT + 1), headers={"Content-Type": media_type}), 413, "too-large")
    setting = "CUVEE_MAX_JSON_BYTES" if media_type == "application/json" else "CUVEE_MAX_UPLOAD_BYTES"
    assert document["detail"] == f"expected a body of at most 65536 bytes; a deployment may raise {setting}"


@pytest.mark.parametrize(("call", "media_type"), [("/score", "application/json"), ("/train", "application/json"), ("/datasets", "text/csv")])
def test_a_body_that_does_not_announce_its_length_is_held_to_the_same_limit(api: httpx.Client, call: str, media_type: str) -> None:
    pieces = iter([b" " * 2**10] * (LIMIT // 2**10 + 1))
    document = problem(api.post(call, content=pieces, headers={"Content-Type": media_type}), 413, "too-large")
    setting = "CUVEE_MAX_JSON_BYTES" if media_type == "application/json" else "CUVEE_MAX_UPLOAD_BYTES"
    assert document["detail"] == f"expected a body of at most 65536 bytes; a deployment may raise {setting}"


def test_a_body_that_fills_the_limit_to_the_last_byte_is_read(api: httpx.Client) -> None:
    body = json.dumps({"rows": [WINE]}).encode()
    assert api.post("/score", content=body + b" " * (LIMIT - len(body)), headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer", "expected", "found"),
    [
        ({"method": "alchemy"}, "/body/method", " or ".join(METHODS), "alchemy"),
        ({"dataset": "nobody"}, "/body/dataset", "a dataset's id", "nobody"),
        ({"params": {"classifier": "nobody"}}, "/body/params/classifier", "a registered classifier of the same rows", "nobody"),
        ({"params": {"preset": "grand-cru"}}, "/body/params/preset", "'quick', 'default' or 'best'", "'grand-cru'"),
        ({"params": {"stepz": 3}}, "/body/params/stepz", "steps", "params.stepz"),
        ({"params": {"steps": 0}}, "/body/params/steps", "at least 1", "0"),
        ({"params": {"holdout": 0.9}}, "/body/params/holdout", "at most 0.5", "0.9"),
        ({"params": {"lr": 0}}, "/body/params/lr", "more than 0.0", "0"),
        ({"params": {"ema": 1}}, "/body/params/ema", "less than 1.0", "1"),
        ({"params": {"latent": 20}}, "/body/params/latent", "a multiple of 16", "20"),
        ({"params": {"batch": 1.5}}, "/body/params/batch", "a whole number", "1.5"),
        ({"params": {"loss": "hinge"}}, "/body/params/loss", "'r3gan', 'ns' or 'wgan-gp'", "'hinge'"),
        ({"params": {"gamma": float("nan")}}, "/body/params/gamma", "a finite number", "NaN"),
        ({"method": "classifier", "params": {"gamma": 1}}, "/body/params/gamma", "a name that the documentation lists", "params.gamma"),
        ({"params": [1]}, "/body/params", "a JSON object", "[1]"),
        ({"seed": -1}, "/body/seed", "at least 0", "-1"),
        ({"priority": 101}, "/body/priority", "at most 100", "101"),
        ({"promote": "perhaps"}, "/body/promote", "'auto', 'always' or 'never'", "'perhaps'"),
        ({"epochs": 300}, "/body/epochs", "a name that the documentation lists", "epochs"),
    ],
)
def test_a_training_that_can_not_be_is_refused_with_the_field_named(
    api: httpx.Client, body: dict[str, object], pointer: str, expected: str, found: str
) -> None:
    answer = api.post("/train", content=json.dumps(body), headers=JSON)
    assert faults(problem(answer, 422, "invalid-input")) == [(pointer, expected, found)]


def test_each_bad_param_of_a_training_is_named(api: httpx.Client) -> None:
    answer = api.post("/train", json={"params": {"steps": 0, "lr": -1, "stepz": 3}})
    pointers = [pointer for pointer, _, _ in faults(problem(answer, 422, "invalid-input"))]
    assert sorted(pointers) == ["/body/params/lr", "/body/params/steps", "/body/params/stepz"]


def test_a_training_that_was_refused_is_not_queued(api: httpx.Client) -> None:
    api.post("/train", json={"params": {"steps": 0}})
    assert api.get("/jobs").json() == []


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/samples?model=nobody", "no model or alias is called 'nobody'; GET /models lists them"),
        ("/models/nobody", "no model or alias is called 'nobody'; GET /models lists them"),
        ("/jobs/nobody", "no job has the id 'nobody'; GET /jobs lists them"),
        ("/datasets/nobody", "no dataset has the id 'nobody'; GET /datasets lists them, and POST /datasets takes a table of your own"),
    ],
)
def test_what_does_not_exist_gets_404_and_says_where_to_look(api: httpx.Client, path: str, detail: str) -> None:
    assert problem(api.get(path), 404, "not-found")["detail"] == detail


def test_scoring_by_a_model_that_does_not_exist_gets_404(api: httpx.Client) -> None:
    assert "'nobody'" in problem(score(api, {"rows": [WINE], "model": "nobody"}), 404, "not-found")["detail"]


def test_cancelling_a_job_that_does_not_exist_gets_404(api: httpx.Client) -> None:
    assert "'nobody'" in problem(api.post("/jobs/nobody/cancel"), 404, "not-found")["detail"]


@pytest.mark.parametrize("path", ["/models/%00", "/jobs/%00", "/datasets/%00", "/samples?model=%00"])
def test_a_name_that_no_database_can_hold_is_refused_on_each(db: Database, path: str) -> None:
    with serve(Settings(database_url=db.url.render_as_string(hide_password=False), download=False)) as client:
        answer = client.get(path)
    assert "expected text without control characters" in problem(answer, 422, "invalid-input")["detail"]


@pytest.mark.parametrize("path", ["/nowhere", "/samples/1"])
def test_a_path_that_is_no_call_gets_404_and_names_the_list_of_calls(api: httpx.Client, path: str) -> None:
    assert "GET /docs lists every call" in problem(api.get(path), 404, "not-found")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/samples", "GET, HEAD"),
        ("GET", "/score", "POST"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("POST", "/aliases/champion", "GET, PUT, DELETE"),
        ("OPTIONS", "/datasets", "GET, POST"),
    ],
)
def test_a_method_that_a_path_does_not_have_gets_405_and_all_that_it_has(api: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = api.request(method, path)
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "offset=-1", "limit=x", "colour=red"])
@pytest.mark.parametrize("path", ["/jobs", "/models", "/datasets"])
def test_a_list_refuses_a_page_that_can_not_be(api: httpx.Client, path: str, query: str) -> None:
    document = problem(api.get(f"{path}?{query}"), 422, "invalid-input")
    assert [fault["pointer"] for fault in document["errors"]] == [f"/query/{query.split('=', maxsplit=1)[0]}"]


def test_jobs_in_a_state_that_does_not_exist_are_refused_with_the_states_named(api: httpx.Client) -> None:
    expected = "'queued', 'running', 'succeeded', 'failed', 'cancelling' or 'cancelled'"
    assert faults(problem(api.get("/jobs?state=asleep"), 422, "invalid-input")) == [("/query/state", expected, "'asleep'")]


@pytest.mark.parametrize("path", ["/models?limit=1&limit=2", "/samples?n=1&n=2", "/models/champion?foo=1", "/readyz?foo=1"])
def test_a_query_name_given_twice_or_to_a_call_without_any_is_refused(api: httpx.Client, path: str) -> None:
    fault = problem(api.get(path), 422, "invalid-input")["errors"][0]
    assert fault["pointer"] in ("/query/limit", "/query/n", "/query/foo")
    assert fault["expected"] in ("once", "none")


def test_many_bad_rows_are_told_of_by_the_first(api: httpx.Client) -> None:
    faults = problem(api.post("/score", json={"rows": [{}] * 10_000}), 422, "invalid-input")["errors"]
    assert {fault["pointer"].rsplit("/", 1)[0] for fault in faults} == {"/body/rows/0"}
