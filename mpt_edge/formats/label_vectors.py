"""Label vectors: one vector a label beside a task's ``u, v``, in eight bits (docs/design.md).

A vector is in the space of the pooled hidden states, or in a subspace of it. The basis of the subspace
belongs to the shared prompt, so that a label takes as many bytes as the subspace has dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats, Stored
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.tensors import LABEL_VALUES

#: Names of the scales in a task file, and of the basis in a prompt file.
SCALES, BASIS = "labels.scales", "basis"

#: Names of all tensors of label vectors in a task file.
LABEL_TENSORS = (LABEL_VALUES, SCALES)

#: Largest value of eight bits, with which the largest number of a vector is stored.
_LARGEST = 127


@dataclass(frozen=True)
class LabelVectors:
    """One vector a label, each in eight bits with a scale of its own."""

    values: NDArray[np.int8]
    """Shape ``(labels, k)``, -127 to 127; k is d in full width."""
    scales: Stored
    """Largest magnitude of each vector, ``(labels,)``, float16."""

    @property
    def width(self) -> int:
        """Numbers of a label, k."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.values)

    @classmethod
    def quantize(cls, vectors: Floats) -> LabelVectors:
        """Round vectors ``(labels, k)`` to eight bits. Raises OverflowError for one above float16's range."""
        with np.errstate(over="ignore"):
            scales = np.abs(vectors).max(1).astype(np.float16)
        if not np.isfinite(scales).all():
            raise OverflowError("a label vector holds a number that float16 has no room for.")
        # The scale is rounded as well, so a number may come to lie just above it.
        steps = np.rint(vectors / np.maximum(scales.astype(np.float32), 1e-7)[:, None] * _LARGEST)
        return cls(np.clip(steps, -_LARGEST, _LARGEST).astype(np.int8), scales)

    def dequantize(self, basis: Stored | None = None) -> Floats:
        """Return the vectors in float32.

        Args:
            basis: directions of the subspace, ``(at least k, d)``; None to stay in it, or for full width.

        Returns:
            Shape ``(labels, k)``; ``(labels, d)`` with a basis.
        """
        steps = self.scales.astype(np.float32)[:, None] / np.float32(_LARGEST)
        vectors: Floats = self.values.astype(np.float32) * steps
        if basis is None:
            return vectors
        spanned: Floats = vectors @ basis[: self.width].astype(np.float32)
        return spanned

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors by their names in a file."""
        return {LABEL_VALUES: self.values, SCALES: self.scales}

    @classmethod
    def parse(cls, arrays: Mapping[str, NDArray[Any]], source: str) -> LabelVectors | None:
        """Return the label vectors among a file's tensors; None for a file without.

        Args:
            arrays: all tensors of the file.
            source: the file's name in messages.

        Raises:
            CorruptFileError: the tensors do not belong together.
        """
        values, scales = arrays.get(LABEL_VALUES), arrays.get(SCALES)
        if values is None and scales is None:
            return None
        if (
            values is None or scales is None or values.ndim != 2 or not values.size
            or scales.shape != values.shape[:1] or not (values >= -_LARGEST).all()
        ):  # fmt: skip
            raise CorruptFileError(f"{source}: its label vectors and their scales do not pair up; train it again.")
        return cls(values, scales)


def parse_basis(arrays: Mapping[str, NDArray[Any]], width: int, source: str) -> Stored | None:
    """Return the basis of label vectors among a file's tensors, ``(k, d)``; None for a file without.

    Args:
        arrays: all tensors of the file.
        width: channels d of the prompt.
        source: the file's name in messages.

    Raises:
        CorruptFileError: it has another shape or type.
    """
    basis = arrays.get(BASIS)
    if basis is not None and (basis.ndim != 2 or basis.shape[1] != width or not 0 < len(basis) <= width):
        raise CorruptFileError(f"{source}: its basis of label vectors does not fit its prompt; train it again.")
    return basis
