"""The starter model's bytes, kept: whoever changes one must mean it.

``python -m tests.test_golden`` writes them anew, after a new starter model or a new version of what rows are made by.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import noise
from app.bundle import FORMAT, Bundle
from tests.test_api_samples import serve_starter

GOLDEN = Path(__file__).parent / "golden" / "starter.json"
ASKED = (
    "n=8&seed=1&format=csv",
    "n=8&seed=1&quality=7&format=json",
    "n=8&seed=9223372036854775807&type=red&mix=balanced&format=ndjson",
    "n=4&seed=5&offset=510&include=row&include=predicted_quality&format=csv",
    "n=4&seed=5&offset=1099511627776&quality=5&quality=8&format=csv",
    "n=4&seed=2&alcohol_min=12.5&pH_max=3.2&include=row&format=csv",
    "n=4&seed=3&min_dcr=0.8&include=row&format=csv",
)


def known() -> dict[str, Any]:
    """What was written."""
    found: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    return found


def versions(model_id: str) -> dict[str, Any]:
    """What may change a byte: the model, and what its bundle and its noise mean."""
    return {"model": model_id, "format": FORMAT, "noise": noise.LAYOUT}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serve_starter(tmp_path_factory.mktemp("golden")) as client:
        yield client


def test_the_golden_file_is_of_this_starter_model_and_these_versions(starter: Bundle) -> None:
    assert known()["versions"] == versions(starter.id), "write it anew: python -m tests.test_golden"


@pytest.mark.parametrize("query", ASKED)
def test_the_starter_model_pours_the_bytes_that_it_always_poured(api: httpx.Client, query: str) -> None:
    answer = api.get(f"/samples?{query}")
    assert (answer.status_code, answer.text) == (200, known()["answers"][query])


def main() -> None:
    """Writes the file."""
    with tempfile.TemporaryDirectory() as folder, serve_starter(Path(folder)) as client:
        answers = {query: client.get(f"/samples?{query}").raise_for_status() for query in ASKED}
        model = answers[ASKED[0]].headers["cuvee-model"]
        GOLDEN.write_text(json.dumps({"versions": versions(model), "answers": {query: answer.text for query, answer in answers.items()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
