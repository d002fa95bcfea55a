"""Where the weights of exported graphs lie: in a file beside them, once where two graphs share some.

ONNX Runtime maps that file into memory. Weights inside a graph's own file it would read, copy and keep until all are
prepared, which takes twice the memory and time, and one such file holds 2 GB at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir

#: Tensors of fewer bytes stay in the graphs, which ONNX Runtime needs to see while it prepares them.
_SMALL = 1024

#: Weights begin where a page of memory does, so that they can be mapped.
_PAGE = 4096


def save_graph(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph, and its weights into ``<name>_data`` beside it."""
    save_graphs({path: model}, path.with_name(f"{path.name}_data"))


def save_graphs(models: Mapping[Path, onnx_ir.Model], weights: Path) -> None:
    """Write graphs of one folder whose large weights lie in one file, equal ones once.

    Args:
        models: where each graph goes.
        weights: the file beside them.
    """
    places: dict[tuple[str, str], int] = {}
    with weights.open("wb") as file:
        for value in [value for model in models.values() for value in model.graph.initializers.values()]:
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _SMALL:
                continue
            data, shape = tensor.tobytes(), onnx_ir.Shape(tensor.numpy().shape)
            key = (f"{tensor.dtype}{shape}", hashlib.sha256(data).hexdigest())
            if key not in places:
                file.write(b"\0" * (-file.tell() % _PAGE))
                places[key] = file.tell()
                file.write(data)
            value.const_value = onnx_ir.ExternalTensor(
                weights.name,
                places[key],
                len(data),
                tensor.dtype,
                shape=shape,
                name=value.name or "",
                base_dir=weights.parent,
            )
    for path, model in models.items():
        onnx_ir.save(model, path)
