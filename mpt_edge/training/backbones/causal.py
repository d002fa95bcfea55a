"""A frozen decoder-only model that carries a prompt.

Causal attention lets virtual tokens attend to virtual tokens only, so the prefix layout is native
here: a prompt's keys and values are computed once and shared by all texts. Attention is
transformers' own, with earlier keys and values in its cache. Grouped heads, soft caps and local
layers therefore are as the model has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.training.backbones.attention import GROUPED, Cache, FixedCache, KeyValue, visibility_bias
from mpt_edge.training.backbones.deep_prompt import DeepPrompt, replace_inputs, without_mlp
from mpt_edge.training.backbones.prompted import PromptedModel

#: Decoder-only models by ``model_type``: the path of their learned positions, or None for rotary ones.
#: SmolLM is a ``llama``.
CAUSAL_ARCHITECTURES: dict[str, str | None] = {
    "gemma": None,
    "gemma2": None,
    "gemma3_text": None,
    "gpt2": "wpe",
    "gpt_neo": "wpe",
    "llama": None,
    "mistral": None,
    "qwen2": None,
    "qwen3": None,
    "smollm3": None,
}

#: Models that take one mask for each type of layer.
_MASK_PER_TYPE = frozenset({"gemma2", "gemma3_text", "qwen2", "qwen3", "smollm3"})


class PromptedCausal(PromptedModel):
    """A frozen decoder-only model that reads and continues text under a prompt.

    Each call names the prompt's position, so one model serves all of them. With ``embeddings``, the
    prompt takes positions 0 to l - 1 and the text counts on from there, as in PEFT. With
    ``first_layer`` and ``all_layers``, the prompt enters after learned positions were added, and the
    text counts from 0. Rotary positions are relative, so the two are equal there.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Freeze ``model``, a model with its language-model head.

        Raises:
            UnsupportedModelError: the architecture is not in `CAUSAL_ARCHITECTURES`.
        """
        config = model.config
        # GPT-Neo has attention of its own; see `_neo_attention`.
        super().__init__(model, CAUSAL_ARCHITECTURES, "eager" if config.model_type == "gpt_neo" else GROUPED)
        self._position_table = CAUSAL_ARCHITECTURES[config.model_type]
        self.layers = list(getattr(model.base_model, "h", None) or model.base_model.layers)
        self._deep_prompt: DeepPrompt | None = None
        self._is_checkpointing = False
        replace_inputs(self.layers, lambda _: self._deep_prompt)
        self.hidden_size = int(config.hidden_size)
        self.max_positions = int(config.max_position_embeddings)
        self._window = _window(config)
        for module in model.modules():
            if isinstance(module, GPTNeoSelfAttention):
                module._attn = partial(_neo_attention, int(module.attention_type == "local"))

    def positions_from_zero(self, position: PromptPosition) -> bool:
        """Return whether text counts its positions from 0 with a prompt at ``position`` before it."""
        return self._position_table is not None and position != PromptPosition.EMBEDDINGS

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        prompt: Tensor | None = None,
        past: Sequence[KeyValue] | Cache | None = None,
        position: PromptPosition = PromptPosition.FIRST_LAYER,
        *,
        alone: bool = False,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run virtual tokens and text tokens through the layers.

        Args:
            input_ids: token ids, ``(batch, tokens)``.
            attention_mask: 1 for visible positions, ``(batch, past + l + tokens)``.
            position_ids: positions of virtual and text tokens, ``(batch, l + tokens)``.
            prompt: the prompt to read in this call, ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            past: keys and values of earlier positions, of batch one or ``batch``, or a cache of them.
            position: where the prompt of this call enters.
            alone: whether there is no text; see `DeepPrompt`.

        Returns:
            The last hidden state, ``(batch, l + tokens, d)``, and each layer's keys and values of
            all positions, the earlier ones first. With gradient checkpointing, text that is read for
            its gradient leaves those of the earlier positions alone.
        """
        hidden = self._embed(input_ids, position_ids, prompt, position, alone=alone)
        batch, count = hidden.shape[:2]
        recomputes = self._is_checkpointing and prompt is None and torch.is_grad_enabled()
        cache = past if isinstance(past, Cache) else (FixedCache if recomputes else Cache)(past, batch)
        output = self.model.base_model(
            inputs_embeds=hidden,
            attention_mask=self._masks(attention_mask, cache.places(attention_mask, count), hidden.dtype),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state, cache.pairs()

    def enable_gradient_checkpointing(self) -> None:
        """Keep only each layer's input for the backward pass of a text, and recompute the rest."""
        self._is_checkpointing = True
        for layer in self.layers:
            layer.forward = partial(_recomputed, layer.forward)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(…, vocabulary)`` of hidden states ``(…, d)``."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def encode_prompt(self, prompt: Tensor, position: PromptPosition = PromptPosition.FIRST_LAYER) -> list[KeyValue]:
        """Return each layer's keys and values of prompts, without any text.

        Args:
            prompt: ``(batch, l, d)``, or ``(batch, l, layers, d)`` for all layers.
            position: where the prompts enter.
        """
        batch, length = prompt.shape[:2]
        ones = torch.ones(batch, length, dtype=torch.long, device=prompt.device)
        position_ids = torch.arange(length, device=prompt.device).expand(batch, -1)
        with without_mlp(self.layers if prompt.ndim == 4 else ()):  # their outputs are unused; see `DeepPrompt`
            _, present = self(ones[:, :0], ones, position_ids, prompt=prompt, position=position, alone=True)
        return present  # type: ignore[no-any-return]

    def text_positions(self, text_mask: Tensor, length: int, position: PromptPosition) -> Tensor:
        """Return the position ids of text tokens; padding is not counted.

        Args:
            text_mask: 1 for visible tokens, ``(batch, tokens)``.
            length: number of virtual tokens before them.
            position: where the prompt enters.
        """
        first = 0 if self.positions_from_zero(position) else length
        return (text_mask.cumsum(1) - 1).clamp(min=0) + first

    def _embed(
        self, input_ids: Tensor, position_ids: Tensor, prompt: Tensor | None, position: PromptPosition, *, alone: bool
    ) -> Tensor:
        """Return the first layer's input without learned positions, ``(batch, l + tokens, d)``."""
        embedded: Tensor = self.model.get_input_embeddings()(input_ids)
        self._deep_prompt = None
        if prompt is None:
            return embedded
        self._deep_prompt, prompt = DeepPrompt.split(prompt, alone=alone)
        values = prompt.to(embedded.dtype)
        if self._position_table is not None and self.positions_from_zero(position):
            # The model is about to add learned positions, which such a prompt does not have.
            values = values - self.model.base_model.get_submodule(self._position_table)(
                position_ids[:, : prompt.shape[1]]
            )
        return torch.cat([values, embedded], dim=1)

    def _masks(self, mask: Tensor, places: Tensor, dtype: torch.dtype) -> Any:
        """Return the attention masks in the form that the model takes."""
        full, local = _causal_masks(mask, places, self._window, dtype)
        if self.model.config.model_type in _MASK_PER_TYPE:
            return {"full_attention": full, "sliding_attention": local}
        if self.model.config.model_type == "gpt_neo":
            return torch.cat([full, local], dim=1)  # its layers take one mask; see `_neo_attention`
        return local if self._window else full


def _recomputed(forward: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run a layer, again in the backward pass if its cache permits that.

    transformers' own gradient checkpointing drops the cache, and with it the prompt.
    """
    if not any(isinstance(value, FixedCache) for value in (*args, *kwargs.values())):
        return forward(hidden, *args, **kwargs)
    return checkpoint(forward, hidden, *args, use_reentrant=False, **kwargs)


def _causal_masks(mask: Tensor, places: Tensor, window: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the masks of full and of local layers, ``(batch, 1, queries, keys)``, to be added to scores.

    A query attends to visible keys up to its own place, in a local layer to the last ``window`` of
    these. Padding is not counted, so a text gets the same answer in a batch as alone.

    Args:
        mask: 1 for visible keys, ``(batch, keys)``.
        places: indices of the queries among the keys, ``(queries,)``.
        window: see `_window`.
        dtype: dtype of the scores.
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
    """Attend as GPT-Neo does, without scaling, with the mask of the layer's type.

    Its own attention slices the mask from a table by index. That counts padding, and the exporter
    needs minutes for it.
    """
    scores = query.float() @ key.float().transpose(-1, -2) + attention_mask[:, kind : kind + 1]
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return weights @ value, weights


def _window(config: PretrainedConfig) -> int:
    """Return how many keys a query of a local layer attends to; 0 if no layer is local."""
    if config.model_type == "gpt_neo":
        return int(config.window_size)
    kinds = getattr(config, "layer_types", None) or ("sliding_attention",)
    is_used = "sliding_attention" in kinds and getattr(config, "use_sliding_window", True)
    return int(getattr(config, "sliding_window", None) or 0) if is_used else 0
