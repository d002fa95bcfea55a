"""An encoder-decoder backbone in ONNX Runtime: the encoder reads once, the decoder continues from its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.placement import Layout
from mpt_edge.inference.runtime.decoding import Decoding
from mpt_edge.inference.runtime.graph_names import CROSS, PAST, PAST_LENGTH, PRESENT, layer_names
from mpt_edge.inference.runtime.kv_cache import KeyValueCache, PromptCache, stack
from mpt_edge.inference.runtime.outputs import check_outputs
from mpt_edge.inference.runtime.session import SessionOptions, check_graph, graph_mismatch, open_session
from mpt_edge.inference.text import Batch

#: Cache entry of the prompt itself, for the joint layout.
_PROMPT = "prompt"


class OnnxSeq2Seq:
    """A frozen encoder-decoder model, shared by all tasks; see `OnnxGenerator`.

    Attributes:
        providers: execution providers in use.
    """

    is_encoder_decoder = True

    def __init__(self, encoder: Path, decoder: Path, manifest: Manifest, options: SessionOptions | None = None) -> None:
        """Load both graphs once.

        Args:
            encoder: the ``encoder_model.onnx`` file.
            decoder: the ``decoder_model.onnx`` file.
            manifest: the bundle's manifest.
            options: threads and execution providers.

        Raises:
            CorruptFileError: ONNX Runtime cannot load a file, or it belongs to another model.
        """
        # The decoder first: preparing it needs its head in memory twice, room that the encoder then uses.
        self.decoder = open_session(decoder, options)
        self._encoder, self._encoder_path = open_session(encoder, options), encoder
        self.providers: list[str] = self.decoder.get_providers()
        self.prompt_shape = manifest.prompt_shape
        assert manifest.generation is not None  # as in every manifest of the family
        assert manifest.generation.start_id is not None
        self.start_id = manifest.generation.start_id
        self._past, self._present = layer_names(manifest.layers, PAST), layer_names(manifest.layers, PRESENT)
        outputs = [value.name for value in self._encoder.get_outputs()]
        self._cross = [name for name in outputs if name.startswith(CROSS)]
        sides = [name.removeprefix(CROSS).split(".") for name in self._cross]
        self.own = [f"{PAST}{i}.decoder.{part}" for i, part in sides]
        self.cross = [f"{PAST}{i}.encoder.{part}" for i, part in sides]
        self._check(encoder, decoder, manifest)
        self.empty = np.zeros((1, manifest.heads, 0, manifest.head_size), np.float32)
        self.no_past: PromptCache = dict.fromkeys([*self._past, *self._cross], self.empty)

    def _check(self, encoder: Path, decoder: Path, manifest: Manifest) -> None:
        """Compare both graphs with the manifest. Raises CorruptFileError."""
        check_graph(
            self._encoder, encoder, manifest, self._past, ["input_ids", "attention_mask", "prompt"], self._present
        )
        inputs = ["input_ids", "attention_mask", "encoder_attention_mask", "logits_index", PAST_LENGTH]
        check_graph(self.decoder, decoder, manifest, [*self.own, *self.cross], inputs, ["logits"])
        vocabulary = next((value.shape[-1] for value in self.decoder.get_outputs() if value.name == "logits"), 0)
        if self.start_id >= vocabulary:
            raise graph_mismatch(decoder)

    def encode_prompt(self, prompt: Floats, layout: Layout = Layout.PREFIX) -> PromptCache:
        """Return encoder and cross-attention keys and values of a prompt ``(l, d)`` or ``(l, layers, d)``.

        In the joint layout nothing can be computed in advance, and the prompt itself is kept.
        """
        if layout is Layout.JOINT:
            return {_PROMPT: prompt[None]}
        nothing = np.zeros((1, 0), np.int64)
        arrays = self._run(nothing, np.ones((1, len(prompt)), np.int64), prompt[None], {})
        return dict(zip([*self._past, *self._cross], arrays, strict=True))

    def open(
        self,
        batch: Batch,
        caches: Sequence[PromptCache],
        held: Sequence[int] = (),  # noqa: ARG002
    ) -> tuple[Seq2SeqDecoding, Floats]:
        """Read texts, each under its own prompt; see `OnnxGenerator.open`. No cache holds tokens of a text."""
        rows = len(batch.input_ids)
        if _PROMPT in caches[0]:
            prompts = np.concatenate([cache[_PROMPT] for cache in caches] * (rows if len(caches) == 1 else 1))
            mask = np.concatenate([np.ones(prompts.shape[:2], np.int64), batch.attention_mask], axis=1)
            cross = self._run(batch.input_ids, mask, prompts, {})[len(self._past) :]
        else:
            cache, seen = caches[0], np.ones((rows, next(iter(caches[0].values())).shape[2]), np.int64)
            if any(other is not cache for other in caches):
                cache, seen = stack(caches)
            mask = np.concatenate([seen, batch.attention_mask], axis=1)
            nothing = np.zeros((rows, *self.prompt_shape(0)), np.float32)
            fresh = self._run(batch.input_ids, mask, nothing, cache)[len(self._past) :]
            cross = [
                np.concatenate([np.broadcast_to(cache[name], (rows, *cache[name].shape[1:])), new], axis=2)
                for name, new in zip(self._cross, fresh, strict=True)
            ]
        state = Seq2SeqDecoding(self, mask, dict(zip(self.cross, cross, strict=True)))
        return state, state.step(np.full(rows, self.start_id, np.int64))

    def decoder_prefix(self, ids: list[int]) -> list[int]:  # noqa: ARG002
        """Return the decoder's first token; the input belongs to the encoder."""
        return [self.start_id]

    def _run(self, ids: Ids, mask: Ids, prompt: Floats, cache: PromptCache) -> list[Floats]:
        feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "prompt": prompt}
        feeds |= {name: cache.get(name, self.empty) for name in self._past}
        (rows, length), (_, heads, _, size) = ids.shape, self.empty.shape
        arrays = self._encoder.run([*self._present, *self._cross], feeds)
        return check_outputs(arrays, (rows, heads, prompt.shape[1] + length, size), self._encoder_path)


class Seq2SeqDecoding(Decoding):
    """Rows of an encoder-decoder model; see `Decoding`."""

    def __init__(self, backbone: OnnxSeq2Seq, encoder_mask: Ids, cross: PromptCache) -> None:
        """Start after the encoder, with its mask ``(rows, encoder rows)`` and its keys and values."""
        nothing = dict.fromkeys(backbone.own, backbone.empty)
        fixed: dict[str, np.ndarray[Any, Any]] = {"encoder_attention_mask": encoder_mask, **cross}
        self._cache = KeyValueCache(backbone.decoder, nothing, encoder_mask[:, :0], fixed)

    @property
    def rows(self) -> int:
        """Current number of rows."""
        return self._cache.rows

    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row; see `Decoding.extend`."""
        index = np.tile(np.arange(tokens.shape[1]), (self.rows, 1))
        return self._cache.read({"input_ids": tokens, "logits_index": index}, mask)

    def step(self, tokens: Ids) -> Floats:
        """Append one token to every row; see `Decoding.step`."""
        return self._cache.step({"input_ids": tokens[:, None], "logits_index": np.zeros((self.rows, 1), np.int64)})

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows; see `Decoding.select`."""
        self._cache.select(rows)
