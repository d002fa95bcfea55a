"""Keys and values of texts under way, in arrays with room: the graph writes new rows where they stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.inference.runtime.graph_names import PAST, PAST_LENGTH, PRESENT
from mpt_edge.inference.runtime.prompt_cache import PromptCache
from mpt_edge.inference.runtime.session import ort_value

#: Rows of room that a cache gets at a time.
BLOCK = 64


class KeyValueCache:
    """A batch of rows, and the session that reads more tokens for them.

    The graph's past and present are bound to the same arrays, in which it writes new rows behind the
    old ones, so a step copies nothing of what was read before. Room for rows comes in blocks.

    Attributes:
        rows: texts in the batch.
        length: rows of the cache that are taken, a text each the same.
    """

    def __init__(self, session: Any, cache: PromptCache, seen: Ids, fixed: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Start behind what was read before.

        Args:
            session: the graph, with inputs ``past_key_values.*``, `PAST_LENGTH` and ``attention_mask``.
            cache: keys and values ``(1 or rows, heads, length, size)``, by input name.
            seen: which of them each text sees, ``(rows, length)``.
            fixed: inputs that stay as they are at every step, ``(rows, …)`` each.
        """
        self.rows, self.length = len(seen), int(seen.shape[1])
        self._session, self._binding = session, session.io_binding()
        self._vocabulary = next(value.shape[-1] for value in session.get_outputs() if value.name == "logits")
        self._fixed, self._mask = dict(fixed), seen  # without room yet: the first tokens say how much is needed
        self._cache = {name: np.broadcast_to(array, (self.rows, *array.shape[1:])) for name, array in cache.items()}
        self._texts = np.arange(self.rows)  # of which of the first rows each row is
        # Arrays that the graph reads, and ONNX Runtime's views of them, which a binding does not keep alive.
        self._inputs: dict[str, np.ndarray[Any, Any]] = {}
        self._views: dict[str, Any] = {}
        self._step = self._logits = np.empty((0, 1, self._vocabulary), np.float32)

    def read(self, tokens: Mapping[str, Ids], mask: Ids) -> Floats:
        """Read tokens for every row, and return the logits that were asked for.

        Args:
            tokens: the graph's inputs about them, ``logits_index`` ``(rows, wanted)`` among them.
            mask: 1 for tokens, 0 for filling, ``(rows, n)``.

        Returns:
            Logits, ``(rows, wanted, vocabulary)``.
        """
        logits = np.empty((*tokens["logits_index"].shape, self._vocabulary), np.float32)
        self._run(tokens, mask, logits)
        return logits

    def step(self, tokens: Mapping[str, Ids]) -> Floats:
        """Read one token for every row, and return what comes next.

        Args:
            tokens: the graph's inputs about them, ``(rows, 1)`` each.

        Returns:
            Logits, ``(rows, vocabulary)``, in an array that the next step writes over.
        """
        if len(self._step) != self.rows:
            self._step = np.empty((self.rows, 1, self._vocabulary), np.float32)
        self._run(tokens, 1, self._step)
        return self._step[:, 0]

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder texts by their numbers, ``(new rows,)``."""
        if len(rows) == self.rows and (rows == np.arange(self.rows)).all():
            return
        before, self._texts = self._texts, self._texts[rows]
        self.rows, self._mask = len(rows), self._mask[rows]
        self._cache = {name: array[rows] for name, array in self._cache.items()}
        if not np.array_equal(before, self._texts):  # beams of a text change places, and what is fixed is its own
            self._fixed = {name: array[rows] for name, array in self._fixed.items()}
        self._bind_rows()

    def _run(self, tokens: Mapping[str, Ids], mask: Ids | int, logits: Floats) -> None:
        """Read tokens, and write what was asked for into ``logits``."""
        new = tokens["input_ids"].shape[1]
        end = self.length + new
        if end > self._mask.shape[1]:
            self._make_room(new)
        self._mask[:, self.length : end] = mask
        self._put(PAST_LENGTH, np.array([self.length]))
        for name, array in tokens.items():
            self._put(name, array)
        if logits is not self._logits:
            self._logits, self._views["logits"] = logits, ort_value(logits)
            self._binding.bind_ortvalue_output("logits", self._views["logits"])
        self._session.run_with_iobinding(self._binding)
        self.length = end

    def _make_room(self, new: int) -> None:
        """Move to arrays with room for ``new`` rows more; what is not taken is 0, and seen by no one."""
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
        """Give the graph an input, where its last one stood if they are of one shape: most steps bind nothing."""
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
