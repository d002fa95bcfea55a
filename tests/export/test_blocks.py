"""Weights in blocks, compared with a dequantization number by number."""

from __future__ import annotations

import numpy as np
import pytest

from mpt_edge_export.blocks import BLOCK, Blocks, block_sums, eight_bits, four_bits


def restored(blocks: Blocks, inputs: int) -> np.ndarray:
    """Return the weights ``(inputs, outputs)``."""
    rows = []
    for output, scales in enumerate(blocks.scales):
        row: list[float] = []
        for block, scale in enumerate(scales):
            numbers, middle, offset = [int(byte) for byte in blocks.numbers[output, block]], 128, 0.0
            if blocks.offsets is not None:
                numbers = [half for byte in numbers for half in (byte % 16, byte // 16)]
                middle, offset = 8, float(blocks.offsets[block, output])
            row += [float(scale) * (number - middle) + offset for number in numbers]
        rows.append(row[:inputs])
    return np.array(rows).T


def weights(inputs: int, outputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)


@pytest.mark.parametrize("inputs", [5, 32, 40, 96])
def test_four_bits(inputs: int) -> None:
    """Shapes are those of the operator, and no error is above that of rounding to the nearest step of the range."""
    weight = weights(inputs, 7)
    blocks = four_bits(weight)
    count = -(-inputs // BLOCK)
    assert blocks.numbers.shape == (7, count, 16)
    assert blocks.scales.shape == (7, count)
    assert blocks.offsets is not None
    assert blocks.offsets.shape == (count, 7)
    result = restored(blocks, inputs)
    assert result.shape == weight.shape
    for start in range(0, inputs - BLOCK + 1, BLOCK):
        block = weight[start : start + BLOCK]
        low, step = block.min(0), (block.max(0) - block.min(0)) / 15
        plain = low + np.rint((block - low) / step) * step
        error = ((result[start : start + BLOCK] - block) ** 2).sum(0)
        assert (error <= ((plain - block) ** 2).sum(0) * 1.0001).all()
    assert np.abs(result - weight).max() < (weight.max() - weight.min()) / 15


def test_an_outlier_changes_its_block_alone() -> None:
    weight = weights(64, 3)
    before = restored(four_bits(weight), 64)
    weight[40, 1] = 1000
    after = restored(four_bits(weight), 64)
    changed = before != after
    assert changed[32:, 1].any()
    changed[32:, 1] = False
    assert not changed.any()


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_a_q4_0_file_stay(sign: int) -> None:
    """Such a file has numbers from -8 to 7 times a scale; its largest number is -8."""
    rng = np.random.default_rng(1)
    numbers = rng.integers(-8, 8, (3, BLOCK, 5))
    numbers[:, 4] = -8
    weight = (numbers * (sign * rng.uniform(0.01, 2, (3, 1, 5)))).reshape(-1, 5).astype(np.float32)
    np.testing.assert_allclose(restored(four_bits(weight), 96), weight, rtol=1e-5, atol=1e-6)


def test_weights_of_a_q4_1_file_stay() -> None:
    """Such a file has numbers from 0 to 15 times a scale, and a minimum that is no multiple of it."""
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 16, (3, BLOCK, 5))
    numbers[:, 4], numbers[:, 7] = 0, 15
    weight = numbers * rng.uniform(0.01, 2, (3, 1, 5)) + rng.uniform(-20, 1, (3, 1, 5))
    weight = weight.reshape(-1, 5).astype(np.float32)
    np.testing.assert_allclose(restored(four_bits(weight), 96), weight, rtol=1e-5, atol=1e-5)


def test_block_sums() -> None:
    rows = weights(3, 40)
    expected = np.stack([rows[:, :32].sum(1), rows[:, 32:].sum(1)], axis=1)
    np.testing.assert_allclose(rows @ block_sums(40), expected, rtol=1e-5)


def test_weights_of_a_q8_0_file_stay() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(-127, 128, (2, BLOCK, 5))
    numbers[:, 3] = 127
    weight = (numbers * rng.uniform(0.01, 2, (2, 1, 5))).reshape(-1, 5).astype(np.float32)
    np.testing.assert_allclose(restored(eight_bits(weight), 64), weight, rtol=1e-5, atol=1e-6)


def test_eight_bits() -> None:
    weight = weights(40, 6)
    blocks = eight_bits(weight)
    assert (blocks.numbers.shape, blocks.scales.shape, blocks.offsets) == ((6, 2, 32), (6, 2), None)
    error = np.abs(restored(blocks, 40) - weight)
    assert (error[:32] <= np.abs(weight[:32]).max(0) / 254 * 1.0001).all()
    assert (error[32:] <= np.abs(weight[32:]).max(0) / 254 * 1.0001).all()


@pytest.mark.parametrize("quantized", [four_bits, eight_bits])
def test_zeros_stay_zero(quantized: object) -> None:
    assert callable(quantized)
    assert not restored(quantized(np.zeros((40, 3), np.float32)), 40).any()


def test_large_matrices_are_quantized_in_parts() -> None:
    """More outputs than one part holds give the same numbers as each alone."""
    weight = weights(4096, 40)
    whole = four_bits(weight)
    for output in (0, 15, 16, 39):
        alone = four_bits(weight[:, output : output + 1])
        np.testing.assert_array_equal(whole.numbers[output], alone.numbers[0])
        np.testing.assert_array_equal(whole.scales[output], alone.scales[0])
