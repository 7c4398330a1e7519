"""The methods: each file one, ``train(data, params, run) -> Trained``, found by the name that ``app.params.METHODS`` gives it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from app.params import METHODS
from worker.training import Run, Trained, TrainingSet

Train = Callable[[TrainingSet, Any, Run], Trained]  # Any: the method's own params, ``METHODS[name]``


def find(name: str) -> Train:
    """The training of a method; ``KeyError`` for a name that is none."""
    if name not in METHODS:
        raise KeyError(f"expected one of {sorted(METHODS)}, found {name!r}")
    return cast(Train, import_module(f"{__name__}.{name}").train)
