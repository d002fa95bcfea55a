"""ModernBERT under a prompt: rotary positions, and layers with a local attention window.

Positions are relative, so the text counts on from its prompt. In the prefix layout, the whole text
attends to the prompt in every layer. Positions that are read together attend to each other as in the
original model, with its windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpt_edge.training.backbones.attention import MASKED, KeyValue
from mpt_edge.training.backbones.deep_prompt import DeepPrompt
from mpt_edge.training.backbones.encoder import AttentionContext, PromptedEncoder


class PromptedModernBert(PromptedEncoder):
    """A frozen ModernBERT; see `PromptedEncoder`."""

    def _positions(self) -> tuple[int, int]:
        return 0, int(self.model.config.max_position_embeddings)

    def _embed(self, tokens: dict[str, Tensor], mask: Tensor, types: Tensor) -> Tensor:  # noqa: ARG002
        hidden: Tensor = self.model.get_submodule("embeddings")(**tokens)
        return hidden

    def _run(
        self, hidden: Tensor, mask: Tensor, past: Sequence[KeyValue] | None, deep_prompt: DeepPrompt | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        cached = mask.shape[1] - hidden.shape[1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # padding is not counted, so batches change nothing
        invisible = (1 - mask[:, None, None, :].to(hidden.dtype)) * MASKED
        distance = (positions[:, cached:, None] - positions[:, None, cached:]).abs()
        beyond = (distance > self.model.config.sliding_window).to(hidden.dtype) * MASKED
        window = torch.cat([torch.zeros_like(beyond[..., :1]).expand(-1, -1, cached), beyond], dim=-1)[:, None]
        bias = {"full_attention": invisible, "sliding_attention": invisible + window}
        rotary = self.model.get_submodule("rotary_emb")
        rotations = {kind: rotary(hidden, positions[:, cached:], kind) for kind in bias}
        attending = AttentionContext(past, deep_prompt)
        for layer in self.layers:
            kind = str(layer.attention_type)
            hidden = layer(hidden, attention_mask=bias[kind], position_embeddings=rotations[kind], attending=attending)
        hidden = self.model.get_submodule("final_norm")(hidden)
        return hidden, [attending.present[layer] for layer in range(self.layer_count)]
