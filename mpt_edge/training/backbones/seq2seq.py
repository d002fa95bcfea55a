"""A frozen T5 whose encoder carries a prompt.

The decoder has no prompt. It attends to the encoder's states of prompt and text, as in the paper and
in PEFT. In the prefix layout, virtual tokens attend to virtual tokens only. The encoder's keys and
values of the prompt, and the decoder's cross-attention to it, are then computed once. Attention is
transformers' own, with earlier keys and values in its cache and relative positions given to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache, PreTrainedModel

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.training.backbones.attention import GROUPED, Cache, KeyValue, visibility_bias
from mpt_edge.training.backbones.deep_prompt import DeepPrompt
from mpt_edge.training.backbones.prompted import PromptedModel

#: Encoder-decoder models, by ``model_type``. Flan-T5 and T5 1.1 are ``t5``.
SEQ2SEQ_ARCHITECTURES = frozenset({"mt5", "t5"})


class PromptedSeq2Seq(PromptedModel):
    """A frozen T5 that reads text under a prompt and generates text.

    Embeddings are the first layer's input, so ``embeddings`` and ``first_layer`` are the same
    position. A prompt for all layers is known by its shape.
    """

    encoder_layers: int
    """Number of encoder layers."""
    decoder_layers: int
    """Number of decoder layers."""
    start_id: int
    """The decoder's first token."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Freeze ``model``, a model with its language-model head.

        Raises:
            UnsupportedModelError: the architecture is not in `SEQ2SEQ_ARCHITECTURES`.
        """
        super().__init__(model, SEQ2SEQ_ARCHITECTURES, GROUPED)
        config = model.config
        self.layers = list(model.get_encoder().block)
        self.encoder_layers, self.decoder_layers = int(config.num_layers), int(config.num_decoder_layers)
        self.hidden_size, self.start_id = int(config.d_model), _start_id(model)
        # Positions are relative, so this is the length that the model was trained on.
        self.max_positions = int(getattr(config, "n_positions", None) or 512)
        # T5 1.0 scales the input of its tied head; 1.1, Flan and mT5 do not.
        self._scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0

    def positions_from_zero(self, position: PromptPosition) -> bool:  # noqa: ARG002
        """Return False: positions are relative at every prompt position."""
        return False

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompt: Tensor | None = None,
        past: Sequence[KeyValue] | None = None,
        *,
        alone: bool = False,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run virtual tokens and text through the encoder.

        Args:
            input_ids: token ids, ``(batch, tokens)``.
            attention_mask: 1 for visible positions, ``(batch, past + l + tokens)``.
            prompt: the prompt to read in this call, ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            past: keys and values of a prompt that was encoded before, of batch one or ``batch``.
            alone: whether there is no text; see `DeepPrompt`.

        Returns:
            The encoder's states ``(batch, l + tokens, d)``, and each layer's keys and values of
            these positions.
        """
        stack = self.model.get_encoder()
        hidden = self.model.get_input_embeddings()(input_ids)
        deep_prompt = None
        if prompt is not None:
            deep_prompt, prompt = DeepPrompt.split(prompt, alone=alone)
            hidden = torch.cat([prompt.to(hidden.dtype), hidden], dim=1)
        cache = Cache(past, hidden.shape[0])
        first = attention_mask.shape[1] - hidden.shape[1]
        positions = attention_mask.cumsum(1) - 1  # padding is not counted, so batches change nothing
        bias = _bias(stack, positions[:, None, :] - positions[:, first:, None], is_bidirectional=True)
        bias = bias + visibility_bias(attention_mask[:, None, None, :] == 1, hidden.dtype)
        for number, block in enumerate(self.layers):
            if deep_prompt is not None and number:
                hidden = deep_prompt.at(number, hidden)
            hidden = block(hidden, position_bias=bias, past_key_values=cache)[0]
        present = [(key[:, :, first:], value[:, :, first:]) for key, value in cache.pairs()]
        return stack.final_layer_norm(hidden), present

    def encode_prompt(self, prompt: Tensor) -> tuple[list[KeyValue], list[KeyValue]]:
        """Encode prompts ``(batch, l, d)`` or ``(batch, l, layers, d)`` without text (prefix layout).

        Returns:
            Each encoder layer's keys and values, and each decoder layer's cross-attention keys and
            values.
        """
        ones = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
        hidden, present = self.encode(ones[:, :0], ones, prompt=prompt, alone=True)
        return present, self.cross(hidden)

    def cross(self, hidden: Tensor) -> list[KeyValue]:
        """Return each decoder layer's cross-attention keys and values of encoder states ``(batch, positions, d)``."""
        pairs = []
        for block in self.model.get_decoder().block:
            attention = block.layer[1].EncDecAttention
            shape = (*hidden.shape[:-1], -1, attention.key_value_proj_dim)
            pairs.append(tuple(part(hidden).view(shape).transpose(1, 2) for part in (attention.k, attention.v)))
        return pairs

    def decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        encoder_mask: Tensor,
        cross: Sequence[KeyValue],
        past: Sequence[KeyValue] | Cache | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run tokens through the decoder.

        Args:
            input_ids: generated tokens, the start token first, ``(batch, tokens)``.
            attention_mask: 1 for visible tokens, ``(batch, past + tokens)``; padding may be anywhere.
            encoder_mask: 1 for visible encoder positions, ``(batch, encoder positions)``.
            cross: cross-attention keys and values of these positions; see `cross`.
            past: keys and values of earlier tokens, or a cache of them.

        Returns:
            The last hidden state, ``(batch, tokens, d)``, and each layer's keys and values of all tokens.
        """
        stack = self.model.get_decoder()
        hidden = self.model.get_input_embeddings()(input_ids)
        batch, count = input_ids.shape
        own = past if isinstance(past, Cache) else Cache(past, batch)
        bias = _decoder_bias(stack, attention_mask, own.places(attention_mask, count), hidden.dtype)
        cross_bias = visibility_bias(encoder_mask[:, None, None, :] == 1, hidden.dtype)
        cross_bias = cross_bias.expand(-1, -1, count, -1)  # the exported attention takes one row a token
        cache = EncoderDecoderCache(own, Cache(cross, batch))
        for block in stack.block:
            hidden = block(
                hidden,
                position_bias=bias,
                encoder_hidden_states=hidden,  # required, and unused once the keys are cached
                encoder_decoder_position_bias=cross_bias,
                past_key_values=cache,
            )[0]
        return stack.final_layer_norm(hidden), own.pairs()

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(…, vocabulary)`` of decoder states ``(…, d)``."""
        logits: Tensor = self.model.get_output_embeddings()(hidden * self._scale)
        return logits


def _start_id(model: PreTrainedModel) -> int:
    """Return the first token of `generate`. Raises UnsupportedModelError for a model that names none."""
    for config in (getattr(model, "generation_config", None), model.config):
        token = getattr(config, "decoder_start_token_id", None)
        if token is not None:
            return int(token)
    raise UnsupportedModelError(
        "the model's configuration names no decoder_start_token_id; add it to config.json, T5 takes its padding token."
    )


def _decoder_bias(stack: nn.Module, mask: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the decoder's position bias with the causal mask, ``(batch, heads, queries, keys)``.

    Args:
        stack: the decoder.
        mask: 1 for visible tokens, ``(batch, keys)``.
        places: indices of the queries among the keys, ``(queries,)``.
        dtype: dtype of the scores.
    """
    counted = mask.cumsum(1)  # padding is not counted
    distance = counted[:, None, :] - counted.index_select(1, places)[:, :, None]
    before = torch.arange(mask.shape[1], device=mask.device)[None, :] <= places[:, None]
    visible = before[None, None] & (mask[:, None, None, :] == 1)
    return _bias(stack, distance, is_bidirectional=False) + visibility_bias(visible, dtype)


def _bias(stack: nn.Module, distance: Tensor, *, is_bidirectional: bool) -> Tensor:
    """Return the relative position bias of a stack, ``(batch, heads, queries, keys)``.

    Args:
        stack: the encoder or the decoder.
        distance: key positions minus query positions, ``(batch, queries, keys)``.
        is_bidirectional: whether keys follow queries too, as in the encoder.
    """
    attention = stack.block[0].layer[0].SelfAttention  # type: ignore[index, union-attr]
    bucket = attention._relative_position_bucket(
        distance,
        bidirectional=is_bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: Tensor = attention.relative_attention_bias(bucket).permute(0, 3, 1, 2)
    return bias
