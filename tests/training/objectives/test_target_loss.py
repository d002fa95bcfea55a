"""The loss of target tokens in parts, against PyTorch's over all logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mpt_edge.training.objectives import target_loss as module
from mpt_edge.training.objectives.target_loss import target_loss


@pytest.mark.parametrize("logits", [1, 3 * 11, 1 << 20])
def test_loss_and_gradient_are_those_of_whole_logits(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS", logits)
    torch.manual_seed(0)
    head = nn.Linear(5, 11).requires_grad_(requires_grad=False)
    states, targets = torch.randn(7, 5), torch.randint(0, 11, (7,))
    results = []
    for compute in (
        lambda read: target_loss(read, targets, head, 11),
        lambda read: functional.cross_entropy(head(read), targets, reduction="sum"),
    ):
        read = states.clone().requires_grad_()
        loss = compute(read)
        (loss / 3).backward()
        assert read.grad is not None
        results.append((loss.detach(), read.grad))
    torch.testing.assert_close(results[0], results[1])


def test_no_more_logits_than_stated_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS", 22)
    sizes = []

    def head(states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return states

    states = torch.randn(5, 11)
    loss = target_loss(states, torch.arange(5), head, 11)
    assert sizes == [2, 2, 1]
    assert not loss.requires_grad
    torch.testing.assert_close(loss, functional.cross_entropy(states, torch.arange(5), reduction="sum"))
