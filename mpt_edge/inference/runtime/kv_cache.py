"""Cached keys and values: of prompts, and of texts that are being generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.inference.runtime.graph_names import PAST, PAST_LENGTH, PRESENT
from mpt_edge.inference.runtime.session import ort_value

#: Cached prompt keys and values by graph input name, each ``(batch, heads, rows, head size)``.
PromptCache = dict[str, Floats]

#: Rows by which a cache grows.
BLOCK = 64


def stack(caches: Sequence[PromptCache]) -> tuple[PromptCache, Ids]:
    """Stack one cache per row into one batch; shorter prompts are padded and masked.

    Rows of one task share a cache, which is read once.

    Returns:
        The stacked cache and its mask, ``(rows, longest prompt)``.
    """
    distinct = {id(cache): cache for cache in caches}
    positions = {key: position for position, key in enumerate(distinct)}
    rows = np.array([positions[id(cache)] for cache in caches])
    first = next(iter(caches[0]))
    lengths = np.array([cache[first].shape[2] for cache in distinct.values()])
    longest = int(lengths.max())
    mask = (np.arange(longest)[None, :] < lengths[rows, None]).astype(np.int64)
    stacked: PromptCache = {}
    for name, example in caches[0].items():
        _, heads, _, size = example.shape
        table = np.zeros((len(distinct), heads, longest, size), np.float32)
        for i, cache in enumerate(distinct.values()):
            table[i, :, : lengths[i]] = cache[name][0]
        stacked[name] = table[rows]
    return stacked, mask


class KeyValueCache:
    """Preallocated keys and values of a batch, and the session that extends them.

    The graph's past and present are bound to the same arrays, and the graph writes new rows after the
    old ones in place. So a step copies nothing. The arrays grow in blocks.

    Attributes:
        rows: texts in the batch.
        length: used rows of the cache, the same for each text.
    """

    def __init__(self, session: Any, cache: PromptCache, seen: Ids, fixed: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Start after a prompt, or after nothing.

        Args:
            session: the graph, with inputs ``past_key_values.*``, `PAST_LENGTH` and ``attention_mask``.
            cache: keys and values ``(1 or rows, heads, length, size)``, by input name.
            seen: 1 for cached rows that a text attends to, ``(rows, length)``.
            fixed: inputs that are the same at every step, ``(rows, …)`` each.
        """
        self.rows, self.length = len(seen), int(seen.shape[1])
        self._session, self._binding = session, session.io_binding()
        self._vocabulary = next(value.shape[-1] for value in session.get_outputs() if value.name == "logits")
        self._fixed, self._mask = dict(fixed), seen  # no spare rows yet: the first tokens decide how many
        self._cache = {name: np.broadcast_to(array, (self.rows, *array.shape[1:])) for name, array in cache.items()}
        self._texts = np.arange(self.rows)  # index of the original text of each row
        # Arrays that the graph reads, and ONNX Runtime's views of them; a binding does not keep those alive.
        self._inputs: dict[str, np.ndarray[Any, Any]] = {}
        self._views: dict[str, Any] = {}
        self._step = self._logits = np.empty((0, 1, self._vocabulary), np.float32)

    def read(self, tokens: Mapping[str, Ids], mask: Ids) -> Floats:
        """Read tokens for every row, and return the requested logits.

        Args:
            tokens: the graph's inputs of tokens, with ``logits_index`` ``(rows, requested)``.
            mask: 1 for tokens, 0 for padding, ``(rows, n)``.

        Returns:
            Logits, ``(rows, requested, vocabulary)``.
        """
        logits = np.empty((*tokens["logits_index"].shape, self._vocabulary), np.float32)
        self._run(tokens, mask, logits)
        return logits

    def step(self, tokens: Mapping[str, Ids]) -> Floats:
        """Read one token for every row, and return the logits of the next.

        Args:
            tokens: the graph's inputs of tokens, ``(rows, 1)`` each.

        Returns:
            Logits, ``(rows, vocabulary)``, in an array that the next step overwrites.
        """
        if len(self._step) != self.rows:
            self._step = np.empty((self.rows, 1, self._vocabulary), np.float32)
        self._run(tokens, 1, self._step)
        return self._step[:, 0]

    def content(self) -> PromptCache:
        """Return a copy of the keys and values so far."""
        return {name: array[:, :, : self.length].copy() for name, array in self._cache.items()}

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder texts by their indices, ``(new rows,)``."""
        if len(rows) == self.rows and (rows == np.arange(self.rows)).all():
            return
        before, self._texts = self._texts, self._texts[rows]
        self.rows, self._mask = len(rows), self._mask[rows]
        self._cache = {name: array[rows] for name, array in self._cache.items()}
        if not np.array_equal(before, self._texts):  # beams of one text share its fixed inputs
            self._fixed = {name: array[rows] for name, array in self._fixed.items()}
        self._bind_rows()

    def _run(self, tokens: Mapping[str, Ids], mask: Ids | int, logits: Floats) -> None:
        """Read tokens, and write the requested logits into ``logits``."""
        new = tokens["input_ids"].shape[1]
        end = self.length + new
        if end > self._mask.shape[1]:
            self._grow(new)
        self._mask[:, self.length : end] = mask
        self._put(PAST_LENGTH, np.array([self.length]))
        for name, array in tokens.items():
            self._put(name, array)
        if logits is not self._logits:
            self._logits, self._views["logits"] = logits, ort_value(logits)
            self._binding.bind_ortvalue_output("logits", self._views["logits"])
        self._session.run_with_iobinding(self._binding)
        self.length = end

    def _grow(self, new: int) -> None:
        """Move to arrays with room for ``new`` more rows. Unused capacity is zero and masked."""
        capacity = -(-(self.length + new) // BLOCK) * BLOCK
        mask = np.zeros((self.rows, capacity), np.int64)
        mask[:, : self.length] = self._mask[:, : self.length]
        self._mask = mask
        for name, before in self._cache.items():
            array = np.zeros((self.rows, before.shape[1], capacity, before.shape[3]), np.float32)
            array[:, :, : self.length] = before[:, :, : self.length]
            self._cache[name] = array
        self._bind_rows()

    def _put(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Set an input of the graph, in the array already bound if it has the same shape."""
        held = self._inputs.get(name)
        if held is not None and held.shape == array.shape:
            held[...] = array
        else:
            self._bind(name, array.copy())

    def _bind(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._inputs[name], self._views[name] = array, ort_value(array)
        self._binding.bind_ortvalue_input(name, self._views[name])

    def _bind_rows(self) -> None:
        for name, array in {**self._cache, **self._fixed, "attention_mask": self._mask}.items():
            self._bind(name, array)
        for name in self._cache:
            self._binding.bind_ortvalue_output(name.replace(PAST, PRESENT), self._views[name])
