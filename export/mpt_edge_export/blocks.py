"""Weights as whole numbers in blocks along the inputs, as ONNX Runtime's ``MatMulNBits`` reads them.

Each block of an output's weights has a scale, so that one large weight spoils the steps of its block alone. GGUF files
have the same blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """Numbers of a matrix: a weight is its number, less the middle one, times its block's scale, plus its offset."""

    numbers: NDArray[np.uint8]
    """Numbers of each block, ``(outputs, blocks, bytes)``; of four bits, the lower half of a byte comes first."""
    scales: NDArray[np.float32]
    """Scale of each block, ``(outputs, blocks)``."""
    offsets: NDArray[np.float32] | None = None
    """Offset of each block, ``(blocks, outputs)``; None for zeros."""


def four_bits(weight: Floats) -> Blocks:
    """Quantize a matrix ``(inputs, outputs)`` to four bits, with a scale and an offset for each block.

    Of several ranges, the one with the smallest squared error is taken. Weights of GGUF's Q4_0 and Q4_1
    stay as they are.
    """
    outputs, blocks = weight.shape[1], _count(weight)
    numbers = np.empty((outputs * blocks, BLOCK), np.uint8)
    scales, offsets = np.empty(outputs * blocks, np.float32), np.empty(outputs * blocks, np.float32)
    for part, values in _chunks(weight):
        numbers[part], scales[part], offsets[part] = _nearest(values)
    return Blocks(
        _packed(numbers).reshape(outputs, blocks, -1),
        scales.reshape(outputs, blocks),
        np.ascontiguousarray(offsets.reshape(outputs, blocks).T),
    )


def block_sums(inputs: int) -> Floats:
    """Return the matrix ``(inputs, blocks)`` that adds up each block of a row, by which offsets are multiplied."""
    sums: Floats = (np.arange(inputs)[:, None] // BLOCK == np.arange(-(-inputs // BLOCK))).astype(np.float32)
    return sums


def eight_bits(weight: Floats) -> Blocks:
    """Quantize a matrix ``(inputs, outputs)`` to eight bits, with a scale for each block."""
    outputs, blocks = weight.shape[1], _count(weight)
    numbers, scales = np.empty((outputs * blocks, BLOCK), np.uint8), np.empty(outputs * blocks, np.float32)
    for part, values in _chunks(weight):
        scale = _usable(np.abs(values).max(1) / np.float32(127))
        numbers[part], scales[part] = np.rint(values / scale[:, None]) + 128, scale
    return Blocks(numbers.reshape(outputs, blocks, -1), scales.reshape(outputs, blocks))


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
    """Return numbers, scale and offset of each block: of all candidates, those nearest to its weights."""
    error = np.full(len(values), np.inf, np.float32)
    numbers, scales, offsets = np.empty_like(values), np.empty_like(error), np.empty_like(error)
    mean = values.mean(1)
    for first, low in _candidates(values):
        rounded = np.clip(np.rint((values - low[:, None]) / first[:, None]), 0, 15)
        # The best line through these numbers, which is seldom the one that made them.
        center = rounded.mean(1)
        apart = rounded - center[:, None]
        square = np.einsum("bi,bi->b", apart, apart)
        scale = np.where(square > 0, np.einsum("bi,bi->b", apart, values) / np.maximum(square, 1e-6), first)
        rest = values - mean[:, None] - apart * scale[:, None]
        square = np.einsum("bi,bi->b", rest, rest)
        is_nearer = square < error
        error[is_nearer], scales[is_nearer] = square[is_nearer], scale[is_nearer]
        offsets[is_nearer] = (mean - (center - 8) * scale)[is_nearer]
        numbers[is_nearer] = rounded[is_nearer]
    return numbers, scales, offsets


def _candidates(values: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield scales of each block, and weights of the number 0."""
    scale = _usable(values[np.arange(len(values)), np.abs(values).argmax(1)] / -8)
    yield scale, -8 * scale
    low, high = values.min(1), values.max(1)
    for share in _SHARES:
        half = np.float32(share) * (high - low) / 2
        yield _usable(half * 2 / np.float32(15)), (low + high) / 2 - half


def _usable(scale: Floats) -> Floats:
    """Return scales without zeros, which blocks of zeros have."""
    return np.where(np.abs(scale) < _TINY, np.float32(1), scale).astype(np.float32)


def _packed(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return numbers of four bits, two to a byte of the last axis; the lower half comes first."""
    packed: NDArray[np.uint8] = numbers[:, ::2] + 16 * numbers[:, 1::2]
    return packed
