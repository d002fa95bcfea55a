"""A frozen decoder-only model that carries a prompt: one definition for training and export.

Causal attention lets prompt rows see prompt rows alone, so the prefix layout is what these models
do anyway: a prompt's keys and values are read once and shared by all texts. Attention is
transformers' own, with what was read before in its cache, so grouped heads, soft caps and local
layers are as the model has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.formats.prompts import Entry
from mpt_edge.training.backbones.attention import Cache, KeyValue, visibility_bias
from mpt_edge.training.backbones.deep_prompt import DeepPrompt, replace_inputs

#: Decoder-only models, by ``model_type``: where they keep learned positions; empty where positions are rotary.
#: SmolLM is a ``llama``.
CAUSAL_ARCHITECTURES = {
    "gemma": "",
    "gemma2": "",
    "gemma3_text": "",
    "gpt2": "wpe",
    "gpt_neo": "wpe",
    "llama": "",
    "mistral": "",
    "qwen2": "",
    "qwen3": "",
    "smollm3": "",
}

#: Those that take a mask for each kind of layer.
_MASK_A_KIND = frozenset({"gemma2", "gemma3_text", "qwen2", "qwen3", "smollm3"})


class PromptedCausal(nn.Module):
    """A frozen decoder-only model that reads and continues text under a prompt.

    Each call is told where its prompt enters, so one model serves them all: ``"first_layer"`` is behind
    learned positions, and text counts from 0; with ``"inputs_embeds"`` the prompt takes positions 0 to
    l - 1 and text goes on behind, as PEFT has it. Rotary positions are relative, so there both are the
    same. ``"every_layer"`` counts as the first, and each layer has rows of its own.

    Attributes:
        model: the model with its head, without gradient, in evaluation mode.
        layers: its layers.
        layer_count: how many these are, and key/value pairs.
        hidden_size: width d of prompt rows.
        max_positions: most rows, prompt and text, that the model can tell apart.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Freeze ``model``.

        Raises:
            UnsupportedModelError: the architecture is none of `CAUSAL_ARCHITECTURES`.
        """
        super().__init__()
        kind = model.config.model_type
        if kind not in CAUSAL_ARCHITECTURES:
            raise UnsupportedModelError(
                f"{kind!r} models cannot carry a prompt yet; use one of {', '.join(sorted(CAUSAL_ARCHITECTURES))}."
            )
        self._position_table = CAUSAL_ARCHITECTURES[kind]
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.model.set_attn_implementation("eager")
        config = model.config
        self.layers: list[nn.Module] = list(getattr(model.base_model, "h", None) or model.base_model.layers)
        self.layer_count = len(self.layers)
        self._entering: DeepPrompt | None = None
        replace_inputs(self.layers, lambda _: self._entering)
        self.hidden_size = int(config.hidden_size)
        self.max_positions = int(config.max_position_embeddings)
        self._local = _window(config)
        for module in model.modules():
            if isinstance(module, GPTNeoSelfAttention):
                module._attn = partial(_neo_attention, int(module.attention_type == "local"))

    def positions_from_zero(self, entry: Entry) -> bool:
        """Return whether text counts its positions from 0 in spite of a prompt before it that enters there."""
        return bool(self._position_table) and entry != Entry.INPUTS_EMBEDS

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        prompt: Tensor | None = None,
        past: Sequence[KeyValue] | Cache | None = None,
        entry: Entry = Entry.FIRST_LAYER,
        *,
        alone: bool = False,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run prompt rows and tokens through the layers.

        Args:
            input_ids: token ids, ``(batch, tokens)``.
            attention_mask: 1 for rows that may be seen, ``(batch, past + prompt + tokens)``.
            position_ids: positions of prompt rows and tokens, ``(batch, prompt + tokens)``.
            prompt: prompt rows that are part of this call, ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            past: keys and values of what was read before, batch one or ``batch``, or a cache of them.
            entry: where the prompt rows of this call enter, one of `mpt_edge.formats.prompts.Entry`.
            alone: whether there are no tokens; see `DeepPrompt`.

        Returns:
            The last hidden state, ``(batch, prompt + tokens, d)``, and each layer's keys and values
            of all rows, the past ones first.
        """
        embedded = self.model.get_input_embeddings()(input_ids)
        self._entering = None
        if prompt is not None:
            if prompt.ndim == 4:
                self._entering, prompt = DeepPrompt(prompt, alone=alone), prompt[:, :, 0]
            rows = prompt.to(embedded.dtype)
            if self.positions_from_zero(entry):  # take away what the model is about to add
                table = self.model.base_model.get_submodule(self._position_table)
                rows = rows - table(position_ids[:, : prompt.shape[1]])
            embedded = torch.cat([rows, embedded], dim=1)
        batch, rows_read = embedded.shape[:2]
        cache = past if isinstance(past, Cache) else Cache(past, batch)
        places = cache.places(attention_mask, rows_read)
        full, local = _causal_masks(attention_mask, places, self._local, embedded.dtype)
        masks: Any = full
        if self.model.config.model_type in _MASK_A_KIND:
            masks = {"full_attention": full, "sliding_attention": local}
        elif self.model.config.model_type == "gpt_neo":
            masks = torch.cat([full, local], dim=1)  # its layers take one mask; see `_neo_attention`
        elif self._local:
            masks = local
        output = self.model.base_model(
            inputs_embeds=embedded,
            attention_mask=masks,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state, cache.pairs()

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(…, vocabulary)`` of hidden states ``(…, d)``."""
        found: Tensor = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return torch.tanh(found / cap) * cap if cap else found

    def encode_prompt(self, prompt: Tensor, entry: Entry = Entry.FIRST_LAYER) -> list[KeyValue]:
        """Return every layer's keys and values of prompts, which see only themselves.

        Args:
            prompt: ``(batch, l, d)``, or ``(batch, l, layers, d)`` where they enter every layer.
            entry: where they enter.
        """
        batch, length = prompt.shape[:2]
        ones = torch.ones(batch, length, dtype=torch.long, device=prompt.device)
        positions = torch.arange(length, device=prompt.device).expand(batch, -1)
        present: list[KeyValue] = self(ones[:, :0], ones, positions, prompt=prompt, entry=entry, alone=True)[1]
        return present

    def enable_gradient_checkpointing(self) -> None:
        """Refuse gradient checkpointing, which transformers has no room for beside a cache. Raises InputError."""
        raise InputError(
            "--gradient-checkpointing is for encoders; with this model pass a smaller --micro-batch-size instead."
        )

    def text_positions(self, text_mask: Tensor, prompt_rows: int, entry: Entry) -> Tensor:
        """Return the positions of tokens ``(batch, tokens)`` behind a prompt; only visible tokens count."""
        first = 0 if self.positions_from_zero(entry) else prompt_rows
        return (text_mask.cumsum(1) - 1).clamp(min=0) + first


def _causal_masks(mask: Tensor, places: Tensor, window: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what is added to scores, ``(batch, 1, rows, keys)``, by layers that see all and by local ones.

    Each row sees what is visible before its own place; in a local layer only the last ``window`` of those,
    itself included. Filling does not count, so a row sees the same in a batch as alone.

    Args:
        mask: 1 for keys that may be seen, ``(batch, keys)``.
        places: where the rows stand among the keys, ``(rows,)``.
        window: see `_window`.
        dtype: of the scores.
    """
    before = torch.arange(mask.shape[1], device=mask.device)[None, :] <= places[:, None]
    visible = before[None, None] & (mask[:, None, None, :] == 1)
    full = visibility_bias(visible, dtype)
    if not window:
        return full, full
    counted = mask.cumsum(1)
    near = counted.index_select(1, places)[:, None, :, None] - counted[:, None, None, :] < window
    return full, visibility_bias(visible & near, dtype)


def _neo_attention(
    kind: int, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Attend as GPT-Neo does, without scaling, by the mask of the layer's kind.

    Its own attention cuts the mask from a table by row numbers, which would count filling, and which
    takes the exporter minutes.
    """
    scores = query.float() @ key.float().transpose(-1, -2) + attention_mask[:, kind : kind + 1]
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return weights @ value, weights


def _window(config: PretrainedConfig) -> int:
    """Return how many rows a local layer sees; 0 where no layer is local."""
    if config.model_type == "gpt_neo":
        return int(config.window_size)
    kinds = getattr(config, "layer_types", None) or ("sliding_attention",)
    used = "sliding_attention" in kinds and getattr(config, "use_sliding_window", True)
    return int(getattr(config, "sliding_window", None) or 0) if used else 0
