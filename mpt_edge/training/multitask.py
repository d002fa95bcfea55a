"""The trainable multitask prompt: one shared matrix, two vectors a task (paper section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mpt_edge.training.backbones import Backbone


class MultitaskPrompt(nn.Module):
    """``P_k = P* ∘ (u_k v_kᵀ)`` for every task k.

    ``u`` and ``v`` start at one, so each composed prompt starts as ``P*``; products of small
    random vectors would start it near zero instead.

    Attributes:
        shared: ``P*``, ``(l, d)``.
        u: one ``(l,)`` a task.
        v: one ``(d,)`` a task.
    """

    def __init__(self, shared: Tensor, tasks: int) -> None:
        """Start from a shared prompt ``(l, d)`` with ``tasks`` pairs of ones."""
        super().__init__()
        length, width = shared.shape
        self.shared = nn.Parameter(shared.clone().float())
        # One parameter a task: a task that is not in a step has no gradient and does not drift.
        self.u = nn.ParameterList([torch.ones(length) for _ in range(tasks)])
        self.v = nn.ParameterList([torch.ones(width) for _ in range(tasks)])

    def forward(self, task: int) -> Tensor:
        """Return the composed prompt of one task, ``(l, d)``."""
        composed: Tensor = self.shared * self.u[task][:, None] * self.v[task][None, :]
        return composed

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round all values to what float16 holds, so that measured figures are the shipped file's."""
        for parameter in self.parameters():
            parameter.copy_(parameter.half().float())


@torch.no_grad()
def sampled_vocabulary(backbone: Backbone, length: int, seed: int) -> Tensor:
    """Return ``length`` rows that look like tokens to the first layer (paper appendix A).

    Rows are drawn from the 5,000 first vocabulary entries without replacement and taken behind
    the embeddings' normalisation, where the prompt enters.
    """
    model = backbone.model
    vocabulary = int(model.model.config.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    first = min(1000, vocabulary // 4)  # BERT vocabularies begin with unused entries and letters
    pool = torch.arange(first, max(first + length, min(first + 5000, vocabulary)))
    ids = pool[torch.randperm(len(pool), generator=generator)[:length]].clamp(max=vocabulary - 1)
    device = next(model.parameters()).device
    ones = torch.ones(length, 1, dtype=torch.long, device=device)
    return model.embed(ids[:, None].to(device), ones)[:, 0].cpu()
