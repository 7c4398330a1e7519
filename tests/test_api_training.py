"""``POST /train`` and its jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import leases
from app.api import jobs as jobs_api
from app.bundle import Bundle
from app.db import Database
from app.errors import InvalidInput
from app.jobs import Comparison, Request, Verdict
from app.params import METHODS
from app.settings import Settings
from tests.conftest import register, serve

VERDICT = Verdict(False, "not promoted: even with the champion", "c", (Comparison("c2st", challenger=0.56, champion=0.55, spread=0.02, outcome="even"),))


@contextmanager
def served_with(db: Database, data_dir: Path) -> Iterator[httpx.Client]:
    """The API over ``db``, which may look for the original data in ``data_dir`` alone."""
    url = db.url.render_as_string(hide_password=False)
    with serve(Settings(database_url=url, data_dir=data_dir, cache_dir=data_dir / "cache", download=False)) as client:
        yield client


def train(api: httpx.Client, **body: object) -> Any:
    """The job of a training that was accepted."""
    answer = api.post("/train", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def succeed(db: Database) -> None:
    """What a worker would make of the job that waits."""
    with db.write() as tx:
        claimed = leases.claim(tx, worker="w", lease_s=60)
        assert claimed is not None
        leases.finish(tx, claimed.lease, model_id="m", verdict=VERDICT)


def listed(api: httpx.Client, query: str = "") -> list[str]:
    """The ids of the jobs in a list."""
    return [job["id"] for job in api.get(f"/jobs?{query}").json()]


def test_a_training_is_accepted_with_its_job_s_address(api: httpx.Client) -> None:
    answer = api.post("/train", json={})
    job = answer.json()
    assert (answer.status_code, answer.headers["location"], job["state"]) == (202, f"/jobs/{job['id']}", "queued")


def test_a_new_job_has_done_nothing_yet(api: httpx.Client) -> None:
    job = train(api)
    assert (job["progress"], job["attempts"], job["failures"], job["model_id"], job["error"], job["started_at"]) == (0.0, 0, 0, None, None, None)


def test_the_job_can_be_read_where_location_says(api: httpx.Client) -> None:
    answer = api.post("/train", json={})
    assert api.get(answer.headers["location"]).json() == answer.json()


def test_the_starter_stands_in_for_original_data_that_can_not_be_had(api: httpx.Client) -> None:
    assert train(api)["dataset"] == "starter"


def test_a_stand_in_is_warned_of_in_the_answer_and_in_the_job(api: httpx.Client) -> None:
    job = train(api)
    warning = "training on 'starter', which is synthetic (poured by Cuvée's own model), because the original UCI data can't be had from here"
    assert [w.startswith(warning) for w in job["warnings"]] == [True]
    assert api.get(f"/jobs/{job['id']}").json()["warnings"] == job["warnings"]


def test_a_stand_in_is_warned_of_in_a_header(api: httpx.Client) -> None:
    assert "which is synthetic" in api.post("/train", json={}).headers["cuvee-warning"]


def test_training_on_the_starter_by_name_needs_no_warning(api: httpx.Client) -> None:
    answer = api.post("/train", json={"dataset": "starter"})
    assert (answer.json()["warnings"], "cuvee-warning" in answer.headers) == ([], False)


def test_original_data_asked_for_by_name_are_never_replaced(api: httpx.Client) -> None:
    answer = api.post("/train", json={"dataset": "uci"})
    assert (answer.status_code, answer.headers["content-type"], answer.json()["type"]) == (503, "application/problem+json", "urn:cuvee:dataset-unavailable")
    assert api.get("/jobs").json() == []


def test_what_to_do_about_missing_original_data_is_said(api: httpx.Client) -> None:
    assert "Put the two files into a folder and name it in CUVEE_DATA_DIR" in api.post("/train", json={"dataset": "uci"}).json()["detail"]


@pytest.mark.parametrize("body", [{}, {"dataset": "uci"}])
def test_a_damaged_file_in_the_data_folder_is_refused_and_left_as_it_is(sqlite_db: Database, tmp_path: Path, body: dict[str, str]) -> None:
    for colour in ("red", "white"):
        (tmp_path / f"winequality-{colour}.csv").write_bytes(b"damaged")
    with served_with(sqlite_db, tmp_path) as client:
        answer, queued = client.post("/train", json=body), client.get("/jobs").json()
    assert (answer.status_code, answer.json()["type"], queued) == (503, "urn:cuvee:dataset-damaged", [])
    assert (tmp_path / "winequality-white.csv").read_bytes() == b"damaged"


def test_a_damaged_file_is_named_with_the_hash_expected_the_hash_found_and_what_to_do(sqlite_db: Database, tmp_path: Path) -> None:
    for colour in ("red", "white"):
        (tmp_path / f"winequality-{colour}.csv").write_bytes(b"damaged")
    with served_with(sqlite_db, tmp_path) as client:
        detail = client.post("/train", json={}).json()["detail"]
    assert detail == (
        f"{tmp_path}/winequality-white.csv is not the original winequality-white.csv: "
        "expected SHA-256 76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836, "
        "found 41f0c27c00e8018f7715b5f50f67b5b54c229c1b843a014152785d9005f58fde. "
        "Replace it with the file from UCI (data set 186, byte for byte), or remove it so that it is looked for elsewhere"
    )


def test_params_that_are_named_are_kept(api: httpx.Client) -> None:
    params = train(api, params={"preset": "quick", "steps": 12, "loss": "ns", "holdout": 0})["params"]
    assert (params["steps"], params["loss"], params["holdout"]) == (12, "ns", 0)


def test_a_preset_fills_what_is_not_named(api: httpx.Client) -> None:
    params = train(api, params={"preset": "quick", "steps": 12})["params"]
    assert (params["preset"], params["steps"], params["classifier_steps"]) == ("quick", 12, 200)


@pytest.mark.parametrize(("method", "preset"), [(method, preset) for method in METHODS for preset in ("quick", "default", "best")])
def test_every_preset_is_taken_with_its_values(api: httpx.Client, method: str, preset: str) -> None:
    found = train(api, method=method, params={"preset": preset})["params"]
    assert found["preset"] == preset
    assert METHODS[method].PRESETS.get(preset, {}).items() <= found.items()


def test_networks_too_large_for_a_checkpoint_are_refused_before_anything_is_trained(api: httpx.Client) -> None:
    answer = api.post("/train", json={"params": {"blend": 8, "discriminators": 8, "hidden": 2048, "channels": 256}})
    assert answer.status_code == 422
    assert "expected at most 20000000 weights" in answer.text


def test_channels_that_two_heads_cannot_share_are_refused_unless_nobody_attends(api: httpx.Client) -> None:
    answer = api.post("/train", json={"params": {"channels": 5}})
    assert answer.status_code == 422
    assert "channels: expected a multiple of 2, as many heads has attention, found 5; change it, or set attention to false" in answer.text
    assert train(api, params={"channels": 5, "attention": False})["params"]["channels"] == 5
    assert train(api, params={"channels": 5, "discriminators": 1})["params"]["channels"] == 5


def test_params_of_nothing_named_are_the_default_preset_s(api: httpx.Client) -> None:
    params = train(api)["params"]
    assert (params["preset"], params["loss"], params["steps"], params["holdout"]) == ("default", "r3gan", 5000, 0.2)


def test_a_classifier_that_is_deleted_just_before_the_job_is_queued_is_refused(api: httpx.Client, sqlite_db: Database, tiny: Bundle) -> None:
    [model_id] = register(sqlite_db, tiny)
    request = Request(method="gan", dataset_id="starter", params={"classifier": model_id}, seed=1)
    assert api.delete(f"/models/{model_id}").status_code == 204
    with pytest.raises(InvalidInput, match=f"model {model_id} was deleted"), sqlite_db.write() as tx:
        jobs_api._enqueue(tx, request)
    assert api.get("/jobs").json() == []


def test_an_alias_for_the_classifier_is_pinned_to_the_model_that_it_stands_for(api: httpx.Client) -> None:
    champion = api.get("/models/champion").json()["id"]
    assert train(api, params={"classifier": "champion", "holdout": 0})["params"]["classifier"] == champion


def test_a_classifier_can_be_trained_alone(api: httpx.Client) -> None:
    assert train(api, method="classifier", params={"preset": "quick"})["params"]["classifier_steps"] == 200


def test_a_seed_that_is_named_is_kept(api: httpx.Client) -> None:
    assert train(api, seed=2**63 - 1)["seed"] == 9223372036854775807


def test_two_trainings_without_a_seed_get_two(api: httpx.Client) -> None:
    assert train(api)["seed"] != train(api)["seed"]


def test_priority_and_promote_are_kept(api: httpx.Client) -> None:
    job = train(api, priority=-7, promote="never")
    assert (job["priority"], job["promote"]) == (-7, "never")


def test_jobs_are_listed_newest_first(api: httpx.Client) -> None:
    ids = [train(api)["id"] for _ in range(3)]
    assert listed(api) == ids[::-1]


def test_pages_of_jobs_follow_each_other(api: httpx.Client) -> None:
    ids = [train(api)["id"] for _ in range(3)]
    assert [listed(api, "limit=2"), listed(api, "limit=2&offset=2"), listed(api, "offset=3")] == [[ids[2], ids[1]], [ids[0]], []]


def test_jobs_can_be_listed_by_state(api: httpx.Client) -> None:
    waiting, cancelled = train(api)["id"], train(api)["id"]
    api.post(f"/jobs/{cancelled}/cancel")
    assert [listed(api, f"state={state}") for state in ("queued", "cancelled", "running")] == [[waiting], [cancelled], []]


def test_a_queued_job_is_cancelled_at_once(api: httpx.Client) -> None:
    job = train(api)
    cancelled = api.post(f"/jobs/{job['id']}/cancel").json()
    assert (cancelled["state"], cancelled["finished_at"] is None) == ("cancelled", False)
    assert api.get(f"/jobs/{job['id']}").json() == cancelled


def test_a_job_that_was_cancelled_can_not_be_cancelled_again(api: httpx.Client) -> None:
    job = train(api)
    api.post(f"/jobs/{job['id']}/cancel")
    again = api.post(f"/jobs/{job['id']}/cancel")
    assert (again.status_code, again.json()["type"]) == (409, "urn:cuvee:conflict")
    assert again.json()["detail"] == f"job {job['id']} is over (cancelled): only a queued or running job can be cancelled"


def test_cancelling_a_running_job_twice_changes_nothing(api: httpx.Client, sqlite_db: Database) -> None:
    job = train(api)
    with sqlite_db.write() as tx:
        leases.claim(tx, worker="w", lease_s=60)
    answers = [api.post(f"/jobs/{job['id']}/cancel") for _ in range(2)]
    assert [(a.status_code, a.json()["state"]) for a in answers] == [(200, "cancelling"), (200, "cancelling")]


def test_a_job_that_succeeded_can_not_be_cancelled(api: httpx.Client, sqlite_db: Database) -> None:
    job = train(api)
    succeed(sqlite_db)
    answer = api.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cuvee:conflict")
    assert answer.json()["detail"] == f"job {job['id']} is over (succeeded): only a queued or running job can be cancelled"


def test_a_job_that_is_not_over_has_no_verdict(api: httpx.Client) -> None:
    assert train(api)["verdict"] is None


def test_a_finished_job_has_its_verdict_with_the_figures_it_rests_on(api: httpx.Client, sqlite_db: Database) -> None:
    job = train(api)
    succeed(sqlite_db)
    assert api.get(f"/jobs/{job['id']}").json()["verdict"] == {
        "promoted": False,
        "reason": "not promoted: even with the champion",
        "champion": "c",
        "gate": [{"metric": "c2st", "challenger": 0.56, "champion": 0.55, "spread": 0.02, "outcome": "even"}],
    }


def test_a_running_job_shows_how_far_it_is(api: httpx.Client, sqlite_db: Database) -> None:
    job = train(api)
    with sqlite_db.write() as tx:
        claimed = leases.claim(tx, worker="w", lease_s=60)
        assert claimed is not None
        leases.report(tx, claimed.lease, lease_s=60, progress=0.5, stage="training", metrics={"step": 6.0})
    shown = api.get(f"/jobs/{job['id']}").json()
    assert (shown["state"], shown["progress"], shown["stage"], shown["metrics"], shown["attempts"]) == ("running", 0.5, "training", {"step": 6.0}, 1)


def test_a_job_whose_worker_let_the_lease_run_out_is_shown_as_stalled(api: httpx.Client, sqlite_db: Database) -> None:
    job = train(api)
    with sqlite_db.write() as tx:
        leases.claim(tx, worker="w", lease_s=-1)
    shown = api.get(f"/jobs/{job['id']}").json()
    assert (shown["state"], shown["stalled"]) == ("running", True)
