"""The OpenAPI document is true: Schemathesis asks every call for what the document allows and for what it forbids, and holds the answers against it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.settings import Settings
from tests.conftest import serve, starter_db

# that a request is as documented does not mean that it can be met: limits may leave no row, and the original data are not here (503)
CONFIG = """
generation.deterministic = true
request-timeout = 30
[parameters]
"path.name" = "champion"
"path.alias" = "champion"
"path.dataset_id" = "starter"
"path.job_id" = "{job}"
[checks.positive_data_acceptance]
enabled = false
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""


def test_every_call_answers_as_its_documentation_says(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with (
        starter_db(tmp_path) as db,
        serve(Settings(database_url=str(db.url), cache_dir=cache, download=False, max_rows=2000, max_upload_bytes=2**20)) as api,
    ):
        job = api.post("/train", json={"dataset": "starter"}).json()["id"]
        (tmp_path / "schemathesis.toml").write_text(CONFIG.format(job=job))
        document = f"{api.base_url}/openapi.json"
        but = "--exclude-path-regex=/events$"  # they end with their job, which nobody works on
        how = ("--phases=coverage,fuzzing", "--max-examples=10", "--continue-on-failure", "--no-color")
        command = str(Path(sys.executable).with_name("schemathesis"))
        ended = subprocess.run([command, "run", document, but, *how], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
