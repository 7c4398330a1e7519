"""What comes with the package is what the package's own code makes."""

from __future__ import annotations

import numpy as np
import pytest

from app import params, uci
from app.bundle import Bundle
from app.sampler import Condition, Sampler
from app.settings import Settings
from app.split import split
from app.wine import NAMES, Wines, concatenate
from tests.conftest import DATA_DIR, needs_uci
from worker import evaluate
from worker.measuring import REPORT_SEED


def pour(bundle: Bundle, *, seed: int, n: int) -> Wines:
    return Sampler(bundle).wines(Condition(), seed=seed, offset=0, n=n)


def test_the_starter_dataset_was_poured_by_the_starter_model(starter: Bundle, starter_wines: Wines) -> None:
    poured = pour(starter, seed=0, n=len(starter_wines))

    # another kind of processor may differ in the last bit of a network, and so in the odd row
    assert (poured.ticks == starter_wines.ticks).all(axis=1).mean() > 0.999
    assert (poured.quality == starter_wines.quality).all()


def test_the_starter_model_does_not_tell_where_it_was_made(starter: Bundle) -> None:
    assert not any(b".py" in part for part in starter.parts.values())


def test_the_starter_model_was_trained_on_the_original_data_with_the_default_preset(starter: Bundle) -> None:
    lineage = starter.manifest.lineage
    assert (lineage.dataset_id, lineage.dataset_synthetic) == ("uci", False)
    assert lineage.params == params.resolve("gan", {}).model_dump()
    assert starter.manifest.report.protocol == evaluate.PROTOCOL  # or nothing trained could ever be compared with it
    assert starter.manifest.columns == list(NAMES)


@needs_uci
def test_the_starter_models_report_is_what_is_measured_today(starter: Bundle) -> None:
    lineage = starter.manifest.lineage
    wines = uci.fetch(Settings(data_dir=DATA_DIR)).wines
    rows = split(wines, holdout=lineage.params["holdout"], seed=lineage.params["split_seed"])

    measured = evaluate.report(pour(starter, seed=REPORT_SEED, n=evaluate.REPEATS * len(rows.train)), rows)

    shipped = starter.manifest.report
    assert (measured.protocol, measured.rows, measured.in_sample) == (shipped.protocol, shipped.rows, shipped.in_sample)
    for name, measure in shipped.measures.items():
        assert measured.measures[name].value == pytest.approx(measure.value, abs=0.01), name
        assert measured.measures[name].ceiling == pytest.approx(measure.ceiling, abs=0.01), name


@needs_uci
def test_nothing_in_the_starter_dataset_is_a_real_wine(starter_wines: Wines) -> None:
    real = uci.fetch(Settings(data_dir=DATA_DIR)).wines
    keys = concatenate([real, starter_wines]).keys()

    assert not np.isin(keys[len(real) :], keys[: len(real)]).any()
