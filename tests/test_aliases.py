"""Aliases: every change is remembered, and taken back one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import aliases, migrations, registry, retention
from app.bundle import CLASSIFIER, Bundle, digest, pack, unpack
from app.db import Database, now
from app.errors import BundleInvalid, Conflict, NotFound, Stale
from tests.conftest import damage, pouring_only, register

QUALITIES = (4, 5, 6, 7)


@pytest.fixture
def four(db: Database, tiny: Bundle) -> list[Bundle]:
    """Four registered models that pour wines of one quality each."""
    bundles = [pouring_only(tiny, quality) for quality in QUALITIES]
    register(db, *bundles)
    return bundles


def point(db: Database, alias: str, model: str, *, expected: int | None = None) -> None:
    with db.write() as tx:
        registry.point(tx, alias, model, reason=f"to {model}", by="somebody", expected=expected)


def rollback(db: Database, alias: str = "champion") -> str:
    """The model that it stands for now."""
    with db.write() as tx:
        return registry.rollback(tx, alias).model_id


def test_the_history_says_who_made_it_what_when_and_why(db: Database, four: list[Bundle]) -> None:
    for bundle in four[:2]:
        point(db, "champion", bundle.id)
    rollback(db)

    with db.read() as tx:
        changes = aliases.history(tx, "champion", limit=2, offset=0)
        clock = tx.execute(sa.select(now())).scalar_one()

    assert [(c.version, c.action, c.model_id, c.changed_by, c.reason) for c in changes] == [
        (3, "rollback", four[0].id, "cuvee", f"rolled back from {four[1].id}"),
        (2, "set", four[1].id, "somebody", f"to {four[1].id}"),
    ]
    assert [clock - 60 < change.changed_at <= clock for change in changes] == [True, True]


def test_setting_what_is_set_already_changes_nothing(db: Database, four: list[Bundle]) -> None:
    point(db, "champion", four[0].id)
    point(db, "champion", four[1].id)
    point(db, "champion", "champion")

    assert rollback(db) == four[0].id


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=12))
def test_an_alias_is_a_stack_that_a_rollback_takes_one_change_off(sqlite_db: Database, tiny: Bundle, steps: list[int | None]) -> None:
    bundles = [pouring_only(tiny, quality) for quality in QUALITIES]
    with sqlite_db.read() as tx:
        missing = [bundle for bundle in bundles if not registry.existing(tx, [bundle.id])]
    register(sqlite_db, *missing)
    alias, stack = f"a{uuid4().hex}", [bundles[0].id]
    point(sqlite_db, alias, bundles[0].id)
    for step in steps:
        if step is not None:
            point(sqlite_db, alias, bundles[step].id)
            stack += [bundles[step].id] if stack[-1] != bundles[step].id else []
        elif len(stack) > 1:
            stack.pop()
            assert rollback(sqlite_db, alias) == stack[-1]
        else:
            with pytest.raises(Conflict, match="has no earlier model to go back to"):
                rollback(sqlite_db, alias)
        with sqlite_db.read() as tx:
            assert registry.resolve(tx, alias) == stack[-1]


def test_a_rollback_passes_over_what_was_deleted_or_damaged_and_says_so(db: Database, four: list[Bundle]) -> None:
    for bundle in four:
        point(db, "champion", bundle.id)
    with db.write() as tx:
        retention.delete(tx, four[2].id, reason="corked", by="somebody")
    damage(db, four[1])

    with db.write() as tx:
        found = registry.rollback(tx, "champion", reason="it poured vinegar")

    assert found.model_id == four[0].id
    assert found.reason.startswith(f"it poured vinegar; passed over: model {four[2].id} was deleted at ")
    assert f"passed over: model {four[1].id} can't be opened: it was damaged where it is stored: generator.onnx" in found.reason
    with pytest.raises(Conflict, match="no earlier model"):
        rollback(db)


@pytest.mark.parametrize("change", [lambda tx: registry.rollback(tx, "champion", expected=2), lambda tx: registry.point(tx, "champion", "x", reason="")])
def test_of_two_who_change_the_same_version_one_wins(db: Database, four: list[Bundle], change: Callable[[sa.Connection], object]) -> None:
    point(db, "champion", four[0].id)
    point(db, "champion", four[1].id)
    start = threading.Barrier(2)
    outcomes: list[str | None] = []

    def set_to(bundle: Bundle) -> None:
        start.wait(10)
        try:
            point(db, "champion", bundle.id, expected=2)
            outcomes.append(bundle.id)
        except Stale:
            outcomes.append(None)

    threads = [threading.Thread(target=set_to, args=[bundle]) for bundle in four[2:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = (outcome for outcome in outcomes if outcome)
    with db.read() as tx:
        assert (registry.resolve(tx, "champion"), aliases.get(tx, "champion").version) == (winner, 3)
    with pytest.raises((Stale, NotFound), match=r"expected version 2, but somebody changed it meanwhile|no model or alias"), db.write() as tx:
        change(tx)


def test_a_champion_must_pour_an_autoencoder_must_vary_and_neither_may_be_damaged(db: Database, four: list[Bundle], tiny: Bundle) -> None:
    parts = {CLASSIFIER: tiny.parts[CLASSIFIER]}
    dry = unpack(pack(tiny.manifest.model_copy(update={"parts": {CLASSIFIER: digest(parts[CLASSIFIER])}}), parts))
    register(db, dry)
    damage(db, four[0])

    point(db, "judge", dry.id)
    for alias, model, error, words in (
        ("champion", dry, Conflict, "must pour"),
        ("autoencoder", four[1], Conflict, "no latent space"),
        ("champion", four[0], BundleInvalid, "generator.onnx"),
    ):
        with pytest.raises(error, match=words):
            point(db, alias, model.id)


def test_an_alias_from_before_the_history_has_one_entry_in_it_and_goes_back_as_it_was(database_url: str, tiny: Bundle) -> None:
    model = {"id": tiny.id, "sha256": tiny.sha256, "bundle": pack(tiny.manifest, tiny.parts)}
    row = (tiny.id, "the first", 5.5)
    with closing(Database(database_url)) as db:
        migrations.upgrade(db, "0005")
        with db.write() as tx:
            names = "id, method, dataset_id, sha256, bundle, report, lineage, created_at"
            tx.execute(sa.text(f"INSERT INTO models ({names}) VALUES (:id, 'gan', 'd', :sha256, :bundle, '{{}}', '{{}}', 0)"), model)  # noqa: S608
            tx.execute(sa.text("INSERT INTO aliases VALUES ('champion', :model, :reason, :at)"), dict(zip(("model", "reason", "at"), row, strict=True)))

        migrations.upgrade(db)

        with db.read() as tx:
            (change,) = aliases.history(tx, "champion", limit=5, offset=0)
            assert registry.resolve(tx, "champion") == tiny.id
        assert (change.model_id, change.reason, change.changed_at) == row
        assert (change.version, change.action, change.changed_by, change.below) == (1, "set", "cuvee", None)

        migrations.downgrade(db, "0005")

        with db.read() as tx:
            assert tuple(tx.execute(sa.text("SELECT model_id, reason, changed_at FROM aliases")).one()) == row


@pytest.fixture
def two(api: httpx.Client, sqlite_db: Database, tiny: Bundle) -> list[str]:
    """Two models beside the starter."""
    return register(sqlite_db, pouring_only(tiny, 5), pouring_only(tiny, 6))


def test_over_http_an_alias_is_set_looked_at_rolled_back_and_deleted(api: httpx.Client, two: list[str]) -> None:
    made = api.put("/aliases/candidate", json={"model": two[0], "reason": "smells good", "by": "Ana"})
    api.put("/aliases/candidate", json={"model": two[1]})
    back = api.post("/aliases/candidate/rollback")
    shown = api.get("/aliases/candidate?limit=2").json()

    assert [(answer.status_code, answer.json()["model"], answer.headers["etag"]) for answer in (made, back)] == [(200, two[0], '"1"'), (200, two[0], '"3"')]
    assert (made.json()["changed_by"], made.json()["reason"], back.json()["changed_by"]) == ("Ana", "smells good", "a caller at 127.0.0.1")
    assert [(c["version"], c["action"], c["model"], c["below"]) for c in shown["history"]] == [(3, "rollback", two[0], None), (2, "set", two[1], 1)]
    assert [alias["alias"] for alias in api.get("/aliases").json()] == ["candidate", "champion"]

    assert api.post("/aliases/candidate/rollback", content='{"reason": "a body of no type"}').status_code == 415
    assert api.delete("/aliases/candidate?by=Ana").status_code == 204
    assert api.get("/aliases/candidate").status_code == api.delete("/aliases/candidate").status_code == 404
    again = api.put("/aliases/candidate", json={"model": two[1]})
    assert (again.headers["etag"], api.post("/aliases/candidate/rollback").status_code) == ('"5"', 409)
    assert [change["action"] for change in api.get("/aliases/candidate").json()["history"]] == ["set", "delete", "rollback", "set", "set"]


def test_who_saw_another_version_is_refused(api: httpx.Client, two: list[str]) -> None:
    api.put("/aliases/own", json={"model": two[0]})
    for method, path, body in (("PUT", "own", {"model": "champion"}), ("POST", "own/rollback", {}), ("DELETE", "own", None)):
        answers = [api.request(method, f"/aliases/{path}", json=body, headers={"If-Match": tag}) for tag in ('"7"', "own")]
        assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [(412, "urn:cuvee:stale"), (422, "urn:cuvee:invalid-input")]
    assert api.put("/aliases/own", json={"model": two[1]}, headers={"If-Match": 'W/"1"'}).status_code == 200  # a proxy that compresses marks it so


def test_who_expects_no_such_alias_makes_a_new_one_only(api: httpx.Client, two: list[str]) -> None:
    first, second = (api.put("/aliases/own", json={"model": model}, headers={"If-None-Match": "*"}) for model in two)
    assert (first.status_code, second.status_code) == (200, 412)
    assert "own: expected no such alias, but somebody changed it meanwhile: it is at version 1 now" in second.json()["detail"]
    assert api.get("/aliases/own").json()["model"] == two[0]
    assert api.delete("/aliases/own").status_code == 204
    assert api.put("/aliases/own", json={"model": two[1]}, headers={"If-None-Match": "*"}).status_code == 200


def test_champion_stays_and_follows_an_alias_given_as_the_model(api: httpx.Client, two: list[str]) -> None:
    api.put("/aliases/candidate", json={"model": two[0]})
    assert api.put("/aliases/champion", json={"model": "candidate"}).json()["model"] == two[0]
    assert api.delete("/aliases/champion").status_code == 409


def test_a_name_that_is_no_alias_s_is_refused_in_words(api: httpx.Client) -> None:
    for alias in ("0123456789abcdef", "a" * 65, "1st", "two words", "ä", "%00", "-x"):
        answer = api.put(f"/aliases/{alias}", json={"model": "champion"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/path/alias")
        assert "expected at most 64 letters" in answer.json()["detail"] or "nobody takes for a model's id" in answer.json()["detail"]
