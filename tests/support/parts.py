"""A batch read whole, and in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.schedule import TaskBatch


def assert_parts_add_up(objective: TaskObjective, prompt: torch.Tensor, rows: int, size: int) -> None:
    """Check that losses and gradients of parts of ``size`` rows add up to those of the first ``rows`` rows."""
    everything, results = np.arange(rows), []
    parts = [TaskBatch(0, everything[start : start + size], everything) for start in range(0, rows, size)]
    for batches in ([TaskBatch(0, everything)], parts):
        trained, losses = prompt.clone().requires_grad_(), []
        for batch in batches:
            loss = objective.loss(trained, batch, np.random.default_rng(5))
            loss.total.backward()
            losses.append(loss.parts())
        assert trained.grad is not None
        results.append(({name: sum(each[name] for each in losses) for name in losses[0]}, trained.grad))
    (whole, gradient), (summed, added) = results
    assert all(whole.values())
    assert summed == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(gradient, added, rtol=1e-3, atol=1e-6)
