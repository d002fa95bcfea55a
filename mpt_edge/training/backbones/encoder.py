"""A frozen encoder that carries a prompt.

A prompt of ours enters as the first layer's input, after the embeddings' LayerNorm, which would
cancel most of the scale ``u`` (docs/design.md). A prompt from PEFT enters in place of word
embeddings: position and type embeddings are added to it, the LayerNorm follows, and the text takes
the positions after it. A prompt for all layers has virtual tokens of its own at every layer.

One forward serves three calls:

- *encode prompt*: virtual tokens alone, giving each layer's keys and values;
- *request*: text with those cached keys and values (prefix layout);
- *joint request*: prompt and text together, attending to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.training.backbones.attention import MASKED, KeyValue
from mpt_edge.training.backbones.deep_prompt import DeepPrompt, replace_inputs
from mpt_edge.training.backbones.masked_lm import MaskedLMHead
from mpt_edge.training.backbones.prompted import PromptedModel

#: Name of our attention in transformers' registry.
ATTENTION = "mpt_edge"


@dataclass(frozen=True)
class Architecture:
    """Attribute paths of an encoder's parts."""

    stack: str = "encoder"
    """The module that runs the layers."""
    layers: str = "encoder.layer"
    """The list of layers."""
    token_types: bool = True
    """Whether the embeddings take segment ids."""


#: Encoders that use transformers' attention interface, by ``model_type``.
ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(),
    "camembert": Architecture(),
    "distilbert": Architecture("transformer", "transformer.layer", token_types=False),
    "electra": Architecture(),
    "modernbert": Architecture("", "layers", token_types=False),
    "roberta": Architecture(),
    "xlm-roberta": Architecture(),
}


@dataclass
class AttentionContext:
    """State of one forward that all attention layers share."""

    past: Sequence[KeyValue] | None
    """Each layer's cached keys and values of a prompt."""
    deep_prompt: DeepPrompt | None = None
    """A prompt for the input of all layers."""
    present: dict[int, KeyValue] = field(default_factory=dict)
    """Each layer's new keys and values, filled by the layers."""


def _prompted_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    attending: AttentionContext,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to the cached prompt and to the new positions.

    A cache of batch one is copied for each text, which is cheaper than products of its own for a short prompt.
    """
    layer = int(module.mpt_edge_layer)  # type: ignore[arg-type]
    attending.present[layer] = (key, value)
    if attending.past is not None:
        past_key, past_value = (cached.expand(query.shape[0], -1, -1, -1) for cached in attending.past[layer])
        key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
    scores = (query * scaling) @ key.transpose(-1, -2)
    return (torch.softmax(scores + attention_mask, dim=-1) @ value).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _prompted_attention)


class PromptedEncoder(PromptedModel):
    """A frozen encoder that reads text under a prompt."""

    token_types: bool
    """Whether the model reads segment ids."""
    masked: MaskedLMHead | None
    """The checkpoint's masked-LM head."""

    def __init__(self, model: PreTrainedModel, masked: MaskedLMHead | None = None) -> None:
        """Freeze ``model`` and replace its attention.

        Args:
            model: the base model, without a head.
            masked: its masked-LM head, if it has one.

        Raises:
            UnsupportedModelError: the architecture is not in `ARCHITECTURES`.
        """
        super().__init__(model, ARCHITECTURES, ATTENTION)
        self.architecture = ARCHITECTURES[model.config.model_type]
        self.masked = masked
        self.layers = list(model.get_submodule(self.architecture.layers).children())
        for index, layer in enumerate(self.layers):
            for module in layer.modules():
                module.mpt_edge_layer = index  # type: ignore[assignment]
        replace_inputs(self.layers, lambda call: call["attending"].deep_prompt if "attending" in call else None)
        self.hidden_size = int(model.config.hidden_size)
        self.token_types = self.architecture.token_types and getattr(model.config, "type_vocab_size", 1) > 1
        self.first_position, self.max_positions = self._positions()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        prompt: Tensor | None = None,
        past: Sequence[KeyValue] | None = None,
        position: PromptPosition = PromptPosition.FIRST_LAYER,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run virtual tokens and text through the layers.

        Args:
            input_ids: token ids, ``(batch, tokens)``.
            attention_mask: 1 for visible keys, ``(batch, cached + l + tokens)``.
            token_type_ids: segment ids, ``(batch, tokens)``, for models that read them.
            prompt: the prompt to read in this call, ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            past: keys and values of a prompt that was encoded before, of batch one or ``batch``.
            position: where the prompt enters, in this call or in an earlier one.

        Returns:
            The last hidden state, ``(batch, l + tokens, d)``, and each layer's new keys and values.
        """
        if prompt is not None and position == PromptPosition.EMBEDDINGS:
            hidden = self._embed_with_prompt(prompt, input_ids, attention_mask, token_type_ids)
            return self._run(hidden, attention_mask, past)
        text_mask = attention_mask[:, attention_mask.shape[1] - input_ids.shape[1] :]
        hidden = self.embed(input_ids, text_mask, token_type_ids)
        deep_prompt = None
        if prompt is not None:
            deep_prompt, prompt = DeepPrompt.split(prompt)
            hidden = torch.cat([prompt.to(hidden.dtype), hidden], dim=1)
        return self._run(hidden, attention_mask, past, deep_prompt)

    def enable_gradient_checkpointing(self) -> None:
        """Keep only each layer's input for the backward pass, and recompute the rest."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        # transformers checkpoints in training mode only; without dropout, that mode changes nothing else.
        self.model.train()
        # Newer transformers have renamed it.
        enable = getattr(self.model, "activation_checkpointing_enable", self.model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})

    def encode_prompt(self, prompt: Tensor, position: PromptPosition = PromptPosition.FIRST_LAYER) -> list[KeyValue]:
        """Return each layer's keys and values of prompts, without any text.

        Args:
            prompt: ``(batch, l, d)``, or ``(batch, l, layers, d)`` for all layers.
            position: where the prompts enter.
        """
        mask = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
        deep_prompt, hidden = DeepPrompt.split(prompt, alone=True)
        if position == PromptPosition.EMBEDDINGS:
            hidden = self._embed_with_prompt(hidden, mask[:, :0], mask, None)
        return self._run(hidden, mask, None, deep_prompt)[1]

    def embed(self, input_ids: Tensor, text_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the first layer's input for tokens, ``(batch, tokens, d)``.

        Positions count visible tokens, so padding on either side changes nothing.
        """
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return self._embed({"input_ids": input_ids}, text_mask, types)

    def _positions(self) -> tuple[int, int]:
        """Return the first position of a text and the number of positions."""
        # RoBERTa and its relatives count positions from the padding index + 1.
        table = self.model.get_submodule("embeddings.position_embeddings")
        first = 0 if table.padding_idx is None else int(table.padding_idx) + 1
        return first, int(table.num_embeddings) - first

    def _embed_with_prompt(
        self, prompt: Tensor, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        """Return the first layer's input for a prompt in place of word embeddings and the tokens after it."""
        words = self.model.get_input_embeddings()(input_ids)
        embedded = torch.cat([prompt.to(words.dtype), words], dim=1)
        mask = attention_mask[:, attention_mask.shape[1] - embedded.shape[1] :]
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        types = torch.cat([torch.zeros_like(prompt[..., 0], dtype=torch.long), types], dim=1)
        return self._embed({"inputs_embeds": embedded}, mask, types)

    def _embed(self, tokens: dict[str, Tensor], mask: Tensor, types: Tensor) -> Tensor:
        """Run the model's embeddings.

        Args:
            tokens: ``input_ids`` ``(batch, tokens)`` or ``inputs_embeds`` ``(batch, tokens, d)``.
            mask: 1 for visible tokens, ``(batch, tokens)``.
            types: segment ids, ``(batch, tokens)``.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0) + self.first_position
        inputs = {"input_ids": None, "position_ids": positions, **tokens}
        if self.token_types:
            inputs["token_type_ids"] = types
        hidden = self.model.get_submodule("embeddings")(**inputs)
        if hasattr(self.model, "embeddings_project"):
            hidden = self.model.embeddings_project(hidden)
        return hidden  # type: ignore[no-any-return]

    def _run(
        self, hidden: Tensor, mask: Tensor, past: Sequence[KeyValue] | None, deep_prompt: DeepPrompt | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run the layers; see `forward` for shapes."""
        bias = (1 - mask[:, None, None, :].to(hidden.dtype)) * MASKED
        attending = AttentionContext(past, deep_prompt)
        stack = self.model.get_submodule(self.architecture.stack)
        output = stack(hidden, attention_mask=bias, attending=attending)
        present = [attending.present[layer] for layer in range(self.layer_count)]
        return output.last_hidden_state, present
