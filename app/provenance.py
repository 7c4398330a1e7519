"""The real rows behind a model: which dataset it was trained on, and what of it was held out. No HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from app import datasets
from app.datasets import Dataset
from app.errors import Conflict, NotFound
from app.split import Split, split
from app.tables import read_csv

_FETCHED = (datasets.UCI, datasets.STARTER)  # what training brings here by itself; all others were uploaded


def dataset(tx: Connection, model_id: str, lineage: Mapping[str, Any]) -> Dataset:
    """The dataset that a model of this lineage was trained on; ``NotFound`` if it is not stored here, ``Conflict`` if it is another by now."""
    dataset_id, sha256 = lineage["dataset_id"], lineage["dataset_sha256"]
    try:
        found = datasets.get(tx, dataset_id)
    except NotFound as error:
        how = f"POST /train with dataset {dataset_id!r} brings it" if dataset_id in _FETCHED else "POST /datasets with the same rows brings them back"
        raise NotFound(f"the rows behind model {model_id} are not here: its dataset {dataset_id!r} (SHA-256 {sha256}) is not stored; {how}") from error
    if found.sha256 != sha256:
        raise Conflict(
            f"the rows behind model {model_id} are not here: it was trained on another {dataset_id!r} (SHA-256 {sha256}) than this one ({found.sha256})"
        )
    return found


def rows(content: bytes, lineage: Mapping[str, Any]) -> Split:
    """Those of the dataset's canonical CSV that a model of this lineage was trained on, and those that it never saw."""
    params = lineage["params"]
    return split(read_csv(content).wines, holdout=params["holdout"], seed=params["split_seed"])
