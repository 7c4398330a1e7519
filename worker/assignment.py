"""A job as the training process needs it, and how it gets there. Without torch: the supervisor stays small."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from worker.frames import Frame, receive, send

BLOBS = ("dataset", "checkpoint", "classifier")


@dataclass(frozen=True)
class Assignment:
    """Everything about a job that its training depends on; all but the ``BLOBS`` travels as JSON."""

    job_id: str | None
    method: str
    params: dict[str, Any]
    seed: int
    dataset_id: str
    dataset_synthetic: bool
    warnings: list[str]
    classifier_model: str | None
    device: str
    threads: int
    checkpoint_interval_s: float
    dcr_step: float
    dataset: bytes = field(repr=False, default=b"")
    checkpoint: bytes | None = field(repr=False, default=None)
    classifier: bytes | None = field(repr=False, default=None)


def write_assignment(stream: BinaryIO, assignment: Assignment) -> None:
    """Sends an assignment to a training process."""
    fields = {name: value for name, value in asdict(assignment).items() if name not in BLOBS}
    for name in BLOBS:
        if (blob := getattr(assignment, name)) is not None:
            send(stream, Frame(name, blob=blob))
    send(stream, Frame("assignment", fields))


def read_assignment(stream: BinaryIO) -> Assignment | None:
    """What ``write_assignment`` sent; None if the sender is gone before it was complete."""
    blobs: dict[str, Any] = {}
    while (frame := receive(stream)) is not None:
        if frame.kind == "assignment":
            return Assignment(**frame.fields, **blobs)
        blobs[frame.kind] = frame.blob
    return None
