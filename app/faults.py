"""Pydantic's findings -> ours: a pointer, what was expected, what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from app.errors import Fault

MAX_SHOWN = 60  # characters of an unusable value
MAX_FAULTS = 20


def faults_of(errors: Sequence[Any], *, at: tuple[str | int, ...] = ()) -> list[Fault]:
    """The first faults that Pydantic found, their places counted from ``at``."""
    return [_fault(error, at) for error in errors[:MAX_FAULTS]]


def _fault(error: dict[str, Any], at: tuple[str | int, ...]) -> Fault:
    place = (*at, *error["loc"])
    if error["type"] == "json_invalid":
        return Fault("/body", f"expected JSON, found something that is not: {error['ctx']['error']}", expected="JSON", found="not JSON")
    if error["type"] == "missing":
        expected, found = "a value", "nothing"
    elif error["type"] == "extra_forbidden":
        expected, found = "no such name", f"{place[-1]}"
    else:
        expected, found = _lower(error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")), shown(error["input"])
    where = ".".join(map(str, place[1:])) or str(place[0])
    return Fault("/" + "/".join(map(str, place)), f"{where[:200]}: expected {expected}, found {found}", expected=expected, found=found)


def shown(value: Any) -> str:
    """A value as a message quotes it: JSON-like and short."""
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
