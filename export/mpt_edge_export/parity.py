"""Parity checks of exported float32 graphs: ONNX Runtime against PyTorch, before a bundle is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpt_edge._arrays import Floats, Ids
from mpt_edge.errors import ParityError
from mpt_edge.formats.bundle_reader import graph_names
from mpt_edge.formats.manifest import Family, Manifest, Precision
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.kv_cache import stack
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.text import Batch, Encoded
from mpt_edge.training.backbones.attention import KeyValue
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.objectives.generative_reading import open_texts

#: Largest difference of a hidden state, key, value or logit that a bundle may have.
TOLERANCE = 1e-4

#: An exported graph in ONNX Runtime, of any family.
Graph = OnnxEncoder | OnnxCausal | OnnxSeq2Seq

_GRAPHS: dict[Family, Callable[..., Graph]] = {
    Family.ENCODER: OnnxEncoder,
    Family.CAUSAL: OnnxCausal,
    Family.SEQ2SEQ: OnnxSeq2Seq,
}

_BATCHES = (1, 3, 8)
#: Lengths in tokens, besides the shortest text that the tokenizer makes.
_LENGTHS = (7, 33)

#: Tokens that follow a generative model's text in the comparison.
_CONTINUED = 2


def open_graph(folder: Path, manifest: Manifest, precision: Precision) -> Graph:
    """Open the graphs of a bundle's folder in ONNX Runtime; they need not be listed in the manifest yet."""
    paths = (folder / name for name in graph_names(manifest.family, precision))
    return _GRAPHS[manifest.family](*paths, manifest)


def check_parity(
    backbone: AnyBackbone, graph: Graph, prompts: Sequence[Floats], position: PromptPosition
) -> dict[str, Any]:
    """Compare a graph with PyTorch over batch sizes, lengths, calls and prompts.

    Hidden states, keys and values are compared as they are. Logits are compared in units of their
    standard deviation where that is above one, since their size is a matter of the model.

    Args:
        backbone: the model in PyTorch.
        graph: the exported graph.
        prompts: composed prompts of the tasks, each ``(l, d)`` or ``(l, layers, d)``; at least one.
        position: where they enter.

    Returns:
        The largest difference, the number of comparisons and the tolerance.

    Raises:
        ParityError: the largest difference is above `TOLERANCE`.
    """
    if isinstance(backbone, EncoderBackbone):
        assert isinstance(graph, OnnxEncoder)
        differences = [*_encoder_differences(backbone, graph, prompts, position)]
    else:
        assert not isinstance(graph, OnnxEncoder)
        differences = [*_generative_differences(backbone, graph, prompts, position)]
    largest = max(differences)
    if not largest <= TOLERANCE:
        raise ParityError(
            f"ONNX Runtime differs from PyTorch by {largest:.2e}, more than {TOLERANCE:.0e}; no bundle was written. "
            "Try other versions of torch or onnxruntime."
        )
    return {"max_abs_difference": float(f"{largest:.3e}"), "cases": len(differences), "tolerance": TOLERANCE}


def _encoder_differences(
    backbone: EncoderBackbone, graph: OnnxEncoder, prompts: Sequence[Floats], position: PromptPosition
) -> Iterator[float]:
    """Yield the difference of each call: a prompt alone, texts without it, with its cache, and joint with it.

    Nothing reads text jointly with a prompt that enters all layers, since the text changes no such prompt.
    """
    rng, may_join = np.random.default_rng(0), position is not PromptPosition.ALL_LAYERS
    shortest = backbone.texts.encode(["a"], backbone.max_length)[0].ids
    for number, prompt in enumerate(prompts):
        reference = _TorchEncoder(backbone.model, prompt, position)
        cache = graph.encode_prompt(prompt)
        expected = [tensor.numpy() for pair in reference.past for tensor in pair]
        yield max(_difference(*pair) for pair in zip(cache.values(), expected, strict=True))
        room = backbone.model.max_positions - (len(prompt) if position is PromptPosition.EMBEDDINGS else 0)
        for rows, tokens in _shapes(number, len(shortest)):
            batch = _random_batch(backbone, rng, (rows, max(len(shortest), min(tokens, room))), shortest)
            text = batch.attention_mask == 1
            cached, joint = reference.cached(batch), reference.joint(batch) if may_join else None
            stacked, _ = stack([cache] * rows)
            pairs = [
                (graph.request(batch), reference.plain(batch)),
                (graph.request(batch, cache), cached),
                (graph.request(batch, stacked), cached),
            ]
            pairs += [] if joint is None else [(graph.joint_request(batch, prompt), joint)]
            yield from (_difference(result[text], expected[text]) for result, expected in pairs)
            if backbone.mask is not None:
                words = rng.integers(0, _vocabulary(backbone), 5)
                positions = rng.integers(0, batch.attention_mask.sum(1))
                cloze = [(graph.words_at(batch, positions, words, cache), cached)]
                cloze += [] if joint is None else [(graph.joint_words_at(batch, positions, words, prompt), joint)]
                for logits, hidden in cloze:
                    yield _logit_difference(logits, reference.words(hidden, positions, words))


class _TorchEncoder:
    """An encoder in PyTorch under one prompt; each call returns the text's states, ``(rows, tokens, d)``."""

    def __init__(self, model: PromptedEncoder, prompt: Floats, position: PromptPosition) -> None:
        self._model, self._position = model, position
        self._prompt = torch.from_numpy(prompt)
        with torch.no_grad():
            self.past: list[KeyValue] = model.encode_prompt(self._prompt[None], position)

    def plain(self, batch: Batch) -> Floats:
        """Read texts without the prompt."""
        return self._read(batch, 0)

    def cached(self, batch: Batch) -> Floats:
        """Read texts with the prompt's keys and values."""
        return self._read(batch, len(self._prompt), past=self.past)

    def joint(self, batch: Batch) -> Floats:
        """Read texts and prompt together."""
        prompts = self._prompt.expand(len(batch.input_ids), *self._prompt.shape)
        states: Floats = self._read(batch, len(self._prompt), prompt=prompts)
        return states[:, len(self._prompt) :]

    @torch.no_grad()
    def words(self, hidden: Floats, positions: Ids, words: Ids) -> Floats:
        """Return the masked-LM logits of words at one position of each text, ``(rows, words)``."""
        assert self._model.masked is not None
        index = torch.from_numpy(positions)[:, None]
        logits: Floats = self._model.masked.at(torch.from_numpy(hidden), index, torch.from_numpy(words))[:, 0].numpy()
        return logits

    @torch.no_grad()
    def _read(self, batch: Batch, length: int, **context: Any) -> Floats:
        mask = torch.from_numpy(np.pad(batch.attention_mask, ((0, 0), (length, 0)), constant_values=1))
        ids, types = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.token_type_ids)
        states: Floats = self._model(ids, mask, types, position=self._position, **context)[0].numpy()
        return states


def _generative_differences(
    backbone: GenerativeBackbone,
    graph: OnnxCausal | OnnxSeq2Seq,
    prompts: Sequence[Floats],
    position: PromptPosition,
) -> Iterator[float]:
    """Yield the difference of the logits after texts and further tokens, in every layout that exists."""
    rng = np.random.default_rng(0)
    vocabulary = _vocabulary(backbone)
    both = backbone.family is Family.SEQ2SEQ and position is not PromptPosition.ALL_LAYERS
    layouts = (Layout.PREFIX, Layout.JOINT) if both else (Layout.PREFIX,)
    for number, prompt in enumerate(prompts):
        room = backbone.max_length - len(prompt) - _CONTINUED
        for layout, (rows, tokens) in product(layouts, _shapes(number, 2)):
            lengths = rng.integers(1, min(tokens, room) + 1, rows)
            texts = [rng.integers(0, vocabulary, length).tolist() for length in lengths]
            encoded = [Encoded(ids, [0] * len(ids), truncated=False) for ids in texts]
            further = rng.integers(0, vocabulary, (rows, _CONTINUED))
            cache = graph.encode_prompt(prompt, layout)
            opened = [
                graph.open(backbone.texts.pad(encoded), [cache] * rows),
                open_texts(backbone, torch.from_numpy(prompt), Placement(layout, position), encoded),
            ]
            result, expected = (
                np.concatenate([first[:, None], state.extend(further, np.ones_like(further))], axis=1)
                for state, first in opened
            )
            yield _logit_difference(result, expected)


def _shapes(number: int, shortest: int) -> list[tuple[int, int]]:
    """Return every batch size and length for the first prompt, one of each for the others."""
    shapes = [(rows, tokens) for rows in _BATCHES for tokens in (shortest, *_LENGTHS)]
    return shapes if number == 0 else [shapes[number % len(shapes)]]


def _random_batch(
    backbone: EncoderBackbone, rng: np.random.Generator, shape: tuple[int, int], shortest: Sequence[int]
) -> Batch:
    """Return random tokens, padded, between the first and last token of the shortest text.

    These are its special tokens, where it has any.
    """
    rows, tokens = shape
    ids = rng.integers(0, _vocabulary(backbone), shape)
    lengths = rng.integers(len(shortest), tokens + 1, rows)
    ids[:, 0] = shortest[0]
    ids[np.arange(rows), lengths - 1] = shortest[-1]
    mask = (np.arange(tokens)[None, :] < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, ids, backbone.pad_id)
    types = (rng.random(shape) < 0.3).astype(np.int64) if backbone.model.token_types else np.zeros_like(mask)
    return Batch(ids, mask, types)


def _vocabulary(backbone: AnyBackbone) -> int:
    return int(backbone.model.model.config.vocab_size)


def _logit_difference(result: Floats, expected: Floats) -> float:
    """Return the largest difference in units of the standard deviation, where that is above one."""
    return _difference(result, expected) / max(1.0, float(expected.std()))


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    # A NaN on either side must fail the comparison, and max() would drop it.
    difference = float(np.abs(a - b).max())
    return difference if np.isfinite(difference) else float("inf")
