"""ModernBERT under a prompt: rotary positions, and layers that see only a window of the text.

Positions are relative, so text simply counts on behind its prompt. A prompt that was read by itself (prefix layout) is
seen by all of the text in every layer; rows that are read together see each other as the model does, windows included.
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

    def _embed(self, rows: dict[str, Tensor], mask: Tensor, types: Tensor) -> Tensor:  # noqa: ARG002
        found: Tensor = self.model.get_submodule("embeddings")(**rows)
        return found

    def _run(
        self, hidden: Tensor, mask: Tensor, past: Sequence[KeyValue] | None, entering: DeepPrompt | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        rows, cached = hidden.shape[1], mask.shape[1] - hidden.shape[1]
        places = (mask.cumsum(1) - 1).clamp(min=0)  # filling does not count, so a row is the same in a batch as alone
        hidden_keys = (1 - mask[:, None, None, :].to(hidden.dtype)) * MASKED
        distance = (places[:, cached:, None] - places[:, None, cached:]).abs()
        beyond = (distance > self.model.config.sliding_window).to(hidden.dtype) * MASKED
        window = torch.cat([torch.zeros_like(beyond[..., :1]).expand(-1, -1, cached), beyond], dim=-1)[:, None]
        bias = {"full_attention": hidden_keys, "sliding_attention": hidden_keys + window}
        rotary = self.model.get_submodule("rotary_emb")
        turns = {kind: rotary(hidden, places[:, mask.shape[1] - rows :], kind) for kind in bias}
        attending = AttentionContext(past, entering)
        for layer in self.layers:
            kind = str(layer.attention_type)
            hidden = layer(hidden, attention_mask=bias[kind], position_embeddings=turns[kind], attending=attending)
        hidden = self.model.get_submodule("final_norm")(hidden)
        return hidden, [attending.present[layer] for layer in range(self.layer_count)]
