"""PyTorch models behind the seam that the device's search is written against."""

from __future__ import annotations

import torch
from torch import Tensor

from mpt_edge.arrays import Floats, Ids
from mpt_edge.formats.prompts import Entry
from mpt_edge.runtime.decoding import Decoding
from mpt_edge.training.backbones.caches import KeyValue
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq


class TorchDecoding(Decoding):
    """Rows of a decoder-only model; see `mpt_edge.runtime.decoding.Decoding`."""

    @torch.no_grad()
    def __init__(self, model: PromptedCausal, prompt: Tensor | None, entry: Entry, rows: int) -> None:
        """Start rows behind a prompt ``(l, d)`` that enters at ``entry``, or behind nothing."""
        self._model = model
        self._device = next(model.parameters()).device
        self._past: list[KeyValue] | None = None
        length = 0 if prompt is None else len(prompt)
        if prompt is not None:
            self._past = model.encode_prompt(prompt.to(self._device)[None], entry)
        self._seen = torch.ones(rows, length, dtype=torch.long, device=self._device)
        self._next = torch.full((rows, 1), 0 if model.positions_from_zero(entry) else length, device=self._device)

    @property
    def rows(self) -> int:
        """How many rows there are now."""
        return len(self._seen)

    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row; see `mpt_edge.runtime.decoding.Decoding.extend`."""
        return self.read(tokens, mask)

    @torch.no_grad()
    def read(self, tokens: Ids, mask: Ids, *, last_only: bool = False) -> Floats:
        """Append tokens ``(rows, n)``, and return logits behind each, or behind each row's last one."""
        ids, new = torch.from_numpy(tokens).to(self._device), torch.from_numpy(mask).to(self._device)
        steps = new.cumsum(1)
        self._seen = torch.cat([self._seen, new], dim=1)
        positions = self._next + (steps - 1).clamp(min=0)
        hidden, self._past = self._model(ids, self._seen, positions, past=self._past)
        self._next = self._next + steps[:, -1:]
        if last_only:
            last = (steps[:, -1:] - 1).clamp(min=0)
            hidden = torch.gather(hidden, 1, last[..., None].expand(-1, -1, hidden.shape[-1]))
        found: Floats = self._model.logits(hidden).float().cpu().numpy()
        return found

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows; see `mpt_edge.runtime.decoding.Decoding.select`."""
        chosen = torch.from_numpy(rows).to(self._device)
        if self._past is not None:
            shape = (self.rows, -1, -1, -1)
            self._past = [(key.expand(shape)[chosen], value.expand(shape)[chosen]) for key, value in self._past]
        self._seen, self._next = self._seen[chosen], self._next[chosen]


class TorchSeq2SeqDecoding(Decoding):
    """Rows of an encoder-decoder model; see `mpt_edge.runtime.decoding.Decoding`."""

    def __init__(self, model: PromptedSeq2Seq, encoder_mask: Tensor, cross: list[KeyValue]) -> None:
        """Start behind what the encoder read: its mask ``(rows, encoder rows)``, its keys and values."""
        self._model, self._encoder_mask, self._cross = model, encoder_mask, cross
        self._past: list[KeyValue] | None = None
        self._mask = encoder_mask[:, :0]

    @property
    def rows(self) -> int:
        """How many rows there are now."""
        return len(self._mask)

    @torch.no_grad()
    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row; see `mpt_edge.runtime.decoding.Decoding.extend`."""
        device = self._mask.device
        self._mask = torch.cat([self._mask, torch.from_numpy(mask).to(device)], dim=1)
        ids = torch.from_numpy(tokens).to(device)
        hidden, self._past = self._model.decode(ids, self._mask, self._encoder_mask, self._cross, self._past)
        found: Floats = self._model.logits(hidden).float().cpu().numpy()
        return found

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows; see `mpt_edge.runtime.decoding.Decoding.select`."""
        chosen = torch.from_numpy(rows).to(self._mask.device)
        self._past = None if self._past is None else [(key[chosen], value[chosen]) for key, value in self._past]
        self._cross = [(key[chosen], value[chosen]) for key, value in self._cross]
        self._mask, self._encoder_mask = self._mask[chosen], self._encoder_mask[chosen]
