"""The parts of a loss against plain formulas, and batches that leave no row out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from mpt_edge.training.objectives.objective import hidden_loss, in_batches, logit_loss


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_logit_loss_is_the_divergence_from_the_teacher(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 6, 4))
    log_s, log_t = log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1)
    expected = temperature**2 * np.mean(np.sum(np.exp(log_t) * (log_t - log_s), 1))
    found = logit_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(logit_loss(torch.tensor(teacher), torch.tensor(teacher), temperature)) == pytest.approx(0, abs=1e-9)


def test_hidden_loss_counts_visible_tokens_only() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, (2, 2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    expected = np.mean([np.mean((one[r, t] - two[r, t]) ** 2) for r, t in ((0, 0), (0, 1), (1, 0))])
    assert float(hidden_loss(*map(torch.tensor, (one, two, mask)))) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 1, 32, 33, 70])
def test_batches_hold_every_row_once_and_in_order(count: int) -> None:
    batches = in_batches(list(range(count)))
    assert [row for batch in batches for row in batch] == list(range(count))
    assert all(0 < len(batch) <= 32 for batch in batches)
