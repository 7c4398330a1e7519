"""What supervisor and training process say to each other: length, JSON head, bytes. Nothing here can be executed."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">II")


@dataclass(frozen=True)
class Frame:
    """One message: what it is, its JSON fields, and bytes that come along."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    blob: bytes = b""


def send(stream: BinaryIO, frame: Frame) -> None:
    """Writes one frame and flushes; ``BrokenPipeError`` if nobody reads any more."""
    head = json.dumps({"kind": frame.kind, "fields": frame.fields}).encode()
    stream.write(_LENGTHS.pack(len(head), len(frame.blob)) + head + frame.blob)
    stream.flush()


def receive(stream: BinaryIO) -> Frame | None:
    """The next frame; None when the other side is gone, also in the middle of a frame."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_length, blob_length = _LENGTHS.unpack(lengths)
    head, blob = stream.read(head_length), stream.read(blob_length)
    if len(head) < head_length or len(blob) < blob_length:
        return None
    return Frame(**json.loads(head), blob=blob)
