"""Requests that may be sent twice: the key that a sender made up, and what the first request with it made. Every function runs in its caller's transaction.

IETF draft-ietf-httpapi-idempotency-key-header; ``docs/decisions/0018-idempotency-keys.md`` says what it leaves open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.db import IDEMPOTENCY_LOCK, alone, idempotency_keys, now
from app.errors import KeyReused

KEEP_S = 24 * 3600.0  # how long a key is good for; older ones go when the next comes


@dataclass(frozen=True)
class Key:
    """A sender's key for one call; the same text on another call is another key. ``fingerprint`` tells one request from another."""

    call: str
    text: str
    fingerprint: str


@dataclass(frozen=True)
class Made:
    """What a request came to: the id of a job or dataset, and whether that request created it. ``replayed``: an earlier one with the same key did."""

    resource: str
    created: bool = True
    replayed: bool = False


def fingerprint(*parts: object) -> str:
    """64 characters, equal where all parts are equal as JSON, whatever the order of names in it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find(tx: Connection, key: Key | None) -> Made | None:
    """What the first request with this key made; None if there was none, or no key. ``KeyReused`` if that request was another."""
    if key is None:
        return None
    keys = idempotency_keys.c
    mine = (keys.call == key.call, keys.key == key.text, keys.created_at > now() - KEEP_S)
    row = tx.execute(sa.select(keys.fingerprint, keys.resource, keys.created).where(*mine)).one_or_none()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise KeyReused(f"Idempotency-Key {key.text[:60]}: expected the request that it came with first, found another; a new request needs a new key")
    return Made(row.resource, row.created, replayed=True)


def once(tx: Connection, key: Key | None, make: Callable[[], Made]) -> Made:
    """What ``make`` made, or what an earlier request with this key did; of requests at the same time the others wait for the first.

    The key is written in the transaction that makes the thing: both are there, or neither. ``KeyReused`` as ``find``.
    """
    if key is None:
        return make()
    alone(tx, IDEMPOTENCY_LOCK)
    if (known := find(tx, key)) is not None:
        return known
    tx.execute(sa.delete(idempotency_keys).where(idempotency_keys.c.created_at <= now() - KEEP_S))
    made = make()
    values = {"call": key.call, "key": key.text, "fingerprint": key.fingerprint, "resource": made.resource, "created": made.created, "created_at": now()}
    tx.execute(sa.insert(idempotency_keys).values(values))
    return made
