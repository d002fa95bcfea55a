"""Opening a graph in ONNX Runtime, with a clear sentence where that fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.manifest import Manifest

#: Most threads of a request, for each core.
_MAX_THREADS_PER_CORE = 8


def open_session(path: Path, threads: int = 0) -> Any:
    """Load a graph on the CPU.

    Args:
        path: the ``.onnx`` file.
        threads: threads of one request; 0 leaves it to ONNX Runtime.

    Raises:
        CorruptFileError: ONNX Runtime cannot load the file.
        InputError: ``threads`` is negative, or far more than there are cores.
    """
    most = _MAX_THREADS_PER_CORE * (os.cpu_count() or 1)
    if not 0 <= threads <= most:  # threads wait for each other busily, so too many of them never come to an end
        raise InputError(f"{threads} threads are not possible here; pass 0 (automatic) to {most}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except MemoryError:  # says itself what is wrong
        raise
    except Exception as error:  # ONNX Runtime raises its own types, which share only Exception
        raise CorruptFileError(f"ONNX Runtime cannot load {path}; export the bundle again.") from error


def check_graph(session: Any, path: Path, manifest: Manifest, past: Sequence[str], others: Sequence[str]) -> None:
    """Hold a graph's inputs against a manifest, so that a mix-up shows at load and not in ONNX Runtime.

    Args:
        session: the graph.
        path: its file.
        manifest: what it should be.
        past: all its inputs of keys and values.
        others: all its other inputs; ``prompt`` is held against the shape of the manifest's prompts.

    Raises:
        CorruptFileError: the graph has other inputs, or inputs of other sizes.
    """
    found = {value.name: list(value.shape) for value in session.get_inputs()}
    sizes = [[shape[1], shape[3]] for name, shape in found.items() if name in past and len(shape) == 4]
    fits = (
        set(found) == {*past, *others}
        and sizes == [[manifest.heads, manifest.head_size]] * len(past)
        and ("prompt" not in others or found["prompt"][2:] == list(manifest.prompt_shape(0)[1:]))
    )
    if not fits:
        raise not_described(path)


def not_described(path: Path) -> CorruptFileError:
    """Return what is raised where a graph and its manifest do not belong together."""
    return CorruptFileError(f"{path} is not the graph that the manifest describes; export the bundle again.")


def ort_value(array: np.ndarray[Any, Any]) -> Any:
    """Return an array as ONNX Runtime's own value, which a run takes and gives back without a copy to Python."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
