"""What the API says of itself: alive, ready, documented; and why it won't start, where it can't."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from app import migrations
from app.api.samples import FORMATS
from app.bundle import Bundle
from app.db import Database
from app.settings import Settings, SettingsInvalid, read_settings
from app.wine import MEASUREMENTS
from tests.conftest import damage, serve

ROOT = Path(__file__).parent.parent
CALLS = {
    ("GET", "/samples"),
    ("POST", "/samples/check"),
    ("POST", "/variations"),
    ("GET", "/leaderboard"),
    ("POST", "/score"),
    ("POST", "/train"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{job_id}"),
    ("POST", "/jobs/{job_id}/cancel"),
    ("GET", "/jobs/{job_id}/events"),
    ("GET", "/jobs/{job_id}/metrics"),
    ("GET", "/models"),
    ("GET", "/models/{name}"),
    ("DELETE", "/models/{name}"),
    ("GET", "/models/{name}/report"),
    ("GET", "/models/{name}/bundle"),
    ("GET", "/models/{name}/rows"),
    ("GET", "/aliases"),
    ("GET", "/aliases/{alias}"),
    ("PUT", "/aliases/{alias}"),
    ("POST", "/aliases/{alias}/rollback"),
    ("DELETE", "/aliases/{alias}"),
    ("GET", "/datasets"),
    ("POST", "/datasets"),
    ("DELETE", "/datasets/{dataset_id}"),
    ("GET", "/datasets/{dataset_id}"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
}


def python(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A finished Python process with these settings and no others."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUVEE_")}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment | settings, capture_output=True, text=True, timeout=60, check=False)


def asked(db: Database, path: str) -> httpx.Response:
    """The answer of a fresh server over ``db``."""
    with serve(Settings(database_url=db.url.render_as_string(hide_password=False), download=False)) as client:
        return client.get(path)


def test_a_process_that_answers_is_alive(api: httpx.Client) -> None:
    answer = api.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_monitor_may_ask_for_the_head_alone(api: httpx.Client, path: str) -> None:
    answer = api.head(path)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", api.get(path).headers["content-length"])


def test_an_api_with_a_champion_is_ready_and_names_it(api: httpx.Client) -> None:
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "champion": api.get("/models/champion").json()["id"]})


def test_an_api_whose_champion_is_damaged_is_not_ready(sqlite_db: Database, starter: Bundle) -> None:
    damage(sqlite_db, starter)
    answer = asked(sqlite_db, "/readyz")
    assert (answer.status_code, answer.headers["content-type"], answer.json()["type"]) == (503, "application/problem+json", "urn:cuvee:bundle-invalid")


def test_an_api_whose_champion_is_damaged_says_which_part_of_which_model(sqlite_db: Database, starter: Bundle) -> None:
    damage(sqlite_db, starter)
    detail = asked(sqlite_db, "/readyz").json()["detail"]
    assert [word in detail for word in (starter.id, "damaged", "generator.onnx")] == [True, True, True]


def test_an_api_whose_champion_is_damaged_is_alive_all_the_same(sqlite_db: Database, starter: Bundle) -> None:
    damage(sqlite_db, starter)
    assert asked(sqlite_db, "/healthz").status_code == 200


def test_an_api_without_a_champion_is_not_ready(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/cuvee.db")
    migrations.upgrade(database)
    answer = asked(database, "/readyz")
    database.close()
    assert (answer.status_code, "champion" in answer.json()["detail"]) == (503, True)


def test_an_api_whose_schema_was_changed_under_it_is_not_ready(api: httpx.Client, sqlite_db: Database) -> None:
    with sqlite_db.write() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:cuvee:database-not-ready")
    assert "found 9999: a newer version of Cuvée migrated this database" in answer.json()["detail"]


def schema(api: httpx.Client) -> Any:
    """The OpenAPI document."""
    return api.get("/openapi.json").json()


def test_the_front_page_leads_somewhere_that_answers(api: httpx.Client) -> None:
    assert api.get("/", follow_redirects=True).status_code == 200


def test_the_docs_answer_with_a_page(api: httpx.Client) -> None:
    answer = api.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_every_call_is_documented(api: httpx.Client) -> None:
    assert {(method.upper(), path) for path, calls in schema(api)["paths"].items() for method in calls} == CALLS


def test_every_call_is_described_in_words(api: httpx.Client) -> None:
    assert [path for path, calls in schema(api)["paths"].items() for call in calls.values() if not call.get("description")] == []


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("gan", {"preset", "holdout", "split_seed", "classifier", "loss", "steps", "lr", "latent", "gamma", "penalty", "ema", "batch", "recalibrate"}),
        ("classifier", {"preset", "holdout", "split_seed", "channels", "blocks", "hidden", "classifier_steps", "classifier_lr", "batch"}),
    ],
)
def test_the_params_of_each_method_are_documented(api: httpx.Client, method: str, names: set[str]) -> None:
    methods = schema(api)["components"]["schemas"]["TrainRequest"]["properties"]["params"]["anyOf"]
    [documented] = [m["properties"] for m in methods if m["title"] == f"params of {method}"]
    assert names <= set(documented)
    assert [name for name, param in documented.items() if not param.get("description")] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("post", "/samples/check", 200), ("post", "/score", 200), ("post", "/train", 202), ("put", "/aliases/champion", 200), ("post", "/variations", 404)],
)
def test_the_examples_of_the_documentation_can_be_sent_as_they_are(api: httpx.Client, method: str, path: str, status: int) -> None:
    document = schema(api)
    body = document["paths"][path.replace("champion", "{alias}")][method]["requestBody"]["content"]["application/json"]["schema"]
    [example] = document["components"]["schemas"][body["$ref"].split("/")[-1]]["examples"] if "$ref" in body else body["examples"]
    answer = api.request(method, path, json=example)
    assert answer.status_code == status, answer.text
    assert status < 400 or "there is no autoencoder to vary wines with yet" in answer.text


def test_what_samples_takes_is_documented(api: httpx.Client) -> None:
    parameters = schema(api)["paths"]["/samples"]["get"]["parameters"]
    limits = {f"{name}_{end}" for name in MEASUREMENTS for end in ("min", "max")}
    assert {p["name"] for p in parameters} == {"n", "quality", "type", "mix", "min_dcr", "seed", "offset", "model", "include", "format"} | limits


def test_every_format_of_samples_is_documented(api: httpx.Client) -> None:
    assert set(schema(api)["paths"]["/samples"]["get"]["responses"]["200"]["content"]) == set(FORMATS.values())


def test_an_api_on_an_empty_database_does_not_start_and_says_what_to_run(tmp_path: Path) -> None:
    ended = python("-m", "app.main", CUVEE_DATABASE_URL=f"sqlite:///{tmp_path}/empty.db", CUVEE_PORT="0")
    told = r"cuvee api: expected schema revision \d{4}, found an empty database; run `cuvee migrate` with the same CUVEE_DATABASE_URL\n"
    assert (ended.returncode, re.fullmatch(told, ended.stderr) is not None) == (1, True), ended.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CUVEE_PORT", "abc"),
        ("CUVEE_DEVICE", "abacus"),
        ("CUVEE_DATABASE_URL", "nonsense"),
        ("CUVEE_DATABASE_URL", "sqlite:////dev/null/cuvee.db"),
        ("CUVEE_DATABASE_URL", "postgresql://127.0.0.1:1/cuvee"),
    ],
)
def test_a_setting_that_can_not_be_is_named_and_nothing_starts(variable: str, value: str) -> None:
    ended = python("-m", "app.main", **{variable: value})
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False), ended.stderr
    assert variable in ended.stderr


def test_api_and_command_load_nothing_that_only_training_needs() -> None:
    loaded = python("-c", "import sys, app.main, app.cli; print(*{name.split('.')[0] for name in sys.modules})")
    assert loaded.returncode == 0, loaded.stderr
    assert {"torch", "worker", "onnx", "onnxscript", "sklearn", "safetensors", "pandas"} & set(loaded.stdout.split()) == set()


def test_opening_and_asking_a_model_loads_nothing_that_only_training_needs() -> None:
    script = """
import sys
from app import registry
from app.bundle import unpack
from app.sampler import Condition, Sampler
from app.scorer import Scorer
bundle = unpack(registry.starter_bytes())
Scorer(bundle).score(Sampler(bundle).wines(Condition(), seed=1, offset=0, n=5))
print(*{name.split('.')[0] for name in sys.modules})
"""
    loaded = python("-c", script)
    assert loaded.returncode == 0, loaded.stderr
    assert {"torch", "worker", "onnx", "onnxscript", "sklearn", "safetensors", "pandas"} & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("CUVEE_DEVICE", "gpu", "expected auto, cpu, cuda or the number of one (cuda:1), found 'gpu'"),
        ("CUVEE_LOG_LEVEL", "verbose", "expected 'debug', 'info', 'warning' or 'error', found 'verbose'"),
        ("CUVEE_DATA_DIR", "/no/such/folder", "expected a folder that is there, found '/no/such/folder'"),
        ("CUVEE_TOKEN", "s3cr3t", "expected at least 16 characters, found 6 of them"),
    ],
)
def test_a_setting_that_can_not_be_is_told_what_would_do(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsInvalid) as refused:
        read_settings()
    assert refused.value.detail == f"the environment has unusable settings: {variable}: {told}"


def test_the_case_of_a_log_level_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUVEE_LOG_LEVEL", "INFO")
    assert read_settings().log_level == "info"
