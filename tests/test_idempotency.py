"""A request with an ``Idempotency-Key`` may be sent twice: one job or dataset comes of it, however many APIs it reaches, and when."""

from __future__ import annotations

import string
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import idempotency, registry
from app.api.idempotency import idempotency_key
from app.db import Database, idempotency_keys
from app.errors import InvalidInput, KeyReused
from app.idempotency import KEEP_S, Key, Made
from app.settings import Settings
from app.wine import Wines
from tests.conftest import csv_of, serve

KEY = Key("train", "key", "fingerprint")
TRAINING = {"dataset": "starter", "params": {"preset": "quick"}}
VISIBLE = "".join(sorted(set(string.digits + string.ascii_letters + string.punctuation) - set('"\\')))


@contextmanager
def two_apis(db: Database) -> Iterator[list[httpx.Client]]:
    """Two API processes' worth of apps on one database."""
    served = Settings(database_url=db.url.render_as_string(hide_password=False), download=False)
    with ExitStack() as stack:
        yield [stack.enter_context(serve(served)) for _ in range(2)]


def at_once(calls: list[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    """The answers to calls that are made at the same time."""
    start, answers = threading.Barrier(len(calls)), list[httpx.Response]()

    def call(ask: Callable[[], httpx.Response]) -> None:
        start.wait()
        answers.append(ask())

    threads = [threading.Thread(target=call, args=(ask,)) for ask in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def train(api: httpx.Client, key: str | None = "key", **body: Any) -> httpx.Response:
    return api.post("/train", json=TRAINING | body, headers={} if key is None else {"Idempotency-Key": key})


def upload(api: httpx.Client, data: bytes, key: str = "key", name: str = "mine") -> httpx.Response:
    return api.post("/datasets", params={"name": name}, content=data, headers={"Content-Type": "text/csv", "Idempotency-Key": key})


def replayed(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("idempotency-replayed") == "true")


@given(st.lists(st.tuples(st.sampled_from(["train", "datasets"]), st.sampled_from("ab"), st.sampled_from("xy")), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_key_stands_for_its_first_request_and_what_that_made(sqlite_db: Database, requests: list[tuple[str, str, str]]) -> None:
    first: dict[tuple[str, str], tuple[str, str]] = {}
    with sqlite_db.write() as tx:
        tx.execute(sa.delete(idempotency_keys))
    for number, (call, text, fingerprint) in enumerate(requests):
        key = Key(call, text, fingerprint)
        expected = first.setdefault((call, text), (fingerprint, str(number)))
        with sqlite_db.write() as tx:
            if expected[0] != fingerprint:
                with pytest.raises(KeyReused):
                    idempotency.once(tx, key, lambda: pytest.fail("made for another request's key"))
            else:
                made = idempotency.once(tx, key, lambda number=number: Made(str(number)))  # type: ignore[misc]
                assert (made.resource, made.replayed) == (expected[1], expected[1] != str(number))


def test_what_was_not_made_leaves_no_key(db: Database) -> None:
    with suppress(ZeroDivisionError), db.write() as tx:
        idempotency.once(tx, KEY, lambda: Made("job"))
        raise ZeroDivisionError  # whatever else goes wrong before the transaction ends
    with db.read() as tx:
        assert idempotency.find(tx, KEY) is None


@pytest.mark.parametrize(("age_s", "known"), [(KEEP_S - 60, True), (KEEP_S + 1, False)])
def test_a_key_is_good_for_a_day_and_gone_with_the_next_after_it(db: Database, age_s: float, known: bool) -> None:
    with db.write() as tx:
        idempotency.once(tx, KEY, lambda: Made("job"))
        tx.execute(sa.update(idempotency_keys).values(created_at=idempotency_keys.c.created_at - age_s))
    with db.write() as tx:
        assert (idempotency.find(tx, KEY) is not None) == known
        idempotency.once(tx, Key("datasets", "another", "fingerprint"), lambda: Made("dataset"))
        assert tx.execute(sa.select(sa.func.count()).select_from(idempotency_keys)).scalar_one() == 1 + known


@given(st.text(VISIBLE, min_size=1, max_size=255))
def test_a_key_may_be_in_quotes_as_the_draft_has_it_or_not(text: str) -> None:
    assert idempotency_key([text]) == idempotency_key([f' "{text}" ']) == text


@pytest.mark.parametrize("given", [[""], ['""'], ["a b"], ["é"], ['"a'], ["a\\"], ["\x7f"], ["x" * 256], ["a", "a"]])
def test_what_is_no_key_is_refused_with_what_one_looks_like(given: list[str]) -> None:
    with pytest.raises(InvalidInput, match="expected one key of 1 to 255 visible ASCII characters") as refused:
        idempotency_key(given)
    assert refused.value.faults[0].pointer == "/header/idempotency-key"


def test_of_trainings_sent_to_two_apis_at_once_with_one_key_comes_one_job(db: Database) -> None:
    with two_apis(db) as apis:
        answers = at_once([lambda api=api: train(api) for api in apis * 4])  # type: ignore[misc]
        jobs = apis[0].get("/jobs").json()
    assert {(answer.status_code, answer.headers["location"]) for answer in answers} == {(202, f"/jobs/{jobs[0]['id']}")}
    assert (len(jobs), sorted(replayed(answer) for answer in answers)) == (1, [False] + [True] * 7)


def test_of_uploads_sent_to_two_apis_at_once_with_one_key_comes_one_dataset(db: Database, few_wines: Wines) -> None:
    with two_apis(db) as apis:
        answers = at_once([lambda api=api: upload(api, csv_of(few_wines)) for api in apis * 4])  # type: ignore[misc]
        stored = [dataset["id"] for dataset in apis[0].get("/datasets").json()]
    assert {(answer.status_code, answer.headers["location"]) for answer in answers} == {(201, f"/datasets/{stored[0]}")}
    assert (len(stored), sorted(replayed(answer) for answer in answers)) == (2, [False] + [True] * 7)  # the starter is there too


def test_a_training_sent_again_is_answered_with_its_job_as_it_is_by_then(api: httpx.Client) -> None:
    first = train(api)
    cancelled = api.post(f"{first.headers['location']}/cancel").json()
    again = train(api, method="gan", params={"preset": "quick", "holdout": 0.2}, seed=None)  # the same, with defaults said
    assert (again.status_code, again.headers["location"], again.json()) == (202, first.headers["location"], cancelled)
    assert (replayed(first), replayed(again)) == (False, True)


def test_a_training_sent_again_does_not_ask_what_its_alias_or_its_data_are_by_now(api: httpx.Client, sqlite_db: Database) -> None:
    body: dict[str, Any] = {"dataset": None, "params": {"classifier": "favourite", "holdout": 0}}
    with sqlite_db.write() as tx:
        registry.point(tx, "favourite", registry.resolve(tx, "champion"), reason="test")
    first = train(api, **body)
    with sqlite_db.write() as tx:
        tx.execute(sa.text("DELETE FROM aliases WHERE alias = 'favourite'"))
    again = train(api, **body)
    assert again.json() == first.json()
    assert again.headers["cuvee-warning"] == first.headers["cuvee-warning"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"params": {"preset": "best"}}, {"dataset": None}, {"priority": 1}, {"promote": "never"}])
def test_a_key_with_another_training_is_refused_and_nothing_is_queued(api: httpx.Client, other: dict[str, Any]) -> None:
    train(api)
    answer = train(api, **other)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:cuvee:idempotency-key-reused")
    assert answer.json()["detail"] == "Idempotency-Key key: expected the request that it came with first, found another; a new request needs a new key"
    assert len(api.get("/jobs").json()) == 1


def test_without_a_key_or_with_another_each_training_is_a_job(api: httpx.Client) -> None:
    assert len({train(api, key).json()["id"] for key in (None, None, "a", "b")}) == 4


def test_the_same_key_on_the_other_call_is_another(api: httpx.Client, few_wines: Wines) -> None:
    assert [replayed(train(api)), replayed(upload(api, csv_of(few_wines))), replayed(train(api))] == [False, False, True]


def test_a_refused_request_leaves_its_key_for_the_mended_one(api: httpx.Client, few_wines: Wines) -> None:
    assert [train(api, seed=seed).status_code for seed in (-1, 1)] == [422, 202]
    assert [train(api, "b", dataset=name).status_code for name in ("nobody", "starter")] == [422, 202]
    assert [upload(api, data).status_code for data in (b"no table", csv_of(few_wines))] == [422, 201]


def test_an_upload_sent_again_is_answered_as_the_first_time(api: httpx.Client, few_wines: Wines) -> None:
    first, again, other_key = (upload(api, csv_of(few_wines), key) for key in ("a", "a", "b"))
    assert [(answer.status_code, replayed(answer)) for answer in (first, again, other_key)] == [(201, False), (201, True), (200, False)]
    assert first.json() == again.json() == other_key.json()


@pytest.mark.parametrize("change", [{"data": b"\n"}, {"name": "yours"}])
def test_a_key_with_another_upload_is_refused(api: httpx.Client, few_wines: Wines, change: dict[str, Any]) -> None:
    upload(api, csv_of(few_wines))
    answer = upload(api, csv_of(few_wines) + change.get("data", b""), name=change.get("name", "mine"))
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:cuvee:idempotency-key-reused")


def test_an_upload_sent_again_does_not_bring_back_what_was_deleted(api: httpx.Client, few_wines: Wines) -> None:
    api.delete(upload(api, csv_of(few_wines)).headers["location"])
    answer = upload(api, csv_of(few_wines))
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cuvee:conflict")
    assert "was deleted; POST /datasets with the same rows brings it back, with another key" in answer.json()["detail"]
    assert upload(api, csv_of(few_wines), "another").status_code == 201
