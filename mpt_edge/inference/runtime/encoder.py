"""An exported encoder in ONNX Runtime: one session, three calls (docs/design.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.manifest import Manifest
from mpt_edge.inference.runtime.graph_names import PAST, PRESENT, layer_names
from mpt_edge.inference.runtime.kv_cache import PromptCache
from mpt_edge.inference.runtime.outputs import check_output, check_outputs
from mpt_edge.inference.runtime.session import SessionOptions, check_graph, open_session
from mpt_edge.inference.text import Batch


class OnnxEncoder:
    """A frozen encoder, shared by all tasks; safe under several threads.

    Attributes:
        providers: execution providers in use.
        no_past: the cache of no prompt.
    """

    def __init__(self, path: Path, manifest: Manifest, options: SessionOptions | None = None) -> None:
        """Load the graph once.

        Args:
            path: the ``model.onnx`` file.
            manifest: the bundle's manifest.
            options: threads and execution providers.

        Raises:
            CorruptFileError: ONNX Runtime cannot load the file, or it belongs to another model.
        """
        self._session, self._path = open_session(path, options), path
        self.providers: list[str] = self._session.get_providers()
        self._token_types = manifest.token_types
        self.prompt_shape, self._width = manifest.prompt_shape, manifest.hidden_size
        empty = np.zeros((1, manifest.heads, 0, manifest.head_size), np.float32)
        self._past, self._present = layer_names(manifest.layers, PAST), layer_names(manifest.layers, PRESENT)
        self.no_past: PromptCache = dict.fromkeys(self._past, empty)
        self._has_words = manifest.mask is not None
        types, words = ["token_type_ids"] * self._token_types, ["logits_index", "word_ids"] * self._has_words
        inputs = ["input_ids", "attention_mask", "prompt", *types, *words]
        outputs = [*self._present, "last_hidden_state", *["logits"] * self._has_words]
        check_graph(self._session, path, manifest, self._past, inputs, outputs)

    def encode_prompt(self, prompt: Floats) -> PromptCache:
        """Return the keys and values of a prompt ``(l, d)`` or ``(l, layers, d)``, which attends to itself only."""
        no_text = np.zeros((1, 0), np.int64)
        mask = np.ones((1, len(prompt)), np.int64)
        feeds = self._feeds(Batch(no_text, no_text, no_text), mask, prompt[None], self.no_past)
        _, heads, _, size = self.no_past[self._past[0]].shape
        arrays = check_outputs(self._session.run(self._present, feeds), (1, heads, len(prompt), size), self._path)
        return dict(zip(self._past, arrays, strict=True))

    def request(self, batch: Batch, past: PromptCache | None = None) -> Floats:
        """Read text under cached prompts.

        Args:
            batch: the tokens.
            past: a cache of batch one for all rows, or of the batch's size; None for no prompt.

        Returns:
            The last hidden states of the text, ``(rows, tokens, d)``.
        """
        return self._hidden(self._text(batch, past))

    def joint_request(self, batch: Batch, prompt: Floats) -> Floats:
        """Read text together with its prompt ``(l, d)``; both attend to each other.

        Returns:
            The last hidden states of the text, ``(rows, tokens, d)``.
        """
        return self.joint_states(batch, prompt)[:, len(prompt) :]

    def joint_states(self, batch: Batch, prompt: Floats) -> Floats:
        """Return the states of `joint_request` with the prompt's in front, ``(rows, l + tokens, d)``."""
        return self._hidden(self._joint(batch, prompt))

    def words_at(self, batch: Batch, positions: Ids, words: Ids, past: PromptCache | None = None) -> Floats:
        """Return the masked-LM logits of some words at one token of each text, under a cached prompt.

        Args:
            batch: the tokens.
            positions: position of the token, ``(rows,)``.
            words: token ids, ``(words,)``.
            past: as in `request`.

        Returns:
            Logits ``(rows, words)``.
        """
        return self._words(self._text(batch, past), positions, words)

    def joint_words_at(self, batch: Batch, positions: Ids, words: Ids, prompt: Floats) -> Floats:
        """Return the logits of `words_at` for text that is read together with its prompt ``(l, d)``."""
        return self._words(self._joint(batch, prompt), positions + len(prompt), words)

    def _text(self, batch: Batch, past: PromptCache | None) -> dict[str, Any]:
        """Return the inputs of a request."""
        cached = self.no_past if past is None else past
        rows = len(batch.input_ids)
        prompt = np.ones((rows, cached[self._past[0]].shape[2]), np.int64)
        mask = np.concatenate([prompt, batch.attention_mask], axis=1)
        return self._feeds(batch, mask, np.zeros((rows, *self.prompt_shape(0)), np.float32), cached)

    def _joint(self, batch: Batch, prompt: Floats) -> dict[str, Any]:
        """Return the inputs of a joint request."""
        rows, length = len(batch.input_ids), len(prompt)
        mask = np.concatenate([np.ones((rows, length), np.int64), batch.attention_mask], axis=1)
        prompts = np.ascontiguousarray(np.broadcast_to(prompt, (rows, *prompt.shape)))
        return self._feeds(batch, mask, prompts, self.no_past)

    def _feeds(self, batch: Batch, mask: Ids, prompt: Floats, past: PromptCache) -> dict[str, Any]:
        feeds: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": mask, "prompt": prompt, **past}
        if self._token_types:
            feeds["token_type_ids"] = batch.token_type_ids
        if self._has_words:
            feeds |= {"logits_index": np.zeros((len(mask), 0), np.int64), "word_ids": np.zeros(0, np.int64)}
        return feeds

    def _words(self, feeds: dict[str, Any], positions: Ids, words: Ids) -> Floats:
        feeds |= {"logits_index": positions[:, None], "word_ids": words}
        (logits,) = self._session.run(["logits"], feeds)
        return check_output(logits, (len(positions), 1, len(words)), self._path)[:, 0]

    def _hidden(self, feeds: dict[str, Any]) -> Floats:
        (hidden,) = self._session.run(["last_hidden_state"], feeds)
        rows, length = feeds["input_ids"].shape
        return check_output(hidden, (rows, feeds["prompt"].shape[1] + length, self._width), self._path)
