"""ONNX Runtime, set up for nets this small: one thread that sleeps when it has nothing to do."""

from __future__ import annotations

import os
import platform
from functools import cache

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds report their use to their maker, from their import on

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from app.errors import BundleInvalid

_REFUSED = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.RuntimeException)


@cache
def arithmetic() -> str:
    """What the bits of a result depend on beside the graph and its inputs."""
    return f"onnxruntime {ort.__version__}, numpy {np.__version__}, {platform.machine()}"


def session(graph: bytes) -> ort.InferenceSession:
    """A session for an ONNX graph; ``BundleInvalid`` if this ONNX Runtime can't run it. One thread: for nets this small a second costs more than it brings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _REFUSED as error:
        raise BundleInvalid(f"expected a graph that ONNX Runtime {ort.__version__} can run, found one that it refuses: {error}") from error
