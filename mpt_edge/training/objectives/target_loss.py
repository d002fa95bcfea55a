"""The loss of target tokens, in parts of their logits.

A vocabulary of 49,152 takes 192 KB a token, and a loss over whole logits keeps three times that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: Logits that are in memory at once: 32 MB in float32.
_LOGITS = 8 << 20


def target_loss(states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], vocabulary: int) -> Tensor:
    """Return the summed cross entropy of target tokens.

    The gradient of each part is computed beside its loss, so nothing is computed twice.

    Args:
        states: hidden states that predict them, ``(tokens, d)``.
        targets: the target tokens, ``(tokens,)``.
        head: maps states to logits ``(tokens, vocabulary)``; its own parameters get no gradient.
        vocabulary: number of logits of a token.
    """
    size = max(1, _LOGITS // vocabulary)
    result: Tensor = _TargetLoss.apply(states, targets, head, size)  # type: ignore[no-untyped-call]
    return result


class _TargetLoss(torch.autograd.Function):
    """Cross entropy that computes its gradient in the forward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], size: int) -> Tensor:
        """Return the summed loss, and keep the gradient of the states."""
        learns = ctx.needs_input_grad[0]
        total = torch.zeros((), device=states.device)
        gradients: list[Tensor] = []
        for part, answers in zip(torch.split(states, size), torch.split(targets, size), strict=True):
            with torch.set_grad_enabled(learns):
                read = part.detach().requires_grad_(learns)
                loss = functional.cross_entropy(head(read).float(), answers, reduction="sum")
            if learns:
                gradients += torch.autograd.grad(loss, read)
            total += loss.detach()
        if learns:
            ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient that the forward pass has kept."""
        (kept,) = ctx.saved_tensors
        return kept * gradient.to(kept.dtype), None, None, None
