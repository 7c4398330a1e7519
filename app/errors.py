"""Domain errors: what was expected, what arrived, what to do next. They know nothing of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one input.

    ``pointer`` is a JSON pointer into the input (``/body/rows/0/alcohol``, ``/query/quality``).
    """

    pointer: str
    detail: str
    expected: str | None = None
    found: str | None = None


class CuveeError(Exception):
    """Base of every error that a user may be shown; ``slug`` is its stable name."""

    slug = "error"

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class InvalidInput(CuveeError):
    """The request can never succeed as it is: some of its values are wrong."""

    slug = "invalid-input"


class NotFound(CuveeError):
    """A job, model, dataset or alias of that name does not exist."""

    slug = "not-found"


class Deleted(NotFound):
    """It existed once, and somebody deleted it."""

    slug = "deleted"


class Stale(CuveeError):
    """The thing is no longer as it was when the asker looked at it."""

    slug = "stale"


class Conflict(CuveeError):
    """The thing exists but is in a state that does not allow this."""

    slug = "conflict"


class KeyReused(CuveeError):
    """An idempotency key came with another request than the first time."""

    slug = "idempotency-key-reused"


class Unauthorised(CuveeError):
    """Credentials came that are not this deployment's."""

    slug = "unauthorised"


class TooLarge(CuveeError):
    """More bytes or rows came in than this deployment accepts."""

    slug = "too-large"


class DatasetUnavailable(CuveeError):
    """The original data can't be had from here."""

    slug = "dataset-unavailable"


class BundleInvalid(CuveeError):
    """Bytes that are not a bundle, or a bundle that was damaged or is of an unknown version."""

    slug = "bundle-invalid"


class DatabaseNotReady(CuveeError):
    """The database does not answer, or its schema is not the one this version needs."""

    slug = "database-not-ready"


class DatabaseDamaged(CuveeError):
    """The database says that what it stores there is damaged: to ask again does not help."""

    slug = "database-damaged"


class LeaseLost(CuveeError):
    """Another worker owns the job now; whoever sees this must stop and write nothing."""

    slug = "lease-lost"


class DatasetDamaged(CuveeError):
    """Rows that are not those that their hash stands for, in a file of the original data or in the database: refused rather than used or passed over."""

    slug = "dataset-damaged"


class UnsupportedMediaType(CuveeError):
    """The body is of a type that this call does not take."""

    slug = "unsupported-media-type"


class NotAcceptable(CuveeError):
    """None of the formats that the asker accepts can be served."""

    slug = "not-acceptable"
