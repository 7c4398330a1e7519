"""``/datasets``: tables of one's own, in any format, told from each other by their rows; and how they go again."""

from __future__ import annotations

import gzip
import io

import httpx
import numpy as np
import pandas as pd
import pytest

from app.formats import ARROW, CHUNKS, NDJSON, PARQUET, Sheet
from app.wine import Wines
from tests.conftest import csv_of

CSV = {"Content-Type": "text/csv"}


def upload(api: httpx.Client, data: bytes, **query: str) -> httpx.Response:
    """The answer to an upload of these bytes."""
    return api.post("/datasets", content=data, headers=CSV, params=query)


def test_an_upload_becomes_a_dataset_with_an_address(api: httpx.Client, few_wines: Wines) -> None:
    answer = upload(api, csv_of(few_wines), name="mine")
    dataset = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/datasets/{dataset['id']}")
    assert (dataset["name"], dataset["source"], dataset["rows"], dataset["synthetic"], dataset["snapped"]) == ("mine", "upload", 240, False, 0)
    assert api.get(answer.headers["location"]).json() == dataset


def test_the_id_of_an_upload_is_the_hash_of_its_rows(api: httpx.Client, few_wines: Wines) -> None:
    dataset = upload(api, csv_of(few_wines)).json()
    assert dataset["id"] == dataset["sha256"][:16]


def test_the_same_rows_written_differently_are_the_same_dataset(api: httpx.Client, few_wines: Wines) -> None:
    plain = csv_of(few_wines)
    first, again = upload(api, plain).json(), upload(api, plain.replace(b",", b";").replace(b"\n", b"\r\n")).json()
    assert (again, len(api.get("/datasets").json())) == (first, 2)


@pytest.mark.parametrize("media_type", [NDJSON, PARQUET, ARROW, "application/csv"])
def test_the_same_rows_in_another_format_are_the_same_dataset(api: httpx.Client, few_wines: Wines, media_type: str) -> None:
    first = upload(api, csv_of(few_wines))
    table = b"".join(CHUNKS[media_type]([Sheet(few_wines)], ())) if media_type in CHUNKS else csv_of(few_wines)
    again = api.post("/datasets?name=another", content=table, headers={"Content-Type": media_type})
    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json(), again.headers["location"]) == (first.json(), first.headers["location"])


def test_a_bad_cell_of_a_binary_table_is_named_by_row_and_column(api: httpx.Client, few_wines: Wines) -> None:
    frame = pd.read_csv(io.BytesIO(csv_of(few_wines)))
    frame.loc[5, "pH"] = np.nan
    answer = api.post("/datasets", content=frame.to_parquet(), headers={"Content-Type": PARQUET})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"], answer.json()["errors"][0]["found"]) == (422, "/body/row/5/pH", "null")


def test_columns_that_never_change_are_taken_and_warned_of(api: httpx.Client, few_wines: Wines) -> None:
    one = Wines(few_wines.ticks, np.full(len(few_wines), 6), few_wines.red)
    answer = upload(api, csv_of(one))
    assert (answer.status_code, answer.headers["cuvee-warning"]) == (201, "the same in all 240 rows, and so in all that a model of them pours: quality")


def test_a_compressed_body_is_refused_with_its_coding_named(api: httpx.Client, few_wines: Wines) -> None:
    answer = api.post("/datasets", content=gzip.compress(csv_of(few_wines)), headers=CSV | {"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (415, "/header/content-encoding")
    assert "expected a body without Content-Encoding, found gzip" in answer.json()["detail"]


def test_a_dataset_can_be_deleted_once(api: httpx.Client, few_wines: Wines) -> None:
    path = upload(api, csv_of(few_wines)).headers["location"]
    gone, again, shown = api.delete(path), api.delete(path), api.get(path)
    assert [(answer.status_code, answer.content == b"") for answer in (gone, again, shown)] == [(204, True), (404, False), (404, False)]


def test_a_training_on_a_deleted_dataset_is_refused_with_what_brings_it_back(api: httpx.Client, few_wines: Wines) -> None:
    few = upload(api, csv_of(few_wines)).json()["id"]
    api.delete(f"/datasets/{few}")
    answer = api.post("/train", json={"dataset": few})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/body/dataset")
    assert "POST /datasets with the same rows brings it back" in answer.json()["detail"]


def test_a_dataset_with_jobs_is_deleted_by_force_and_the_jobs_keep_its_name(api: httpx.Client, few_wines: Wines) -> None:
    few = upload(api, csv_of(few_wines)).json()["id"]
    job = api.post("/train", json={"dataset": few}).json()["id"]
    open_, _, over = api.delete(f"/datasets/{few}?force=true"), api.post(f"/jobs/{job}/cancel"), api.delete(f"/datasets/{few}")
    assert [(answer.status_code, job in answer.json()["detail"]) for answer in (open_, over)] == [(409, True), (409, True)]
    assert (api.delete(f"/datasets/{few}?force=true").status_code, api.get(f"/jobs/{job}").json()["dataset"]) == (204, few)


def test_other_rows_are_another_dataset(api: httpx.Client, few_wines: Wines) -> None:
    assert upload(api, csv_of(few_wines)).json()["id"] != upload(api, csv_of(few_wines.take(slice(1, None)))).json()["id"]


def test_an_upload_appears_in_the_list_before_older_ones(api: httpx.Client, few_wines: Wines) -> None:
    uploaded = upload(api, csv_of(few_wines)).json()["id"]
    assert [dataset["id"] for dataset in api.get("/datasets").json()] == [uploaded, "starter"]


def test_the_starter_dataset_is_there_and_labelled_synthetic(api: httpx.Client) -> None:
    starter = api.get("/datasets/starter").json()
    assert (starter["rows"], starter["synthetic"], starter["source"]) == (6497, True, "starter")


def test_an_upload_can_be_trained_on_without_a_warning(api: httpx.Client, few_wines: Wines) -> None:
    uploaded = upload(api, csv_of(few_wines)).json()["id"]
    job = api.post("/train", json={"dataset": uploaded}).json()
    assert (job["dataset"], job["warnings"]) == (uploaded, [])


def test_rows_that_were_poured_can_be_uploaded_as_they_come(api: httpx.Client) -> None:
    assert upload(api, api.get("/samples?n=200&seed=1&format=csv").content).json()["rows"] == 200


def test_values_that_were_moved_to_the_grid_are_counted(api: httpx.Client, few_wines: Wines) -> None:
    rows = csv_of(few_wines).decode().splitlines()
    for line in (1, 2):
        cells = rows[line].split(",")
        rows[line] = ",".join([*cells[:10], "9.53333333333333", *cells[11:]])
    assert upload(api, "\n".join(rows).encode()).json()["snapped"] == 2


def spoiled(wines: Wines, *, line: int, text: str) -> bytes:
    """The wines as CSV with ``text`` in the alcohol of one line; the header is line 1."""
    rows = csv_of(wines).decode().splitlines()
    cells = rows[line - 1].split(",")
    rows[line - 1] = ",".join([*cells[:10], text, *cells[11:]])
    return ("\n".join(rows) + "\n").encode()


@pytest.mark.parametrize("text", ["", "nine", "nan", "inf", "-1", "94"])
def test_a_bad_cell_of_an_upload_is_named_by_line_and_column(api: httpx.Client, few_wines: Wines, text: str) -> None:
    answer = upload(api, spoiled(few_wines, line=7, text=text))
    shown = text or "an empty cell"
    assert (answer.status_code, answer.json()["type"], answer.json()["errors"]) == (
        422,
        "urn:cuvee:invalid-input",
        [
            {
                "pointer": "/body/line/7/alcohol",
                "detail": f"line 7, alcohol: expected a number from 5.0 to 20.0 (% vol), found {shown}",
                "expected": "a number from 5.0 to 20.0 (% vol)",
                "found": shown,
            }
        ],
    )


def test_lines_of_an_upload_are_counted_as_an_editor_counts_them(api: httpx.Client, few_wines: Wines) -> None:
    header, rest = spoiled(few_wines, line=7, text="nine").split(b"\n", 1)
    answer = upload(api, header + b"\n\n" + rest)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/body/line/8/alcohol"]


def test_a_table_with_other_columns_is_refused_with_both_named(api: httpx.Client, few_wines: Wines) -> None:
    answer = upload(api, csv_of(few_wines).replace(b"alcohol", b"proof", 1))
    assert (answer.status_code, answer.json()["detail"]) == (422, "the first line must name the 13 columns; missing: alcohol; unknown: proof")


def test_a_dataset_that_was_refused_is_not_stored(api: httpx.Client, few_wines: Wines) -> None:
    upload(api, spoiled(few_wines, line=7, text="nine"))
    assert [dataset["id"] for dataset in api.get("/datasets").json()] == ["starter"]


def test_too_few_rows_are_refused_with_the_least_number_named(api: httpx.Client, few_wines: Wines) -> None:
    answer = upload(api, csv_of(few_wines.take(np.arange(199))))
    assert (answer.status_code, answer.json()["detail"]) == (422, "a dataset needs at least 200 rows, and this one has 199")


def test_an_upload_that_does_not_say_that_it_is_csv_is_refused(api: httpx.Client, few_wines: Wines) -> None:
    answer = api.post("/datasets", content=csv_of(few_wines), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:cuvee:unsupported-media-type")


@pytest.mark.parametrize(("length", "status"), [(0, 422), (1, 201), (200, 201), (201, 422)])
def test_a_dataset_s_name_has_from_1_to_200_characters(api: httpx.Client, few_wines: Wines, length: int, status: int) -> None:
    assert upload(api, csv_of(few_wines), name="é" * length).status_code == status


def test_the_starter_dataset_uploaded_again_stays_synthetic(api: httpx.Client, starter_wines: Wines) -> None:
    answer = api.post("/datasets?name=mine", content=csv_of(starter_wines), headers={"content-type": "text/csv"})
    assert (answer.json()["id"], answer.json()["synthetic"]) == ("starter", True)
