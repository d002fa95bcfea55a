"""Label vectors in training: rounded as in files, with the gradient of those before rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt_edge.training.quantized_labels import QuantizedLabels

VECTORS = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [2, 3, 4, 6, 16, 256])
def test_values_are_those_of_the_file(levels: int) -> None:
    labels = QuantizedLabels(VECTORS, levels)
    np.testing.assert_allclose(labels().detach().numpy(), labels.rounded().dequantize(10), rtol=1e-6, atol=1e-7)
    centered = VECTORS - VECTORS.mean(0)
    assert torch.cosine_similarity(labels().flatten(), centered.flatten(), dim=0) > 0.7


def test_the_gradient_is_that_of_centered_vectors() -> None:
    weights = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    labels = QuantizedLabels(VECTORS, 2)
    (labels() * weights).sum().backward()
    assert labels.vectors.grad is not None
    torch.testing.assert_close(labels.vectors.grad, weights - weights.mean(0))
