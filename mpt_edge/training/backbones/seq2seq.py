"""A frozen T5 whose encoder carries a prompt: one definition for training and export.

The decoder has no prompt; it attends to the encoder's states of prompt and text, as in the paper and
in PEFT. In the prefix layout prompt rows see prompt rows alone, so the encoder's keys and values of
the prompt, and what the decoder sees of it, are computed once. Attention is transformers' own, with
what was read before in its cache; relative positions are given to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache, PreTrainedModel

from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.formats.prompts import Entry
from mpt_edge.training.backbones.attention import Cache, KeyValue, visibility_bias
from mpt_edge.training.backbones.deep_prompt import DeepPrompt

#: Encoder-decoder models, by ``model_type``. Flan-T5 and T5 1.1 are ``t5``.
SEQ2SEQ_ARCHITECTURES = frozenset({"mt5", "t5"})


class PromptedSeq2Seq(nn.Module):
    """A frozen T5 that reads text under a prompt and writes another.

    Embeddings are the first layer's input, so where a prompt enters is one place under two names; rows for
    every layer are known by their shape.

    Attributes:
        model: the model with its head, without gradient, in evaluation mode.
        layers: layers of the encoder.
        encoder_layers: how many these are.
        decoder_layers: layers of the decoder.
        hidden_size: width d of prompt rows.
        start_id: the token that every text to write begins behind.
        max_positions: most rows of prompt and text that are read; positions are relative, so this is the
            length that the model was trained on.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Freeze ``model``.

        Raises:
            UnsupportedModelError: the architecture is none of `SEQ2SEQ_ARCHITECTURES`.
        """
        super().__init__()
        kind = model.config.model_type
        if kind not in SEQ2SEQ_ARCHITECTURES:
            raise UnsupportedModelError(
                f"{kind!r} models cannot carry a prompt yet; use one of {', '.join(sorted(SEQ2SEQ_ARCHITECTURES))}."
            )
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.model.set_attn_implementation("eager")
        config = model.config
        self.layers: list[nn.Module] = list(model.get_encoder().block)
        self.encoder_layers, self.decoder_layers = int(config.num_layers), int(config.num_decoder_layers)
        self.hidden_size, self.start_id = int(config.d_model), _start_id(model)
        self.max_positions = int(getattr(config, "n_positions", None) or 512)
        # T5 1.0 scales what goes into its tied head; 1.1, Flan and mT5 do not.
        self._scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0

    def positions_from_zero(self, entry: Entry) -> bool:  # noqa: ARG002
        """Return False: positions are relative, wherever a prompt enters."""
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
        """Run prompt rows and text through the encoder.

        Args:
            input_ids: token ids, ``(batch, tokens)``.
            attention_mask: 1 for rows that may be seen, ``(batch, past + prompt + tokens)``.
            prompt: prompt rows that are part of this call, ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            past: keys and values of a prompt that was read by itself, batch one or ``batch``.
            alone: whether there is no text; see `DeepPrompt`.

        Returns:
            The encoder's states ``(batch, prompt + tokens, d)``, and each layer's keys and values of
            these rows.
        """
        stack = self.model.get_encoder()
        hidden = self.model.get_input_embeddings()(input_ids)
        entering = None
        if prompt is not None:
            if prompt.ndim == 4:
                entering, prompt = DeepPrompt(prompt, alone=alone), prompt[:, :, 0]
            hidden = torch.cat([prompt.to(hidden.dtype), hidden], dim=1)
        cache = Cache(past, hidden.shape[0])
        rows, keys = hidden.shape[1], attention_mask.shape[1]
        places = attention_mask.cumsum(1) - 1  # filling does not count, so a row is the same in a batch as alone
        bias = _bias(stack, places[:, None, :] - places[:, keys - rows :, None], both_ways=True)
        bias = bias + visibility_bias(attention_mask[:, None, None, :] == 1, hidden.dtype)
        for number, block in enumerate(self.layers):
            if entering is not None and number:
                hidden = entering.at(number, hidden)
            hidden = block(hidden, position_bias=bias, past_key_values=cache)[0]
        new = keys - rows
        return stack.final_layer_norm(hidden), [(key[:, :, new:], value[:, :, new:]) for key, value in cache.pairs()]

    def encode_prompt(self, prompt: Tensor) -> tuple[list[KeyValue], list[KeyValue]]:
        """Read prompts ``(batch, l, d)`` or ``(batch, l, layers, d)`` by themselves (prefix layout).

        Returns:
            Each encoder layer's keys and values, and those that each decoder layer sees of them.
        """
        ones = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
        hidden, present = self.encode(ones[:, :0], ones, prompt=prompt, alone=True)
        return present, self.cross(hidden)

    def cross(self, hidden: Tensor) -> list[KeyValue]:
        """Return the keys and values that each decoder layer sees of encoder states ``(batch, rows, d)``."""
        found = []
        for block in self.model.get_decoder().block:
            attention = block.layer[1].EncDecAttention
            shape = (*hidden.shape[:-1], -1, attention.key_value_proj_dim)
            found.append(tuple(part(hidden).view(shape).transpose(1, 2) for part in (attention.k, attention.v)))
        return found

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
            input_ids: tokens that were written, the start token first, ``(batch, tokens)``.
            attention_mask: 1 for tokens, past and new, ``(batch, past + tokens)``; filling may stand anywhere.
            encoder_mask: 1 for encoder rows that may be seen, ``(batch, encoder rows)``.
            cross: keys and values of these rows, see `cross`.
            past: keys and values of tokens that were read before, or a cache of them.

        Returns:
            The last hidden state, ``(batch, tokens, d)``, and each layer's keys and values of all tokens.
        """
        stack = self.model.get_decoder()
        hidden = self.model.get_input_embeddings()(input_ids)
        batch, rows = input_ids.shape
        own = past if isinstance(past, Cache) else Cache(past, batch)
        places = own.places(attention_mask, rows)
        counted = attention_mask.cumsum(1)
        distance = counted[:, None, :] - counted.index_select(1, places)[:, :, None]
        before = torch.arange(attention_mask.shape[1], device=hidden.device)[None, :] <= places[:, None]
        visible = before[None, None] & (attention_mask[:, None, None, :] == 1)
        bias = _bias(stack, distance, both_ways=False) + visibility_bias(visible, hidden.dtype)
        seen = visibility_bias(encoder_mask[:, None, None, :] == 1, hidden.dtype)
        seen = seen.expand(-1, -1, rows, -1)  # the exported graph's attention wants a row a token
        cache = EncoderDecoderCache(own, Cache(cross, batch))
        for block in stack.block:
            hidden = block(
                hidden,
                position_bias=bias,
                encoder_hidden_states=hidden,  # asked for, and not read where its keys are in the cache
                encoder_decoder_position_bias=seen,
                past_key_values=cache,
            )[0]
        return stack.final_layer_norm(hidden), own.pairs()

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(…, vocabulary)`` of decoder states ``(…, d)``."""
        found: Tensor = self.model.get_output_embeddings()(hidden * self._scale)
        return found

    def enable_gradient_checkpointing(self) -> None:
        """Refuse gradient checkpointing, which transformers has no room for beside a cache. Raises InputError."""
        raise InputError(
            "--gradient-checkpointing is for encoders; with this model pass a smaller --micro-batch-size instead."
        )


def _start_id(model: PreTrainedModel) -> int:
    """Return the token that `generate` begins with. Raises UnsupportedModelError where none is named."""
    for place in (getattr(model, "generation_config", None), model.config):
        found = getattr(place, "decoder_start_token_id", None)
        if found is not None:
            return int(found)
    raise UnsupportedModelError(
        "the model's configuration names no decoder_start_token_id; add it to config.json, T5 takes its padding token."
    )


def _bias(stack: nn.Module, distance: Tensor, *, both_ways: bool) -> Tensor:
    """Return the relative position bias of a stack, ``(batch, heads, rows, keys)``, at key minus query positions."""
    attention = stack.block[0].layer[0].SelfAttention  # type: ignore[index, union-attr]
    bucket = attention._relative_position_bucket(
        distance,
        bidirectional=both_ways,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    found: Tensor = attention.relative_attention_bias(bucket).permute(0, 3, 1, 2)
    return found
