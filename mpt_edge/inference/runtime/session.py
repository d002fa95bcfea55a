"""Opening graphs in ONNX Runtime, with one clear sentence where that fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.manifest import Manifest
from mpt_edge.inference.runtime.graph_names import PAST_LENGTH

#: Largest number of threads per core. Threads wait for each other busily, so far more of them never finish.
_MAX_THREADS_PER_CORE = 8

#: An optimization that makes CPUs slower: one node for a sum and its norm computes number by number, which took 20
#: percent of an int8 encoder's time. The nodes apart take 4.
_SLOWER = "SkipLayerNormFusion"

#: Execution provider unless others are asked for.
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class SessionOptions:
    """How ONNX Runtime executes a graph."""

    threads: int | None = None
    """Threads of one request; None leaves it to ONNX Runtime."""
    providers: Sequence[str] | None = None
    """Execution providers by ONNX Runtime's names, the preferred first; None for the CPU."""
    runs: int = 1
    """Runs of an encoder's graph side by side, for lists of texts; each has ``threads``."""

    def __post_init__(self) -> None:
        """Refuse impossible options. Raises InputError."""
        limit = _MAX_THREADS_PER_CORE * (os.cpu_count() or 1)
        is_count = isinstance(self.threads, Integral) and not isinstance(self.threads, bool)
        if self.threads is not None and not (is_count and 0 < self.threads <= limit):
            raise InputError(f"{self.threads!r} threads are not possible here; pass 1 to {limit}, or leave it out.")
        if not isinstance(self.runs, Integral) or isinstance(self.runs, bool) or not 0 < self.runs <= limit:
            raise InputError(f"{self.runs!r} runs side by side are not possible here; pass 1 to {limit}.")
        if self.providers is None:
            return
        if not isinstance(self.providers, list | tuple) or not self.providers:
            raise InputError("the providers are no list of names; pass a list such as ['CPUExecutionProvider'].")
        available = onnxruntime.get_available_providers()
        for name in self.providers:
            if name not in available:
                raise InputError(
                    f"this ONNX Runtime has no provider {name!r}, only {', '.join(available)}; pass one of these, or "
                    "install the onnxruntime package that has it."
                )


def open_session(path: Path, options: SessionOptions | None = None) -> Any:
    """Load a graph.

    Args:
        path: the ``.onnx`` file.
        options: threads and execution providers.

    Raises:
        CorruptFileError: ONNX Runtime cannot load the file.
    """
    options = options or SessionOptions()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(options.threads or 0)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # the rest is for images
    settings.add_session_config_entry("optimization.disable_specified_optimizers", _SLOWER)
    given: dict[str, Any] = {"providers": list(options.providers or [_CPU])}
    given["enable_fallback"] = int(given["providers"] != [_CPU])  # to the CPU; ONNX Runtime prints that it tries again
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), settings, **given)
    except MemoryError:  # has a sentence of its own
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share only this base
        raise CorruptFileError(f"ONNX Runtime cannot load {path}; export the bundle again.") from error
    return Session(session, path)


class Session:
    """ONNX Runtime's session, whose errors are those of its file."""

    def __init__(self, session: Any, path: Path) -> None:
        """Wrap the session of a graph's file."""
        self._session, self._path = session, path

    def __getattr__(self, name: str) -> Any:
        """Return anything else of ONNX Runtime's session."""
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Return outputs of the graph. Raises CorruptFileError for a graph that fails."""
        with self._failing():
            return list(self._session.run(outputs, feeds))

    def run_with_iobinding(self, binding: Any) -> None:
        """Run the graph with bound arrays. Raises CorruptFileError for a graph that fails."""
        with self._failing():
            self._session.run_with_iobinding(binding)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions share only this base
            if "allocate memory" in str(error):
                raise MemoryError(f"there is not enough memory to run {self._path}; send fewer texts.") from error
            raise CorruptFileError(f"the graph {self._path} fails; export the bundle again.") from error


def check_graph(
    session: Any,
    path: Path,
    manifest: Manifest,
    past: Sequence[str],
    others: Sequence[str],
    outputs: Sequence[str] = (),
) -> None:
    """Compare a graph's inputs and outputs with a manifest, so that a mix-up fails at load and not in ONNX Runtime.

    Args:
        session: the graph.
        path: its file.
        manifest: its description.
        past: all its inputs of keys and values.
        others: all its other inputs; ``prompt`` is compared with the shape of the manifest's prompts.
        outputs: outputs that it has, perhaps beside others.

    Raises:
        CorruptFileError: the graph has other inputs, or inputs of other types and sizes, or lacks an output.
    """
    try:
        fits = _fits(session, manifest, past, others, outputs)
    except UnicodeDecodeError:  # of a name in the graph, which ONNX Runtime reads as it is
        fits = False
    if not fits:
        raise graph_mismatch(path)


def _fits(session: Any, manifest: Manifest, past: Sequence[str], others: Sequence[str], outputs: Sequence[str]) -> bool:
    """Whether a graph has the inputs and outputs of its manifest; see `check_graph`."""
    given = {value.name: value for value in session.get_outputs()}
    ranks = {"prompt": manifest.placement.ndim + 1, "word_ids": 1, PAST_LENGTH: 1} | dict.fromkeys(past, 4)
    are_typed = all(
        value.type == ("tensor(float)" if value.name == "prompt" or value.name in past else "tensor(int64)")
        and len(value.shape) == ranks.get(value.name, 2)
        for value in session.get_inputs()
    ) and all(name in given and given[name].type == "tensor(float)" for name in outputs)
    shapes = {value.name: list(value.shape) for value in session.get_inputs()}
    sizes = [[shape[1], shape[3]] for name, shape in shapes.items() if name in past and len(shape) == 4]
    return (
        are_typed
        and set(shapes) == {*past, *others}
        and sizes == [[manifest.heads, manifest.head_size]] * len(past)
        and ("prompt" not in others or shapes["prompt"][2:] == list(manifest.prompt_shape(0)[1:]))
    )


def graph_mismatch(path: Path) -> CorruptFileError:
    """Return the error for a graph that does not belong to its manifest."""
    return CorruptFileError(f"{path} is not the graph that the manifest describes; export the bundle again.")


def ort_value(array: np.ndarray[Any, Any]) -> Any:
    """Return an array as ONNX Runtime's own value, which runs take and return without a copy."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
