"""Pydantic's findings -> ours: a pointer, what was expected, what was found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from app.errors import Fault

MAX_SHOWN = 60  # characters of an unusable value
MAX_FAULTS = 20
PRINTABLE = r"[^\x00-\x1f\x7f]"  # what every pattern of ours is made of, so that one message fits all
MAX_WHERE = 200  # characters of a place: names come from outside


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "too_short": "at least {min_length} item",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} character",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text without control characters",
    "string_type": "text",
    "string_unicode": "text",
    "list_type": "a list",
    "model_attributes_type": "a JSON object",
    "model_type": "a JSON object",
    "dict_type": "a JSON object",
}


def faults_of(errors: Sequence[Any], *, at: tuple[str | int, ...] = (), names: Iterable[str] = ()) -> list[Fault]:
    """The first faults that Pydantic found, their places counted from ``at``; of ``names`` that are known there the likeliest is proposed."""
    known = list(names)
    return [_fault(error, at, known) for error in errors[:MAX_FAULTS]]


def _fault(error: dict[str, Any], at: tuple[str | int, ...], known: list[str]) -> Fault:
    place = (*at, *error["loc"])
    where = (".".join(map(str, place[1:])) or str(place[0]))[:MAX_WHERE]
    pointer = "/" + "/".join(map(str, place))[:MAX_WHERE]
    match error["type"]:
        case "json_invalid":
            return Fault("/body", f"expected JSON, found something that is not: {error['ctx']['error']}", expected="JSON", found="not JSON")
        case "extra_forbidden":
            near = get_close_matches(str(place[-1])[:MAX_SHOWN], known, n=1)
            perhaps, wanted = (f"; did you mean {near[0]}?", near[0]) if near else ("", "a name that the documentation lists")
            return Fault(pointer, f"{where}: there is no such name here{perhaps}", expected=wanted, found=where)
        case "missing":
            wanted, found = "a value", "nothing"
        case _:
            wanted, found = expected(error), shown(error["input"])
    return Fault(pointer, f"{where}: expected {wanted}, found {found}", expected=wanted, found=found)


def expected(error: dict[str, Any]) -> str:
    """What would have been right, in the words of a person."""
    if template := _EXPECTED.get(error["type"]):
        return template.format(**error.get("ctx", {}))
    text: str = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def shown(value: Any) -> str:
    """A value as a message quotes it: JSON-like and short."""
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
