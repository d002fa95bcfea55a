"""Weights as whole numbers in blocks along the inputs, as ONNX Runtime's ``MatMulNBits`` reads them.

Each block of an output's weights has a scale, so that one large weight spoils the steps of its block alone. GGUF files
have the same blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats

#: Weights of a block, as in GGUF files.
BLOCK = 32

#: Ranges that are tried for a block, in shares of its own. A smaller one clips outliers and has finer steps.
_SHARES = (1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8)

#: Weights that are quantized at once; some arrays of this size fit into a processor's cache.
_CHUNK = 1 << 16

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Blocks:
    """Constants of a ``MatMulNBits`` node; see `constants`."""

    numbers: NDArray[np.uint8]
    """Numbers of each block, ``(outputs, blocks, bytes)``; of four bits, the lower half of a byte comes first."""
    scales: NDArray[np.float32]
    """Scale of each block, ``(outputs, blocks)``."""
    zero_points: NDArray[np.uint8] | None
    """The number of a weight of zero in each block, packed as the numbers; None for the middle one."""

    @property
    def constants(self) -> list[NDArray[Any]]:
        """The node's inputs after the rows, in order."""
        arrays: list[NDArray[Any]] = [self.numbers, self.scales]
        return arrays if self.zero_points is None else [*arrays, self.zero_points]


def four_bits(weight: Floats) -> Blocks:
    """Quantize a matrix ``(inputs, outputs)`` to four bits, with a scale and a zero point for each block.

    Of several scales and zero points, those with the smallest squared error are taken. Weights that are whole multiples
    of a block's scale from -8 to 7, as in GGUF's Q4_0, stay as they are.
    """
    outputs, blocks = weight.shape[1], _count(weight)
    numbers = np.empty((outputs * blocks, BLOCK), np.uint8)
    scales, zero_points = np.empty(outputs * blocks, np.float32), np.empty(outputs * blocks, np.uint8)
    for part, values in _chunks(weight):
        numbers[part], scales[part], zero_points[part] = _nearest(values)
    return Blocks(
        _packed(numbers).reshape(outputs, blocks, -1),
        scales.reshape(outputs, blocks),
        _packed(zero_points.reshape(outputs, blocks)),
    )


def eight_bits(weight: Floats) -> Blocks:
    """Quantize a matrix ``(inputs, outputs)`` to eight bits, with a scale for each block."""
    outputs, blocks = weight.shape[1], _count(weight)
    numbers, scales = np.empty((outputs * blocks, BLOCK), np.uint8), np.empty(outputs * blocks, np.float32)
    for part, values in _chunks(weight):
        scale = _usable(np.abs(values).max(1) / np.float32(127))
        numbers[part], scales[part] = np.rint(values / scale[:, None]) + 128, scale
    return Blocks(numbers.reshape(outputs, blocks, -1), scales.reshape(outputs, blocks), None)


def _count(weight: Floats) -> int:
    """Return the number of blocks of an output; the last may be filled with zeros."""
    return -(-len(weight) // BLOCK)


def _chunks(weight: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield blocks of a matrix ``(inputs, outputs)``, some outputs at a time, and their positions."""
    inputs, outputs = weight.shape
    blocks = _count(weight)
    step = max(1, _CHUNK // max(1, inputs))
    for start in range(0, outputs, step):
        rows = np.pad(weight[:, start : start + step].T, ((0, 0), (0, blocks * BLOCK - inputs)))
        yield slice(start * blocks, (start + len(rows)) * blocks), rows.reshape(-1, BLOCK)


def _nearest(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return numbers, scale and zero point of each block: of all candidates, those nearest to its weights."""
    error = np.full(len(values), np.inf, np.float32)
    numbers, scales, zero_points = np.empty_like(values), np.empty_like(error), np.empty_like(error)
    for first, zero_point in _candidates(values):
        rounded = np.clip(np.rint(values / first[:, None]), -zero_point[:, None], 15 - zero_point[:, None])
        # The best scale of these numbers, which is seldom the one that made them.
        square = np.einsum("bi,bi->b", rounded, rounded)
        scale = np.where(square > 0, np.einsum("bi,bi->b", rounded, values) / np.maximum(square, 1), first)
        rest = values - rounded * scale[:, None]
        square = np.einsum("bi,bi->b", rest, rest)
        is_nearer = square < error
        error[is_nearer], scales[is_nearer], zero_points[is_nearer] = (
            array[is_nearer] for array in (square, scale, zero_point)
        )
        numbers[is_nearer] = rounded[is_nearer]
    return numbers + zero_points[:, None], scales, zero_points


def _candidates(values: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield scales and zero points of each block."""
    rows = np.arange(len(values))
    largest = values[rows, np.abs(values).argmax(1)]
    yield _usable(largest / -8), np.full(len(values), 8, np.float32)
    low, high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
    for share in _SHARES:
        scale = _usable(share * (high - low) / np.float32(15))
        zero_point = -share * low / scale
        yield from ((scale, rounding(zero_point).clip(0, 15)) for rounding in (np.floor, np.ceil))


def _usable(scale: Floats) -> Floats:
    """Return scales without zeros, which blocks of zeros have."""
    return np.where(np.abs(scale) < _TINY, np.float32(1), scale).astype(np.float32)


def _packed(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return numbers of four bits, two to a byte of the last axis; the lower half comes first."""
    even = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
    packed: NDArray[np.uint8] = even[:, ::2] | np.left_shift(even[:, 1::2], np.uint8(4))
    return packed
