"""Encoder forward passes of texts under a prompt.

In the prefix layout, the prompt runs once for all texts that are read under it. In the joint layout
it runs with each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge.formats.manifest import Pooling
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.inference.batching import by_length, length_buckets
from mpt_edge.inference.text import Encoded
from mpt_edge.training.backbones.attention import KeyValue
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone

#: Tokens of one forward pass without gradient.
_TOKENS_PER_BATCH = 2048


@dataclass(frozen=True)
class EncoderOutput:
    """Embeddings and hidden states of a batch of texts."""

    embeddings: Tensor
    """Unit embeddings, ``(rows, d)``."""
    hidden: Tensor
    """Last hidden states of the text, ``(rows, tokens, d)``."""
    first: Tensor
    """State at the first position, which is a virtual token in the joint layout, ``(rows, d)``."""
    mask: Tensor
    """1 for tokens, 0 for padding, ``(rows, tokens)``."""

    def part(self, rows: slice) -> EncoderOutput:
        """Return some of the texts, padded to the longest of them."""
        mask = self.mask[rows]
        width = int(mask.sum(1).max())
        return EncoderOutput(self.embeddings[rows], self.hidden[rows, :width], self.first[rows], mask[:, :width])


@dataclass(frozen=True)
class Context:
    """A prompt before texts, or no prompt."""

    past: Sequence[KeyValue] | None = None
    """Keys and values of the prompt in the prefix layout."""
    prompt: Tensor | None = None
    """Virtual tokens in the joint layout, ``(l, d)``."""
    length: int = 0
    """Number of virtual tokens; 0 without a prompt."""
    position: PromptPosition = PromptPosition.FIRST_LAYER

    @classmethod
    def of(cls, backbone: EncoderBackbone, prompt: Tensor | None, placement: Placement) -> Context:
        """Place a composed prompt ``(l, d)`` or ``(l, layers, d)`` before texts; None for no prompt."""
        if prompt is None:
            return cls()
        prompt = prompt.to(_device(backbone))
        position = placement.position
        if placement.is_joint:
            return cls(prompt=prompt, length=len(prompt), position=position)
        past = backbone.model.encode_prompt(prompt[None], position=position)
        return cls(past=past, length=len(prompt), position=position)


#: No prompt.
BARE = Context()


def read(backbone: EncoderBackbone, rows: Sequence[Encoded], context: Context = BARE) -> EncoderOutput:
    """Read texts in one context. On a CPU, texts of similar length are read together."""
    # A small batch leaves a GPU idle, so padding is the cheaper of the two there.
    buckets = length_buckets([len(row.ids) for row in rows]) if _device(backbone).type == "cpu" else []
    if len(buckets) < 2:
        return _read_padded(backbone, rows, context)
    parts = [_read_padded(backbone, [rows[i] for i in bucket], context) for bucket in buckets]
    width = max(part.mask.shape[1] for part in parts)
    order = torch.from_numpy(np.argsort(np.concatenate(buckets)))
    return EncoderOutput(
        embeddings=torch.cat([part.embeddings for part in parts])[order],
        hidden=torch.cat([functional.pad(p.hidden, (0, 0, 0, width - p.mask.shape[1])) for p in parts])[order],
        first=torch.cat([part.first for part in parts])[order],
        mask=torch.cat([functional.pad(p.mask, (0, width - p.mask.shape[1])) for p in parts])[order],
    )


@torch.no_grad()
def embed_all(backbone: EncoderBackbone, rows: Sequence[Encoded], context: Context = BARE) -> Tensor:
    """Return the unit embeddings of any number of texts, ``(rows, d)``, in their order."""
    batches = list(by_length([len(row.ids) for row in rows], len(rows), _TOKENS_PER_BATCH))
    stacked = torch.cat([_read_padded(backbone, [rows[i] for i in batch], context).embeddings for batch in batches])
    order = [i for batch in batches for i in batch]
    return stacked[torch.argsort(torch.tensor(order, device=stacked.device))]


def pool_states(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool hidden states ``(rows, tokens, d)`` over the tokens of a mask ``(rows, tokens)`` into ``(rows, d)``."""
    visible = mask[..., None].to(hidden.dtype)
    if pooling is Pooling.MEAN:
        return (hidden * visible).sum(1) / visible.sum(1)
    if pooling is Pooling.MAX:
        return hidden.masked_fill(visible == 0, -torch.inf).amax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.argmax(1)]


def _read_padded(backbone: EncoderBackbone, rows: Sequence[Encoded], context: Context) -> EncoderOutput:
    batch, device = backbone.texts.pad(rows), _device(backbone)
    ids, mask, types = (
        torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    )
    keys = functional.pad(mask, (context.length, 0), value=1)
    prompt = None if context.prompt is None else context.prompt.expand(len(rows), -1, -1)
    hidden, _ = backbone.model(ids, keys, types, prompt=prompt, past=context.past, position=context.position)
    hidden = hidden.float()  # losses are taken in float32, whatever the forward pass computed in
    first, hidden = hidden[:, 0], hidden[:, hidden.shape[1] - ids.shape[1] :]
    embeddings = functional.normalize(pool_states(hidden, mask, backbone.pooling), dim=-1)
    return EncoderOutput(embeddings, hidden, first, mask)


def _device(backbone: EncoderBackbone) -> torch.device:
    return next(backbone.model.parameters()).device
