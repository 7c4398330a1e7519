"""The methods: each file one, each ``train(data, params, run) -> Trained``; this table is where the worker finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.methods import classifier, gan
from worker.training import Run, Trained, TrainingSet

Train = Callable[[TrainingSet, Any, Run], Trained]

METHODS: dict[str, Train] = {"gan": gan.train, "classifier": classifier.train}
