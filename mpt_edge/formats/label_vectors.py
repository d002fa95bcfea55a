"""Label vectors: one vector a label beside a task's ``u, v``, in one to eight bits a number (docs/design.md).

A number is the middle of one of equal intervals around zero: ``(code + 1/2 - intervals / 2) * step``. Each label has
a step of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats, Stored
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.tensors import LABEL_CODES

#: Name of the steps in a task file.
STEPS = "labels.steps"

#: Names of all tensors of label vectors in a task file.
LABEL_TENSORS = (LABEL_CODES, STEPS)

#: Bits of a number, and the step with the least squared error, for numbers of a normal distribution with variance
#: one (J. Max, Quantizing for minimum distortion, 1960, table II).
STEP_SIZES: Mapping[int, float] = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}


@dataclass(frozen=True)
class LabelVectors:
    """One vector a label, with as many channels as the embedding."""

    codes: NDArray[np.uint8]
    """Codes of the numbers, packed from the lowest bits of each byte on, ``(labels, bytes)``."""
    steps: Stored
    """Step of each label, ``(labels,)``, float16."""
    bits: int
    """Bits of a code: 1, 2, 4 or 8."""

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.codes)

    @classmethod
    def quantize(cls, vectors: Floats, bits: int) -> LabelVectors:
        """Round vectors ``(labels, d)``. Raises OverflowError where a step is above float16's range."""
        size = STEP_SIZES[bits] * np.sqrt(np.mean(np.square(vectors, dtype=np.float64), axis=1))
        with np.errstate(over="ignore"):
            steps = np.maximum(size, np.finfo(np.float16).tiny).astype(np.float16)
        if not np.isfinite(steps).all():
            raise OverflowError("a label vector holds numbers that float16 has no room for.")
        middle = 1 << bits >> 1
        codes = np.floor(vectors / steps.astype(np.float32)[:, None]) + middle
        return cls(_pack(np.clip(codes, 0, 2 * middle - 1).astype(np.uint8), bits), steps, bits)

    def dequantize(self, width: int) -> Floats:
        """Return the vectors ``(labels, width)`` in float32."""
        codes = _unpack(self.codes, self.bits)[:, :width].astype(np.float32)
        centered = codes - np.float32((1 << self.bits) / 2 - 0.5)
        vectors: Floats = centered * self.steps.astype(np.float32)[:, None]
        return vectors

    def fits(self, labels: int, width: int) -> bool:
        """Whether there is a vector of that width for each label."""
        return self.codes.shape == (labels, packed_width(width, self.bits))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors by their names in a file."""
        return {LABEL_CODES: self.codes, STEPS: self.steps}

    @classmethod
    def parse(cls, arrays: Mapping[str, NDArray[Any]], bits: str | None, source: str) -> LabelVectors | None:
        """Return the label vectors of a file; None for a file without.

        Args:
            arrays: all tensors of the file.
            bits: the file's entry for their bits.
            source: the file's name in messages.

        Raises:
            CorruptFileError: tensors and entry do not belong together.
        """
        codes, steps = arrays.get(LABEL_CODES), arrays.get(STEPS)
        if codes is None and steps is None and bits is None:
            return None
        known = {str(each): each for each in STEP_SIZES}.get(bits or "")
        if (
            codes is None or steps is None or known is None or codes.ndim != 2 or not codes.size
            or steps.shape != codes.shape[:1] or not (steps > 0).all()
        ):  # fmt: skip
            raise CorruptFileError(f"{source}: its label vectors and their steps do not pair up; train it again.")
        return cls(codes, steps, known)


def packed_width(width: int, bits: int) -> int:
    """Return the bytes that codes of ``width`` numbers take."""
    return -(-width * bits // 8)


def _pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes ``(labels, width)`` into bytes ``(labels, bytes)``."""
    labels, width = codes.shape
    per_byte = 8 // bits
    padded = np.zeros((labels, packed_width(width, bits) * per_byte), np.uint8)
    padded[:, :width] = codes
    shifted = padded.reshape(labels, -1, per_byte) << _shifts(bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=2)
    return packed


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the codes ``(labels, bytes · codes of a byte)`` of packed ones."""
    codes: NDArray[np.uint8] = (packed[:, :, None] >> _shifts(bits)) & np.uint8((1 << bits) - 1)
    return codes.reshape(len(packed), -1)


def _shifts(bits: int) -> NDArray[np.uint8]:
    return np.arange(0, 8, bits, dtype=np.uint8)
