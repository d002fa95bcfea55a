"""A decoder-only backbone in ONNX Runtime: prompts are read once, texts continue from their cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.placement import Layout
from mpt_edge.inference.runtime.decoding import Decoding
from mpt_edge.inference.runtime.graph_names import PAST, PAST_LENGTH, PRESENT, layer_names
from mpt_edge.inference.runtime.kv_cache import KeyValueCache, PromptCache, stack
from mpt_edge.inference.runtime.outputs import check_outputs
from mpt_edge.inference.runtime.session import SessionOptions, check_graph, open_session
from mpt_edge.inference.text import Batch


class OnnxCausal:
    """A frozen decoder-only model, shared by all tasks; see `OnnxGenerator`.

    Attributes:
        providers: execution providers in use.
    """

    is_encoder_decoder = False

    def __init__(self, path: Path, manifest: Manifest, options: SessionOptions | None = None) -> None:
        """Load the graph once.

        Args:
            path: the ``model.onnx`` file.
            manifest: the bundle's manifest.
            options: threads and execution providers.

        Raises:
            CorruptFileError: ONNX Runtime cannot load the file, or it belongs to another model.
        """
        self.session, self._path = open_session(path, options), path
        self.providers: list[str] = self.session.get_providers()
        self.prompt_shape = manifest.prompt_shape
        assert manifest.generation is not None  # as in every manifest of the family
        self.positions_from_zero = manifest.generation.positions_from_zero
        self.past, self.present = layer_names(manifest.layers, PAST), layer_names(manifest.layers, PRESENT)
        inputs = ["input_ids", "attention_mask", "position_ids", "prompt", "logits_index", PAST_LENGTH]
        check_graph(self.session, path, manifest, self.past, inputs, [*self.present, "logits"])
        empty = np.zeros((1, manifest.heads, 0, manifest.head_size), np.float32)
        self.no_past: PromptCache = dict.fromkeys(self.past, empty)

    def encode_prompt(self, prompt: Floats, layout: Layout = Layout.PREFIX) -> PromptCache:  # noqa: ARG002
        """Return the keys and values of a prompt ``(l, d)`` or ``(l, layers, d)``; batch one, shared by its texts.

        A prompt never attends to its text here, so both layouts are the same.
        """
        length = len(prompt)
        _, heads, _, size = self.no_past[self.past[0]].shape
        capacity = np.zeros((1, heads, length, size), np.float32)
        feeds = {
            "input_ids": np.zeros((1, 0), np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length)[None],
            "prompt": prompt[None],
            "logits_index": np.zeros((1, 0), np.int64),
            PAST_LENGTH: np.array([0]),
            **dict.fromkeys(self.past, capacity),
        }
        arrays = check_outputs(self.session.run(self.present, feeds), capacity.shape, self._path)
        return dict(zip(self.past, arrays, strict=True))

    def extend_prompt(self, cache: PromptCache, ids: Sequence[int]) -> PromptCache:
        """Return the keys and values of a prompt and of tokens after it, with which texts begin."""
        seen = np.ones((1, cache[self.past[0]].shape[2]), np.int64)
        state = CausalDecoding(self, cache, seen, np.zeros(1, np.int64))
        tokens = np.array([ids], np.int64)
        state.read(tokens, np.ones_like(tokens), last_only=True)
        return state.content()

    def open(
        self, batch: Batch, caches: Sequence[PromptCache], held: Sequence[int] = ()
    ) -> tuple[CausalDecoding, Floats]:
        """Read texts, each under its own prompt; see `OnnxGenerator.open`."""
        rows = len(batch.input_ids)
        cache, seen = caches[0], np.ones((rows, caches[0][self.past[0]].shape[2]), np.int64)
        if any(other is not cache for other in caches):
            cache, seen = stack(caches)
        state = CausalDecoding(self, cache, seen, np.array(held or [0] * rows))
        return state, state.read(batch.input_ids, batch.attention_mask, last_only=True)[:, 0]

    def decoder_prefix(self, ids: list[int]) -> list[int]:
        """Return the input, which the new text continues."""
        return list(ids)


class CausalDecoding(Decoding):
    """Rows of a decoder-only model; see `Decoding`."""

    def __init__(self, backbone: OnnxCausal, cache: PromptCache, seen: Ids, held: Ids) -> None:
        """Start after prompts.

        Args:
            backbone: the graph.
            cache: keys and values of the prompts, batch one or a row each.
            seen: 1 for cached rows that a row attends to, ``(rows, l)``.
            held: how many of them are a text's, ``(rows,)``.
        """
        no_prompt = np.zeros((len(seen), *backbone.prompt_shape(0)), np.float32)
        self._cache = KeyValueCache(backbone.session, cache, seen, {"prompt": no_prompt})
        first = held if backbone.positions_from_zero else seen.sum(1)
        self._next = first[:, None]

    @property
    def rows(self) -> int:
        """Current number of rows."""
        return self._cache.rows

    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row; see `Decoding.extend`."""
        return self.read(tokens, mask)

    def step(self, tokens: Ids) -> Floats:
        """Append one token to every row; see `Decoding.step`."""
        index = np.zeros((self.rows, 1), np.int64)
        logits = self._cache.step({"input_ids": tokens[:, None], "position_ids": self._next, "logits_index": index})
        self._next = self._next + 1
        return logits

    def read(self, tokens: Ids, mask: Ids, *, last_only: bool = False) -> Floats:
        """Append tokens, and return the logits after each, or after each row's last one.

        Args:
            tokens: ``(rows, n)``, padded on the right.
            mask: 1 for tokens, ``(rows, n)``.
            last_only: whether to return ``(rows, 1, vocabulary)`` only.
        """
        steps = mask.cumsum(1)
        last = np.maximum(steps[:, -1:] - 1, 0)
        feeds = {
            "input_ids": tokens,
            "position_ids": self._next + np.maximum(steps - 1, 0),
            "logits_index": last if last_only else np.tile(np.arange(tokens.shape[1]), (self.rows, 1)),
        }
        self._next = self._next + steps[:, -1:]
        return self._cache.read(feeds, mask)

    def content(self) -> PromptCache:
        """Return a copy of the keys and values so far, a row each."""
        return self._cache.content()

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows; see `Decoding.select`."""
        self._cache.select(rows)
        self._next = self._next[rows]
