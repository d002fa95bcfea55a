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
    labels.biases.data = torch.tensor([0.1, 0.2, -0.4, 0.3])
    stored, embeddings = labels.rounded(), torch.randn(5, 10)
    expected = embeddings.numpy() @ stored.dequantize(10).T + stored.biases.astype(np.float32)
    np.testing.assert_allclose(labels(embeddings).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    centered = VECTORS - VECTORS.mean(0)
    vectors, biases = labels.values()
    assert torch.cosine_similarity(vectors.flatten(), centered.flatten(), dim=0) > 0.7
    np.testing.assert_allclose(biases.detach().numpy(), [0.05, 0.15, -0.45, 0.25], rtol=1e-3)


def test_the_gradient_is_that_of_centered_vectors() -> None:
    weights, labels = torch.randn(4, 11, generator=torch.Generator().manual_seed(1)), QuantizedLabels(VECTORS, 2)
    (torch.column_stack(labels.values()) * weights).sum().backward()
    assert labels.vectors.grad is not None
    assert labels.biases.grad is not None
    gradient = torch.column_stack([labels.vectors.grad, labels.biases.grad])
    torch.testing.assert_close(gradient, weights - weights.mean(0))
