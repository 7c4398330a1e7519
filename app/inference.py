"""ONNX Runtime, set up for nets this small: one thread that sleeps when it has nothing to do."""

from __future__ import annotations

import onnxruntime as ort


def session(graph: bytes) -> ort.InferenceSession:
    """A session for an ONNX graph. One thread: for nets this small a second costs more than it brings."""
    ort.disable_telemetry_events()  # some builds would report their use to their maker
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
