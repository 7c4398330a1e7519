"""The training process: it takes one assignment from its standard input, and tells its supervisor how it goes.

It touches no database. Asked to stop (SIGTERM), it hands over a last checkpoint at its next step. If the supervisor
dies, the pipe closes and this process ends at once: no orphan trains on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from typing import BinaryIO

from worker.assignment import read_assignment
from worker.frames import Frame, send
from worker.pipeline import work
from worker.training import Level, Metrics, Stopped, TrainingRefused

ORPHANED = 3  # exit status


def main() -> None:
    """One assignment in, one bundle (or one refusal) out; any other error leaves a traceback and status 1."""
    # standard output belongs to frames alone: whatever libraries print goes to standard error
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    assignment = read_assignment(sys.stdin.buffer)
    if assignment is None:
        sys.exit(ORPHANED)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    watcher = _Watcher(out, asked)
    try:
        bundle = work(assignment, watcher)
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # as if nothing had caught it: our parent sees what ended us
    except TrainingRefused as error:
        send(out, Frame("refused", {"error": str(error)}))
    except Exception as error:
        traceback.print_exc()
        send(out, Frame("crashed", {"error": f"{type(error).__name__}: {error}"}))
        sys.exit(1)
    else:
        send(out, Frame("bundle", blob=bundle))


class _Watcher:
    """Sends what happens to the supervisor."""

    def __init__(self, out: BinaryIO, asked: threading.Event) -> None:
        self._out, self._asked = out, asked

    @property
    def stopping(self) -> bool:
        return self._asked.is_set()

    def progress(self, share: float, stage: str, metrics: Metrics) -> None:
        send(self._out, Frame("progress", {"progress": share, "stage": stage, "metrics": metrics}))

    def log(self, message: str, level: Level) -> None:
        send(self._out, Frame("log", {"message": message, "level": level}))

    def checkpoint(self, state: bytes) -> None:
        send(self._out, Frame("checkpoint", blob=state))


def _end_with_supervisor() -> None:
    # the pipe ends when the supervisor is gone, however it went; not read by sys.stdin, whose lock would abort an interpreter that ends
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
