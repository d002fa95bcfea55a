"""Forward passes of generative models: inputs and targets in one pass, and decoding step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.inference.runtime.decoding import Decoding
from mpt_edge.inference.text import Encoded
from mpt_edge.training.backbones.attention import Cache, KeyValue
from mpt_edge.training.backbones.backbone import vocabulary_size
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, GenerativeBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.growing_cache import GrowingCache
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge.training.objectives.target_loss import target_loss

#: Tokens that a pass has to save before its inputs' common beginning is read by itself.
_MIN_SAVED = 32


@dataclass(frozen=True)
class TextOutput:
    """Output of a generative model for inputs and their targets."""

    model: PromptedCausal | PromptedSeq2Seq
    """The model, whose head makes logits of states."""
    states: Tensor
    """Last hidden states that predict the target tokens, ``(tokens, d)``."""
    targets: Tensor
    """The target tokens, ``(tokens,)``."""
    hidden: Tensor
    """Last hidden states, of encoder and decoder where there are both, ``(rows, columns, d)``; without the tokens that
    all inputs begin with where those were read once."""
    mask: Tensor
    """1 for tokens, 0 for padding, ``(rows, columns)``."""

    @property
    def logits(self) -> Tensor:
        """Logits of all target tokens, ``(tokens, vocabulary)``, computed at each use."""
        return self.model.logits(self.states).float()

    def loss(self) -> Tensor:
        """Return the summed loss of the target tokens, without the memory of their logits."""
        return target_loss(self.states, self.targets, self.model.logits, vocabulary_size(self.model))


def read_texts(
    backbone: GenerativeBackbone,
    prompt: Tensor | None,
    placement: Placement,
    rows: Sequence[Encoded],
    targets: Sequence[Sequence[int]],
) -> TextOutput:
    """Read inputs and targets in one pass.

    Args:
        backbone: the model.
        prompt: ``(l, d)`` or ``(l, layers, d)``, or None.
        placement: attention layout and position of the prompt.
        rows: the inputs.
        targets: for each input, its target tokens.
    """
    if isinstance(backbone, Seq2SeqBackbone):
        return _read_seq2seq(backbone, prompt, placement, rows, targets)
    return _read_causal(backbone, prompt, placement.position, rows, targets)


def open_texts(
    backbone: GenerativeBackbone, prompt: Tensor | None, placement: Placement, rows: Sequence[Encoded]
) -> tuple[Decoding, Floats]:
    """Read inputs; return the state from which each continues, and the logits of its first new token.

    Arguments are those of `read_texts`. Logits are ``(rows, vocabulary)``, float32.
    """
    batch = backbone.texts.pad(rows)
    if isinstance(backbone, Seq2SeqBackbone):
        with torch.no_grad():
            _, mask, cross = _run_encoder(backbone, prompt, placement, rows)
        decoding = TorchSeq2SeqDecoding(backbone.model, mask, cross)
        return decoding, decoding.step(np.full(len(rows), backbone.model.start_id, np.int64))
    common = _common_tokens([row.ids for row in rows])
    state = TorchDecoding(backbone.model, prompt, placement.position, len(rows), common)
    left = slice(len(common), None)
    return state, state.read(batch.input_ids[:, left], batch.attention_mask[:, left], last_only=True)[:, 0]


class TorchDecoding(Decoding):
    """Decoding by a decoder-only model; see `mpt_edge.inference.runtime.decoding.Decoding`."""

    @torch.no_grad()
    def __init__(
        self,
        model: PromptedCausal,
        prompt: Tensor | None,
        position: PromptPosition,
        rows: int,
        common: Sequence[int] = (),
    ) -> None:
        """Begin rows after a prompt ``(l, d)`` or ``(l, layers, d)``, or none, and the tokens that all begin with."""
        self._model = model
        device = next(model.parameters()).device
        length = (0 if prompt is None else len(prompt)) + len(common)
        self._cache = GrowingCache(_begin(model, prompt, position, common), rows)
        # These two are in the order of the cache's rows.
        self._seen = torch.ones(rows, length, dtype=torch.long, device=device)
        first = len(common) if model.positions_from_zero(position) else length
        self._next = torch.full((rows, 1), first, device=device)

    @property
    def rows(self) -> int:
        """Current number of rows."""
        return len(self._seen)

    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row; see `mpt_edge.inference.runtime.decoding.Decoding.extend`."""
        return self.read(tokens, mask)

    @torch.no_grad()
    def read(self, tokens: Ids, mask: Ids, *, last_only: bool = False) -> Floats:
        """Append tokens ``(rows, n)``; return the logits after each, or after each row's last one."""
        ids, new = (self._cache.arrange(array).to(self._seen.device) for array in (tokens, mask))
        steps = new.cumsum(1)
        self._seen = torch.cat([self._seen, new], dim=1)
        positions = self._next + (steps - 1).clamp(min=0)
        hidden, _ = self._model(ids, self._seen, positions, past=self._cache)
        self._next = self._next + steps[:, -1:]
        if last_only:
            last = (steps[:, -1:] - 1).clamp(min=0)
            hidden = torch.gather(hidden, 1, last[..., None].expand(-1, -1, hidden.shape[-1]))
        return self._cache.rearrange(self._model.logits(hidden))

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows; see `mpt_edge.inference.runtime.decoding.Decoding.select`."""
        self._seen, self._next = self._cache.select(rows, [self._seen, self._next])


class TorchSeq2SeqDecoding(Decoding):
    """Decoding by an encoder-decoder model; see `mpt_edge.inference.runtime.decoding.Decoding`."""

    def __init__(self, model: PromptedSeq2Seq, encoder_mask: Tensor, cross: list[KeyValue]) -> None:
        """Begin after the encoder: its mask ``(rows, positions)``, and keys and values of its states."""
        self._model, rows = model, len(encoder_mask)
        # Both have their rows in the same order, and so have the masks.
        self._cache, self._cross = GrowingCache(None, rows), GrowingCache(cross, rows)
        self._encoder_mask, self._mask = encoder_mask, encoder_mask[:, :0]

    @property
    def rows(self) -> int:
        """Current number of rows."""
        return len(self._mask)

    @torch.no_grad()
    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row; see `mpt_edge.inference.runtime.decoding.Decoding.extend`."""
        ids, new = (self._cache.arrange(array).to(self._mask.device) for array in (tokens, mask))
        self._mask = torch.cat([self._mask, new], dim=1)
        hidden, _ = self._model.decode(ids, self._mask, self._encoder_mask, self._cross.pairs(), self._cache)
        return self._cache.rearrange(self._model.logits(hidden))

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows; see `mpt_edge.inference.runtime.decoding.Decoding.select`."""
        self._cross.select(rows, [])
        self._mask, self._encoder_mask = self._cache.select(rows, [self._mask, self._encoder_mask])


def _read_causal(
    backbone: CausalBackbone,
    prompt: Tensor | None,
    position: PromptPosition,
    rows: Sequence[Encoded],
    targets: Sequence[Sequence[int]],
) -> TextOutput:
    model = backbone.model
    common = _common_tokens([row.ids for row in rows])
    inputs = [row.ids[len(common) :] for row in rows]
    ids, mask = _pad(backbone, [[*text, *target] for text, target in zip(inputs, targets, strict=True)])
    length = 0 if prompt is None else len(prompt)
    past = _begin(model, prompt, position, common)
    keys = functional.pad(mask, (length + len(common), 0), value=1)
    hidden, _ = model(ids, keys, model.text_positions(mask, length, position) + len(common), past=past)
    before_targets = [
        (i, column)
        for i, (text, target) in enumerate(zip(inputs, targets, strict=True))
        for column in range(len(text) - 1, len(text) + len(target) - 1)
    ]
    at, columns = torch.tensor(before_targets, device=ids.device).T
    return TextOutput(model, hidden[at, columns], ids[at, columns + 1], hidden.float(), mask)


def _begin(
    model: PromptedCausal, prompt: Tensor | None, position: PromptPosition, common: Sequence[int]
) -> list[KeyValue] | None:
    """Return keys and values of a prompt, or none, and of tokens after it; None for neither."""
    device = next(model.parameters()).device
    length = 0 if prompt is None else len(prompt)
    past = None if prompt is None else model.encode_prompt(prompt.to(device)[None], position=position)
    if not common:
        return past
    ids = torch.tensor([common], device=device)
    seen = torch.ones(1, length + len(common), dtype=torch.long, device=device)
    _, present = model(ids, seen, model.text_positions(torch.ones_like(ids), length, position), past=Cache(past, 1))
    return present  # type: ignore[no-any-return]


def _common_tokens(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that all inputs of a pass begin with: an instruction, which then is read once.

    At least one token of each input is left to predict its target. So few that a pass of their own costs more than it
    saves are read with the rest.
    """
    columns = zip(*(row[:-1] for row in rows), strict=False)
    common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    return common if len(common) * (len(rows) - 1) >= _MIN_SAVED else []


def _read_seq2seq(
    backbone: Seq2SeqBackbone,
    prompt: Tensor | None,
    placement: Placement,
    rows: Sequence[Encoded],
    targets: Sequence[Sequence[int]],
) -> TextOutput:
    model = backbone.model
    states, seen, cross = _run_encoder(backbone, prompt, placement, rows)
    inputs, mask = _pad(backbone, [[model.start_id, *target[:-1]] for target in targets])
    hidden, _ = model.decode(inputs, mask, seen, cross)
    text_mask = seen[:, seen.shape[1] - states.shape[1] :]
    return TextOutput(
        model,
        hidden[mask == 1],
        torch.tensor([token for target in targets for token in target], device=inputs.device),
        torch.cat([states, hidden], dim=1).float(),
        torch.cat([text_mask, mask], dim=1),
    )


def _run_encoder(
    backbone: Seq2SeqBackbone, prompt: Tensor | None, placement: Placement, rows: Sequence[Encoded]
) -> tuple[Tensor, Tensor, list[KeyValue]]:
    """Return the text's states, the mask of prompt and text, and keys and values of both for the decoder."""
    model = backbone.model
    ids, mask = _pad(backbone, [row.ids for row in rows])
    if prompt is None:
        states, _ = model.encode(ids, mask)
        return states, mask, model.cross(states)
    prompt = prompt.to(ids.device)
    keys = functional.pad(mask, (len(prompt), 0), value=1)
    if placement.is_joint:
        states, _ = model.encode(ids, keys, prompt=prompt.expand(len(rows), -1, -1))
        return states[:, len(prompt) :], keys, model.cross(states)
    past, prompt_cross = model.encode_prompt(prompt[None])
    states, _ = model.encode(ids, keys, past=past)
    cross = [
        (_append(prompt_key, key), _append(prompt_value, value))
        for (prompt_key, prompt_value), (key, value) in zip(prompt_cross, model.cross(states), strict=True)
    ]
    return states, keys, cross


def _append(prompt: Tensor, text: Tensor) -> Tensor:
    return torch.cat([prompt.expand(len(text), -1, -1, -1), text], dim=2)


def _pad(backbone: GenerativeBackbone, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    batch = backbone.texts.pad([Encoded(list(ids), [0] * len(ids), truncated=False) for ids in rows])
    device = next(backbone.model.parameters()).device
    return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)
