"""Reading inputs and wanted texts under a prompt, whatever the family of the model that writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge.arrays import Floats
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.runtime.decoding import Decoding
from mpt_edge.text import Encoded
from mpt_edge.training.backbones.caches import KeyValue
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, GenerativeBackbone, Seq2SeqBackbone
from mpt_edge.training.objectives.decoding import TorchDecoding, TorchSeq2SeqDecoding


@dataclass(frozen=True)
class TextOutput:
    """What a model makes of inputs and of the texts that are wanted behind them.

    Attributes:
        logits: of all wanted tokens, ``(tokens, vocabulary)``.
        wanted: these tokens, ``(tokens,)``.
        hidden: last hidden states, of encoder and decoder where there are both, ``(rows, columns, d)``.
        mask: 1 for columns that are there, ``(rows, columns)``.
    """

    logits: Tensor
    wanted: Tensor
    hidden: Tensor
    mask: Tensor


def read_texts(
    backbone: GenerativeBackbone,
    prompt: Tensor | None,
    layout: Layout,
    entry: Entry,
    rows: Sequence[Encoded],
    targets: Sequence[Sequence[int]],
) -> TextOutput:
    """Read inputs and wanted texts in one pass.

    Args:
        backbone: the model.
        prompt: rows ``(l, d)`` or ``(l, layers, d)``, or None.
        layout: ``"prefix"`` or ``"joint"``.
        entry: where the prompt enters.
        rows: the inputs.
        targets: for each input the tokens wanted behind it.
    """
    if isinstance(backbone, Seq2SeqBackbone):
        return _read_seq2seq(backbone, prompt, layout, rows, targets)
    return _read_causal(backbone, prompt, entry, rows, targets)


def open_texts(
    backbone: GenerativeBackbone, prompt: Tensor | None, layout: Layout, entry: Entry, rows: Sequence[Encoded]
) -> tuple[Decoding, Floats]:
    """Read inputs, and return the state from which each goes on and the logits of its first token.

    Arguments are those of `read_texts`; logits are ``(rows, vocabulary)``, float32.
    """
    batch = backbone.texts.pad(rows)
    if isinstance(backbone, Seq2SeqBackbone):
        with torch.no_grad():
            _, mask, cross = _encoded(backbone, prompt, layout, rows)
        decoding = TorchSeq2SeqDecoding(backbone.model, mask, cross)
        return decoding, decoding.step(np.full(len(rows), backbone.model.start_id, np.int64))
    state = TorchDecoding(backbone.model, prompt, entry, len(rows))
    return state, state.read(batch.input_ids, batch.attention_mask, last_only=True)[:, 0]


def _read_causal(
    backbone: CausalBackbone,
    prompt: Tensor | None,
    entry: Entry,
    rows: Sequence[Encoded],
    targets: Sequence[Sequence[int]],
) -> TextOutput:
    model = backbone.model
    ids, mask = _padded(backbone, [[*row.ids, *target] for row, target in zip(rows, targets, strict=True)])
    length = 0 if prompt is None else len(prompt)
    past = None if prompt is None else model.encode_prompt(prompt.to(ids.device)[None], entry)
    keys = functional.pad(mask, (length, 0), value=1)
    hidden, _ = model(ids, keys, model.text_positions(mask, length, entry), past=past)
    places = [
        (i, column)
        for i, (row, target) in enumerate(zip(rows, targets, strict=True))
        for column in range(len(row.ids) - 1, len(row.ids) + len(target) - 1)
    ]
    at, columns = torch.tensor(places, device=ids.device).T
    return TextOutput(model.logits(hidden[at, columns]).float(), ids[at, columns + 1], hidden.float(), mask)


def _read_seq2seq(
    backbone: Seq2SeqBackbone,
    prompt: Tensor | None,
    layout: Layout,
    rows: Sequence[Encoded],
    targets: Sequence[Sequence[int]],
) -> TextOutput:
    model = backbone.model
    states, seen, cross = _encoded(backbone, prompt, layout, rows)
    given, mask = _padded(backbone, [[model.start_id, *target[:-1]] for target in targets])
    hidden, _ = model.decode(given, mask, seen, cross)
    wanted = torch.tensor([token for target in targets for token in target], device=given.device)
    text = seen[:, seen.shape[1] - states.shape[1] :]
    return TextOutput(
        model.logits(hidden[mask == 1]).float(),
        wanted,
        torch.cat([states, hidden], dim=1).float(),
        torch.cat([text, mask], dim=1),
    )


def _encoded(
    backbone: Seq2SeqBackbone, prompt: Tensor | None, layout: Layout, rows: Sequence[Encoded]
) -> tuple[Tensor, Tensor, list[KeyValue]]:
    """Run the encoder; return the text's states, the mask of prompt and text, and what the decoder sees of both."""
    model = backbone.model
    ids, mask = _padded(backbone, [row.ids for row in rows])
    if prompt is None:
        states, _ = model.encode(ids, mask)
        return states, mask, model.cross(states)
    prompt = prompt.to(ids.device)
    keys = functional.pad(mask, (len(prompt), 0), value=1)
    if layout == Layout.JOINT:
        states, _ = model.encode(ids, keys, prompt=prompt.expand(len(rows), -1, -1))
        return states[:, len(prompt) :], keys, model.cross(states)
    past, first = model.encode_prompt(prompt[None])
    states, _ = model.encode(ids, keys, past=past)
    cross = [
        (_behind(a_key, key), _behind(a_value, value))
        for (a_key, a_value), (key, value) in zip(first, model.cross(states), strict=True)
    ]
    return states, keys, cross


def _behind(prompt: Tensor, text: Tensor) -> Tensor:
    return torch.cat([prompt.expand(len(text), -1, -1, -1), text], dim=2)


def _padded(backbone: GenerativeBackbone, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    batch = backbone.texts.pad([Encoded(list(ids), [0] * len(ids), truncated=False) for ids in rows])
    device = next(backbone.model.parameters()).device
    return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)
