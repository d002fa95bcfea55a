"""The proof: ONNX Runtime against PyTorch on the three calls, before a bundle is written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt_edge.errors import ParityError
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.prompt_cache import stack
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.text import Batch, Encoded
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.objectives.generative_reading import open_texts

#: Largest difference of any hidden state, key or value that a bundle may have.
TOLERANCE = 1e-4

_BATCHES = (1, 3, 8)
#: Lengths in tokens, besides that of the shortest text that the tokenizer makes.
_LENGTHS = (7, 33)


def check_parity(
    backbone: EncoderBackbone,
    session: OnnxEncoder,
    prompts: Sequence[np.ndarray[Any, np.dtype[np.float32]]],
    entry: Entry = Entry.FIRST_LAYER,
) -> dict[str, Any]:
    """Compare all calls over batch sizes, lengths and prompts.

    Args:
        backbone: the PyTorch side.
        session: the exported graph in ONNX Runtime.
        prompts: composed prompts ``(l, d)`` of the tasks, or a random one where there are none.
        entry: where they enter.

    Returns:
        The largest difference and how many cases it was taken over.

    Raises:
        ParityError: the difference is above `TOLERANCE`.
    """
    rng = np.random.default_rng(0)
    shortest = backbone.texts.encode(["a"], backbone.max_length)[0].ids
    largest, cases = 0.0, 0
    for number, prompt in enumerate(prompts):
        cache = session.encode_prompt(prompt)
        with torch.no_grad():
            past = backbone.model.encode_prompt(torch.from_numpy(prompt)[None], entry)
        expected = [tensor.numpy() for pair in past for tensor in pair]
        largest = max(largest, *(_difference(*pair) for pair in zip(cache.values(), expected, strict=True)))
        room = backbone.model.max_positions - (len(prompt) if entry == Entry.INPUTS_EMBEDS else 0)
        for rows, tokens in _shapes(number, len(shortest)):
            batch = _random_batch(backbone, rng, rows, max(len(shortest), min(tokens, room)), shortest)
            text = batch.attention_mask == 1
            pairs = [
                (session.request(batch), _torch(backbone, batch)),
                (session.request(batch, cache), _torch(backbone, batch, past=past, seen=len(prompt))),
                (session.joint_request(batch, prompt), _torch(backbone, batch, prompt=prompt, entry=entry)),
            ]
            if backbone.mask is not None:
                largest = max(largest, _word_difference(backbone, session, rng, batch, prompt, entry))
                cases += 2
            joined, mask = stack([cache] * rows)
            pairs.append((session.request(batch, joined, mask), pairs[1][1]))
            largest = max(largest, *(_difference(a[text], b[text]) for a, b in pairs))
            cases += len(pairs)
    return _verdict(largest, cases)


def check_text_parity(
    backbone: GenerativeBackbone,
    session: OnnxCausal | OnnxSeq2Seq,
    prompts: Sequence[np.ndarray[Any, np.dtype[np.float32]]],
    entry: Entry = Entry.FIRST_LAYER,
) -> dict[str, Any]:
    """Compare the logits of texts under prompts, and of what follows them, in every layout that there is.

    Args:
        backbone: the PyTorch side.
        session: the exported graph in ONNX Runtime.
        prompts: composed prompts ``(l, d)`` or ``(l, layers, d)`` of the tasks, or a random one where there are none.
        entry: where they enter.

    Returns:
        The largest difference and how many cases it was taken over. Logits are compared in units of
        their own spread where that is above one, since their size is a matter of the model.

    Raises:
        ParityError: the difference is above `TOLERANCE`.
    """
    rng = np.random.default_rng(0)
    largest, cases = 0.0, 0
    vocabulary = int(backbone.model.model.config.vocab_size)
    for number, prompt in enumerate(prompts):
        # Text changes no prompt that enters every layer, so there is no joint layout of one (mpt_edge.formats.prompts).
        layouts = (
            (Layout.PREFIX, Layout.JOINT) if backbone.family == "seq2seq" and prompt.ndim == 2 else (Layout.PREFIX,)
        )
        room = backbone.max_length - len(prompt) - 2
        for layout, (rows, tokens) in product(layouts, _shapes(number, 2)):
            lengths = rng.integers(1, min(tokens, room) + 1, rows)
            texts = [rng.integers(0, vocabulary, length).tolist() for length in lengths]
            encoded = [Encoded(ids, [0] * len(ids), truncated=False) for ids in texts]
            more = rng.integers(0, vocabulary, (rows, 2))
            cache = session.encode_prompt(prompt, layout)
            pairs = [
                session.open(backbone.texts.pad(encoded), [cache] * rows),
                open_texts(backbone, torch.from_numpy(prompt), layout, entry, encoded),
            ]
            found, wanted = (
                np.concatenate([first[:, None], state.extend(more, np.ones_like(more))], axis=1)
                for state, first in pairs
            )
            largest = max(largest, _difference(found, wanted) / max(1.0, float(wanted.std())))
            cases += 1
    return _verdict(largest, cases)


def _verdict(largest: float, cases: int) -> dict[str, Any]:
    if not largest <= TOLERANCE:
        raise ParityError(
            f"ONNX Runtime differs from PyTorch by {largest:.2e}, more than {TOLERANCE:.0e}; no bundle was written. "
            "Try other versions of torch or onnxruntime."
        )
    return {"max_abs_difference": float(f"{largest:.3e}"), "cases": cases, "tolerance": TOLERANCE}


def _shapes(number: int, shortest: int) -> list[tuple[int, int]]:
    """Every batch size and length for the first prompt, one of each for the others."""
    every = [(rows, tokens) for rows in _BATCHES for tokens in (shortest, *_LENGTHS)]
    return every if number == 0 else [every[number % len(every)]]


def _random_batch(
    backbone: EncoderBackbone, rng: np.random.Generator, rows: int, tokens: int, shortest: Sequence[int]
) -> Batch:
    """Return random tokens between the ends of the shortest text, its special tokens where it has any, padded."""
    vocabulary = int(backbone.model.model.config.vocab_size)
    ids = rng.integers(0, vocabulary, (rows, tokens))
    lengths = rng.integers(len(shortest), tokens + 1, rows)
    ids[:, 0] = shortest[0]
    ids[np.arange(rows), lengths - 1] = shortest[-1]
    mask = (np.arange(tokens)[None, :] < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, ids, backbone.pad_id)
    types = (rng.random((rows, tokens)) < 0.3).astype(np.int64) if backbone.model.token_types else np.zeros_like(mask)
    return Batch(ids, mask, types)


@torch.no_grad()
def _word_difference(
    backbone: EncoderBackbone,
    session: OnnxEncoder,
    rng: np.random.Generator,
    batch: Batch,
    prompt: np.ndarray[Any, np.dtype[np.float32]],
    entry: Entry,
) -> float:
    """Return how far logits of random words at random tokens are apart, in units of their spread above one."""
    assert backbone.model.masked is not None
    words = rng.integers(0, int(backbone.model.model.config.vocab_size), 5)
    places = rng.integers(0, batch.attention_mask.sum(1))
    past = backbone.model.encode_prompt(torch.from_numpy(prompt)[None], entry)
    pairs = [
        (session.words_at(batch, places, words, session.encode_prompt(prompt)), {"past": past, "seen": len(prompt)}),
        (session.joint_words_at(batch, places, words, prompt), {"prompt": prompt, "entry": entry}),
    ]
    largest = 0.0
    for found, context in pairs:
        hidden = torch.from_numpy(_torch(backbone, batch, **context))  # type: ignore[arg-type]
        logits = backbone.model.masked.at(hidden, torch.from_numpy(places)[:, None], torch.from_numpy(words))
        wanted = logits[:, 0].numpy()
        largest = max(largest, _difference(found, wanted) / max(1.0, float(wanted.std())))
    return largest


@torch.no_grad()
def _torch(
    backbone: EncoderBackbone,
    batch: Batch,
    *,
    past: list[tuple[Tensor, Tensor]] | None = None,
    seen: int = 0,
    prompt: np.ndarray[Any, np.dtype[np.float32]] | None = None,
    entry: Entry = Entry.FIRST_LAYER,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = len(batch.input_ids)
    length = seen if prompt is None else len(prompt)
    mask = torch.from_numpy(np.pad(batch.attention_mask, ((0, 0), (length, 0)), constant_values=1))
    prompts = None if prompt is None else torch.from_numpy(prompt).expand(rows, *prompt.shape)
    ids, types = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.token_type_ids)
    hidden, _ = backbone.model(ids, mask, types, prompt=prompts, past=past, entry=entry)
    found: np.ndarray[Any, np.dtype[np.float32]] = hidden[:, 0 if prompt is None else length :].numpy()
    return found


def _difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    # A NaN on either side must fail the comparison, so it is not allowed to vanish in a maximum.
    difference = float(np.abs(a - b).max())
    return difference if np.isfinite(difference) else float("inf")
