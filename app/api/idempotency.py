"""``Idempotency-Key``: how a request says that it may be sent twice, and an answer that it was."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Response
from pydantic import WithJsonSchema

from app.errors import Fault, InvalidInput
from app.idempotency import Made

MAX_KEY = 255
_KEY = re.compile(rf'("?)([\x21\x23-\x5b\x5d-\x7e]{{1,{MAX_KEY}}})\1')  # the draft has it in quotes, most clients do not
_EXPECTED = f'one key of 1 to {MAX_KEY} visible ASCII characters without spaces, " and \\, such as a UUID'
_SCHEMA = {"type": "string", "maxLength": MAX_KEY + 2, "examples": ["8e03978e-40d5-43d4-bc93-6894a57f9324"]}
_MEANING = (
    f"makes the request safe to send again for a day: the same key and the same request make one thing and get the same answer, "
    f"with `Idempotency-Replayed: true` from the second on; {_EXPECTED}"
)

REPLAYED: dict[str, Any] = {"Idempotency-Replayed": {"schema": {"type": "string"}, "description": "`true` where an earlier request with this key made it"}}


def idempotency_key(
    given: Annotated[Annotated[list[str], WithJsonSchema(_SCHEMA)] | None, Header(alias="Idempotency-Key", description=_MEANING)] = None,
) -> str | None:
    """The key of a request, None where it has none; ``InvalidInput`` for one that can't be kept, or for two."""
    if given is None:
        return None
    if len(given) > 1:
        raise _refused(f"{len(given)} of them")
    match = _KEY.fullmatch(given[0].strip())
    if match is None:
        raise _refused(repr(given[0][:60]) + (f" ({len(given[0])} characters)" if len(given[0]) > 60 else ""))
    return match[2]


def say(response: Response, made: Made) -> None:
    """Tells in the headers whether an earlier request did the work."""
    if made.replayed:
        response.headers["Idempotency-Replayed"] = "true"


def _refused(found: str) -> InvalidInput:
    detail = f"Idempotency-Key: expected {_EXPECTED}, found {found}"
    return InvalidInput(detail, [Fault("/header/idempotency-key", detail, expected=_EXPECTED, found=found)])


GivenKey = Annotated[str | None, Depends(idempotency_key)]
