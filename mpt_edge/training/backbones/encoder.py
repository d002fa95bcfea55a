"""A frozen Hugging Face encoder that carries a prompt: one definition for training and export.

The prompt enters as the first layer's input, behind the embeddings' LayerNorm, so what ``u``
scales is not normalized away (docs/design.md). Prompts from PEFT enter where PEFT feeds them, as
``inputs_embeds``: position and type embeddings are added to them, the LayerNorm follows, and the text
is counted from behind them. A third kind has rows of its own for every layer. One forward serves three calls:

- *encode prompt*: prompt rows alone, giving each layer's keys and values;
- *request*: text under those cached keys and values (prefix layout);
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

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.prompts import Entry
from mpt_edge.training.backbones.attention import MASKED, KeyValue
from mpt_edge.training.backbones.deep_prompt import DeepPrompt, replace_inputs
from mpt_edge.training.backbones.masked_lm import MaskedLMHead

#: Name under which our attention is registered with transformers.
ATTENTION = "mpt_edge"


@dataclass(frozen=True)
class Architecture:
    """Where an encoder keeps its parts, by attribute path.

    Attributes:
        stack: the module that runs the layers.
        layers: the list of layers.
        token_types: whether the embeddings take segment ids.
    """

    stack: str = "encoder"
    layers: str = "encoder.layer"
    token_types: bool = True


#: Encoders that send attention through transformers' attention interface, by ``model_type``.
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
    """What one forward hands to every attention layer, and collects from it."""

    past: Sequence[KeyValue] | None
    entering: DeepPrompt | None = None
    present: dict[int, KeyValue] = field(default_factory=dict)


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
    """Attend to the cached prompt and to the rows at hand, without copying the cache per row.

    The cache has batch one or the batch's size; scores against it and against the rows are joined
    before the softmax, so a cache of batch one is broadcast by the matrix product alone.
    """
    layer = int(module.mpt_edge_layer)  # type: ignore[arg-type]
    attending.present[layer] = (key, value)
    query = query * scaling
    scores = query @ key.transpose(-1, -2)
    if attending.past is None:
        output = torch.softmax(scores + attention_mask, dim=-1) @ value
    else:
        past_key, past_value = attending.past[layer]
        rows = past_key.shape[2]
        scores = torch.cat([query @ past_key.transpose(-1, -2), scores], dim=-1)
        weights = torch.softmax(scores + attention_mask, dim=-1)
        output = weights[..., :rows] @ past_value + weights[..., rows:] @ value
    return output.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _prompted_attention)


class PromptedEncoder(nn.Module):
    """A frozen encoder that reads text under a prompt.

    Attributes:
        model: the base model, without gradient, in evaluation mode.
        layers: its layers.
        layer_count: how many these are, and key/value pairs.
        hidden_size: width d of prompt rows and hidden states.
        token_types: whether segment ids are read.
        masked: the masked-LM head that came with it, or None.
    """

    def __init__(self, model: PreTrainedModel, masked: MaskedLMHead | None = None) -> None:
        """Freeze ``model`` and route its attention through the prompt.

        Raises:
            UnsupportedModelError: the architecture is none of `ARCHITECTURES`.
        """
        super().__init__()
        kind = model.config.model_type
        if kind not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{kind!r} models cannot carry a prompt yet; use one of {', '.join(sorted(ARCHITECTURES))}."
            )
        self.architecture = ARCHITECTURES[kind]
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.masked = masked
        self.model.set_attn_implementation(ATTENTION)
        self.layers = list(model.get_submodule(self.architecture.layers).children())
        for index, layer in enumerate(self.layers):
            for module in layer.modules():
                module.mpt_edge_layer = index
        replace_inputs(self.layers, lambda call: call["attending"].entering if "attending" in call else None)
        self.layer_count = len(self.layers)
        self.hidden_size = int(model.config.hidden_size)
        self.token_types = self.architecture.token_types and getattr(model.config, "type_vocab_size", 1) > 1
        self.first_position, self.max_positions = self._positions()

    def _positions(self) -> tuple[int, int]:
        """Return the first position of a text, and how many there are."""
        # RoBERTa and its kin count positions from behind the padding index.
        table = self.model.get_submodule("embeddings.position_embeddings")
        first = 0 if table.padding_idx is None else int(table.padding_idx) + 1
        return first, int(table.num_embeddings) - first

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        prompt: Tensor | None = None,
        past: Sequence[KeyValue] | None = None,
        entry: Entry = Entry.FIRST_LAYER,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run prompt rows and text through the layers.

        Args:
            input_ids: token ids, ``(batch, tokens)``.
            attention_mask: 1 for keys that may be seen, ``(batch, cached + prompt + tokens)``.
            token_type_ids: segment ids, ``(batch, tokens)``, where the model reads them.
            prompt: prompt rows that are part of this call, ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            past: keys and values of a prompt encoded before, batch one or ``batch``.
            entry: where the prompt rows of this call enter, one of `mpt_edge.formats.prompts.Entry`.

        Returns:
            The last hidden state, ``(batch, prompt + tokens, d)``, and each layer's new keys and
            values.
        """
        if prompt is not None and entry == Entry.INPUTS_EMBEDS:
            hidden = self._embed_behind(prompt, input_ids, attention_mask, token_type_ids)
            return self._run(hidden, attention_mask, past)
        text_mask = attention_mask[:, attention_mask.shape[1] - input_ids.shape[1] :]
        hidden = self.embed(input_ids, text_mask, token_type_ids)
        entering = None
        if prompt is not None and prompt.ndim == 4:
            entering, prompt = DeepPrompt(prompt), prompt[:, :, 0]
        if prompt is not None:
            hidden = torch.cat([prompt.to(hidden.dtype), hidden], dim=1)
        return self._run(hidden, attention_mask, past, entering)

    def enable_gradient_checkpointing(self) -> None:
        """Keep only each layer's input for the backward pass, and compute the rest again (gradient checkpointing)."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        # transformers checkpoints in training mode only; without dropout that mode changes nothing else.
        self.model.train()
        # Newer transformers have renamed it.
        enable = getattr(self.model, "activation_checkpointing_enable", self.model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})

    def encode_prompt(self, prompt: Tensor, entry: Entry = Entry.FIRST_LAYER) -> list[KeyValue]:
        """Return every layer's keys and values of prompts, which see only themselves.

        Args:
            prompt: ``(batch, l, d)``, or ``(batch, l, layers, d)`` where they enter every layer.
            entry: where they enter.
        """
        mask = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
        if prompt.ndim == 4:
            return self._run(prompt[:, :, 0], mask, None, DeepPrompt(prompt, alone=True))[1]
        if entry == Entry.INPUTS_EMBEDS:
            prompt = self._embed_behind(prompt, mask[:, :0], mask, None)
        return self._run(prompt, mask, None)[1]

    def embed(self, input_ids: Tensor, text_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the first layer's input for tokens, ``(batch, tokens, d)``.

        Positions count visible tokens, so padding on either side changes nothing.
        """
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return self._embed({"input_ids": input_ids}, text_mask, types)

    def _embed_behind(
        self, prompt: Tensor, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        """Return the first layer's input for prompt rows in place of word embeddings, and for tokens behind them."""
        words = self.model.get_input_embeddings()(input_ids)
        rows = torch.cat([prompt.to(words.dtype), words], dim=1)
        mask = attention_mask[:, attention_mask.shape[1] - rows.shape[1] :]
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        types = torch.cat([torch.zeros_like(prompt[..., 0], dtype=torch.long), types], dim=1)
        return self._embed({"inputs_embeds": rows}, mask, types)

    def _embed(self, rows: dict[str, Tensor], mask: Tensor, types: Tensor) -> Tensor:
        inputs = {"input_ids": None, "position_ids": (mask.cumsum(1) - 1).clamp(min=0) + self.first_position, **rows}
        if self.token_types:
            inputs["token_type_ids"] = types
        hidden = self.model.get_submodule("embeddings")(**inputs)
        if hasattr(self.model, "embeddings_project"):
            hidden = self.model.embeddings_project(hidden)
        return hidden  # type: ignore[no-any-return]

    def _run(
        self, hidden: Tensor, mask: Tensor, past: Sequence[KeyValue] | None, entering: DeepPrompt | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        bias = (1 - mask[:, None, None, :].to(hidden.dtype)) * MASKED
        attending = AttentionContext(past, entering)
        stack = self.model.get_submodule(self.architecture.stack)
        output = stack(hidden, attention_mask=bias, attending=attending)
        present = [attending.present[layer] for layer in range(self.layer_count)]
        return output.last_hidden_state, present
