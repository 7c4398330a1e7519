"""Pydantic's findings -> ours: a pointer, what was expected, what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from app.errors import Fault

MAX_SHOWN = 60  # characters of an unusable value
MAX_FAULTS = 20
MAX_WHERE = 200  # characters of a place: names come from outside


def faults_of(errors: Sequence[Any], *, at: tuple[str | int, ...] = ()) -> list[Fault]:
    """The first faults that Pydantic found, their places counted from ``at``."""
    return [_fault(error, at) for error in errors[:MAX_FAULTS]]


def _fault(error: dict[str, Any], at: tuple[str | int, ...]) -> Fault:
    place = (*at, *error["loc"])
    where = (".".join(map(str, place[1:])) or str(place[0]))[:MAX_WHERE]
    pointer = "/" + "/".join(map(str, place))[:MAX_WHERE]
    match error["type"]:
        case "json_invalid":
            return Fault("/body", f"expected JSON, found something that is not: {error['ctx']['error']}", expected="JSON", found="not JSON")
        case "extra_forbidden":
            return Fault(pointer, f"{where}: there is no such name here", expected="a name that the documentation lists", found=where)
        case "missing":
            expected, found = "a value", "nothing"
        case _:
            expected, found = _expected(error), shown(error["input"])
    return Fault(pointer, f"{where}: expected {expected}, found {found}", expected=expected, found=found)


def _expected(error: dict[str, Any]) -> str:
    """What would have been right, in the words of a person."""
    context = error.get("ctx", {})
    match error["type"]:
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return "a whole number"
        case "float_parsing" | "float_type":
            return "a number"
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "greater_than":
            return f"more than {context['gt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "less_than":
            return f"less than {context['lt']}"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "a JSON object"
    text: str = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def shown(value: Any) -> str:
    """A value as a message quotes it: JSON-like and short."""
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
