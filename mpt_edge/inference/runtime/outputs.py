"""Shapes of a graph's outputs, which a forged graph may declare and not keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpt_edge._arrays import Floats
from mpt_edge.inference.runtime.session import graph_mismatch


def check_output(array: Floats, shape: Sequence[int], path: Path) -> Floats:
    """Return an output, after comparing its shape with what the graph's inputs ask for.

    Args:
        array: the output.
        shape: the shape that it must have.
        path: the graph's file.

    Raises:
        CorruptFileError: it has another one.
    """
    if array.shape != tuple(shape):
        raise graph_mismatch(path)
    return array


def check_outputs(arrays: Sequence[Floats], shape: Sequence[int], path: Path) -> list[Floats]:
    """Return outputs of the same shape; see `check_output`."""
    return [check_output(array, shape, path) for array in arrays]
