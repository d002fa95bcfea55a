"""Weights of exported graphs, in one file beside them, where equal tensors are stored once.

ONNX Runtime maps that file into memory. Weights inside a graph's own file would be read, copied and
kept until all are prepared, which takes twice the memory and time. Such a file also holds at most
2 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir

#: Tensors of fewer bytes stay in the graphs: ONNX Runtime has to see them while it prepares the graph.
_SMALL = 1024

#: Weights begin on a memory page, so that they can be mapped.
_PAGE = 4096


def save_graph(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph, and its weights into ``<name>_data`` beside it."""
    save_graphs({path: model}, path.with_name(f"{path.name}_data"))


def save_graphs(models: Mapping[Path, onnx_ir.Model], weights: Path) -> None:
    """Write graphs of one folder whose large weights share one file.

    Args:
        models: graphs by the path to write.
        weights: the shared file, in the same folder.
    """
    offsets: dict[tuple[str, str], int] = {}
    with weights.open("wb") as file:
        for value in [value for model in models.values() for value in model.graph.initializers.values()]:
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _SMALL:
                continue
            data, shape = tensor.tobytes(), onnx_ir.Shape(tensor.numpy().shape)
            key = (f"{tensor.dtype}{shape}", hashlib.sha256(data).hexdigest())
            if key not in offsets:
                file.write(b"\0" * (-file.tell() % _PAGE))
                offsets[key] = file.tell()
                file.write(data)
            value.const_value = onnx_ir.ExternalTensor(
                weights.name,
                offsets[key],
                len(data),
                tensor.dtype,
                shape=shape,
                name=value.name or "",
                base_dir=weights.parent,
            )
    for path, model in models.items():
        onnx_ir.save(model, path)
