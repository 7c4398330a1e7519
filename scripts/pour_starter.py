"""Trains the starter model on the original data and pours the starter dataset from it.

usage: CUVEE_DATA_DIR=folder python scripts/pour_starter.py [--preset default] [--seed 0]

Writes app/starter/starter.cuvee and app/starter/starter.csv. The default preset takes about eight minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from app import formats, uci
from app.bundle import unpack
from app.datasets import STARTER_FILE, UCI
from app.params import resolve
from app.registry import STARTER
from app.sampler import Condition, Sampler
from app.settings import read_settings
from worker.assignment import Assignment
from worker.pipeline import work
from worker.training import Level, Metrics

ROWS = 6497  # as many as the original has
SEED = 0
FOLDER = Path(__file__).resolve().parents[1] / "app" / "starter"


class _Terminal:
    """Tells on one line how far it is."""

    stopping = False

    def progress(self, share: float, stage: str, metrics: Metrics) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"\r{share:6.1%}  {stage}  {shown}", end="", file=sys.stderr, flush=True)

    def log(self, message: str, level: Level) -> None:
        print(f"\n{level}: {message}", file=sys.stderr)

    def checkpoint(self, state: bytes) -> None:
        """Nothing is kept: the script is run again instead."""


def main() -> None:
    """Trains, pours, writes."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--preset", default="default")
    arguments.add_argument("--seed", type=int, default=0, help="of the training")
    given = arguments.parse_args()
    settings = read_settings()
    data = formats.to_csv(uci.fetch(settings).wines)
    assignment = Assignment(
        job_id=None,
        method="gan",
        params=resolve("gan", {"preset": given.preset}).model_dump(),
        seed=given.seed,
        dataset_id=UCI,
        dataset_synthetic=False,
        warnings=[],
        classifier_model=None,
        device="cpu",
        threads=settings.threads,
        checkpoint_interval_s=settings.checkpoint_interval_s,
        dcr_step=settings.dcr_step,
        dataset=data,
    )
    bundle = work(assignment, _Terminal())
    poured = Sampler(unpack(bundle)).wines(Condition(), seed=SEED, offset=0, n=ROWS)
    (FOLDER / STARTER).write_bytes(bundle)
    (FOLDER / STARTER_FILE).write_bytes(formats.to_csv(poured))
    print(f"\nmodel {unpack(bundle).id}: {unpack(bundle).manifest.report.model_dump_json()}", file=sys.stderr)


if __name__ == "__main__":
    main()
