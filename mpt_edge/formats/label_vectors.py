"""Label vectors: a vector and a bias a label beside a task's ``u, v``, with 2 to 256 levels a number (docs/design.md).

A number is the middle of one of equal intervals around zero: ``(code + 1/2 - levels / 2) * step``. Each label has a
step of its own. As many codes as fit share a byte.
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

#: Names of the steps and the biases in a task file.
STEPS, BIASES = "labels.steps", "labels.biases"

#: Names of all tensors of label vectors in a task file.
LABEL_TENSORS = (LABEL_CODES, STEPS, BIASES)

#: Bytes of a label beside its codes: its step and its bias.
BYTES_PER_LABEL = 4

#: Levels of a number, the largest of which 8, 5, 4, 3, 2 and 1 share a byte; and the step with the least squared
#: error for numbers of a normal distribution with variance one.
STEP_SIZES: Mapping[int, float] = {2: 1.596, 3: 1.224, 4: 0.9957, 6: 0.7334, 16: 0.3352, 256: 0.0308}


@dataclass(frozen=True)
class LabelVectors:
    """One vector a label, with as many channels as the embedding, and one bias.

    A label's score is the product of its vector with the embedding, plus its bias.
    """

    codes: NDArray[np.uint8]
    """Codes of the numbers, packed: the first is the lowest digit of a byte; ``(labels, bytes)``."""
    steps: Stored
    """Step of each label, ``(labels,)``, float16."""
    biases: Stored
    """Bias of each label, ``(labels,)``, float16."""
    levels: int
    """Levels of a number, one of `STEP_SIZES`."""

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.codes)

    @classmethod
    def quantize(cls, vectors: Floats, biases: Floats, levels: int) -> LabelVectors:
        """Round vectors ``(labels, d)`` and biases ``(labels,)``.

        Raises:
            OverflowError: a step or a bias is above float16's range.
        """
        size = STEP_SIZES[levels] * np.sqrt(np.mean(np.square(vectors, dtype=np.float64), axis=1))
        with np.errstate(over="ignore"):
            steps = np.maximum(size, np.finfo(np.float16).tiny).astype(np.float16)
            half = biases.astype(np.float16)
        if not (np.isfinite(steps).all() and np.isfinite(half).all()):
            raise OverflowError("label vectors hold numbers that float16 has no room for.")
        codes = np.floor(vectors / steps.astype(np.float32)[:, None] + np.float32(levels / 2))
        return cls(_pack(np.clip(codes, 0, levels - 1).astype(np.uint8), levels), steps, half, levels)

    def dequantize(self, width: int) -> Floats:
        """Return the vectors ``(labels, width)`` in float32; the biases are as they are."""
        codes = _unpack(self.codes, self.levels)[:, :width].astype(np.float32)
        vectors: Floats = (codes - np.float32(self.levels / 2 - 0.5)) * self.steps.astype(np.float32)[:, None]
        return vectors

    def fits(self, labels: int, width: int) -> bool:
        """Whether there is a vector of that width for each label."""
        return self.codes.shape == (labels, packed_width(width, self.levels))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors by their names in a file."""
        return {LABEL_CODES: self.codes, STEPS: self.steps, BIASES: self.biases}

    @classmethod
    def parse(cls, arrays: Mapping[str, NDArray[Any]], levels: str | None, source: str) -> LabelVectors | None:
        """Return the label vectors of a file; None for a file without.

        Args:
            arrays: all tensors of the file.
            levels: the file's entry for their levels.
            source: the file's name in messages.

        Raises:
            CorruptFileError: tensors and entry do not belong together.
        """
        codes, steps, biases = (arrays.get(name) for name in LABEL_TENSORS)
        if codes is None and steps is None and biases is None and levels is None:
            return None
        known = {str(each): each for each in STEP_SIZES}.get(levels or "")
        if (
            codes is None or steps is None or biases is None or known is None or codes.ndim != 2 or not codes.size
            or not steps.shape == biases.shape == codes.shape[:1] or not (steps > 0).all()
        ):  # fmt: skip
            raise CorruptFileError(
                f"{source}: its label vectors, their steps and biases do not pair up; train it again."
            )
        return cls(codes, steps, biases, known)


def packed_width(width: int, levels: int) -> int:
    """Return the bytes that codes of ``width`` numbers take."""
    return -(-width // len(_digits(levels)))


def _pack(codes: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Pack codes ``(labels, width)`` into bytes ``(labels, bytes)``."""
    (labels, width), digits = codes.shape, _digits(levels)
    padded = np.zeros((labels, packed_width(width, levels) * len(digits)), np.uint8)
    padded[:, :width] = codes
    packed: NDArray[np.uint8] = (padded.reshape(labels, -1, len(digits)) * digits).sum(2).astype(np.uint8)
    return packed


def _unpack(packed: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Return the codes ``(labels, bytes · codes of a byte)`` of packed ones."""
    codes: NDArray[np.uint8] = (packed[:, :, None] // _digits(levels) % levels).astype(np.uint8)
    return codes.reshape(len(packed), -1)


def _digits(levels: int) -> NDArray[np.int64]:
    """Return what the digits of a byte count, in the base of the levels: 1, the levels, their square, and so on."""
    count = next(digits for digits in range(8, 0, -1) if levels**digits <= 256)
    return np.array([levels**digit for digit in range(count)])
