"""What the judges of a model can tell is printed by a script, from a bundle alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from app.bundle import Bundle, pack
from tests.conftest import DATA_DIR, needs_uci

ROOT = Path(__file__).resolve().parents[1]


def discern(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUVEE_DATA_DIR": str(DATA_DIR), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "discern.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@needs_uci
def test_the_starters_critic_tells_impossible_wines_from_real_ones_and_its_own_from_none() -> None:
    done = discern()
    assert done.returncode == 0, done.stderr
    head, _, *lines = done.stdout.splitlines()
    assert head == "| 1090 wines never seen, and as many rows: | discriminator | critic |"
    critic = {cells[1]: float(cells[3]) for cells in ([cell.strip() for cell in line.split("|")] for line in lines)}
    assert len(critic) == 13
    assert critic["density 1.05"] > 0.99
    assert 0.4 < critic["the model's own, fresh"] < 0.6


@needs_uci
def test_of_a_model_of_other_data_nothing_is_said(starter: Bundle, tmp_path: Path) -> None:
    lineage = starter.manifest.lineage.model_copy(update={"dataset_id": "mine", "dataset_sha256": "0" * 64})
    other = tmp_path / "other.cuvee"
    other.write_bytes(pack(starter.manifest.model_copy(update={"lineage": lineage}), starter.parts))
    done = discern("--model", str(other))
    assert done.returncode == 1
    assert "expected one trained on uci (" in done.stderr
    assert f"found mine ({'0' * 64})" in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.cuvee"
    nothing.write_bytes(b"no bundle")
    done = discern("--against", str(nothing))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"discern: {nothing}: ")
