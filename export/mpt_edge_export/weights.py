"""Where the weights of exported graphs lie: in the graph's file, beside it, or once for two graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir

#: Bytes of weights that one ONNX file takes (2 GB), with some room for the graph itself.
_LARGEST = 1_900_000_000

#: Tensors of fewer bytes stay in the graphs, which ONNX Runtime needs to see while it prepares them.
_SMALL = 1024

#: Weights begin where a page of memory does, so that they can be mapped.
_PAGE = 4096


def save_graph(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph with its weights; those that one file cannot take go into ``<name>_data`` beside it."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    onnx_ir.save(model, path, external_data=f"{path.name}_data" if size > _LARGEST else None)


def save_graphs(models: Mapping[Path, onnx_ir.Model], weights: Path) -> None:
    """Write graphs of one folder whose large weights lie in one file, equal ones once.

    ONNX Runtime maps that file into memory, so two graphs that read one table share it there too.

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
