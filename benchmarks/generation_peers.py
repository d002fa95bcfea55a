"""Peers of `generation.py`: a stock ONNX export without a prompt, CTranslate2, and transformers itself.

Each `Writer` generates a given number of tokens greedily after fixed token ids, and never ends early.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from mpt_edge.inference.runtime.session import SessionOptions, open_session

#: Returns as many new tokens as it is asked for.
Writer = Callable[[int], list[int]]


def transformers_writer(model: PreTrainedModel, rows: Tensor) -> Writer:
    """Generate with transformers' own `generate` after embeddings ``(1, rows, d)``, as PEFT feeds prompt and text."""
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    ones = torch.ones(rows.shape[:2], dtype=torch.long)

    @torch.no_grad()
    def write(count: int) -> list[int]:
        result = model.generate(
            inputs_embeds=rows, attention_mask=ones, max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        return [int(token) for token in result[0, -count:]]

    return write


def ctranslate2_writer(folder: Path, place: Path, tokens: Sequence[str], kind: str, threads: int) -> Writer:
    """Generate with CTranslate2 in ``"float32"`` or ``"int8"``; ``place`` is a folder for its model.

    Raises:
        ImportError: it is not installed.
        ValueError: it does not support the architecture.
    """
    import ctranslate2  # an optional peer

    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(place), quantization=kind, force=True)
    options: dict[str, Any] = {"device": "cpu", "compute_type": kind, "intra_threads": threads, "inter_threads": 1}
    if (place / "shared_vocabulary.json").is_file():
        translator = ctranslate2.Translator(str(place), **options)

        def translate(count: int) -> list[int]:
            given = {"max_decoding_length": count, "min_decoding_length": count, "beam_size": 1}
            return [0] * len(translator.translate_batch([list(tokens)], **given)[0].hypotheses[0])

        return translate
    generator = ctranslate2.Generator(str(place), **options)

    def write(count: int) -> list[int]:
        given = {"max_length": count, "min_length": count, "include_prompt_in_result": False}
        return list(generator.generate_batch([list(tokens)], **given)[0].sequences_ids[0])

    return write


def stock_causal(model: PreTrainedModel, ids: Sequence[int], place: Path, threads: int) -> Writer:
    """Generate with a plain export of a decoder-only model and its cache: one graph, as common exporters make it."""
    model.set_attn_implementation("eager")
    tokens = torch.ones(2, 3, dtype=torch.long)
    with torch.no_grad():
        layers = model(tokens, use_cache=True).past_key_values.layers
    heads, size = layers[0].keys.shape[1], layers[0].keys.shape[3]
    past = [torch.zeros(2, heads, 4, size) for _ in range(2 * len(layers))]
    axes = [{0: "batch", 1: "tokens"}, {0: "batch", 1: "seen"}, *({0: "batch", 2: "cached"} for _ in past)]
    run = _export(_Causal(model), (tokens, torch.ones(2, 7, dtype=torch.long), *past), axes, place, threads)

    def write(count: int) -> list[int]:
        given, tokens = np.array([ids]), list[int]()
        cache = [np.zeros((1, heads, 0, size), np.float32)] * len(past)
        mask = np.ones_like(given)
        while len(tokens) < count:
            logits, *cache = run([given, mask, *cache])
            tokens.append(int(logits[0, -1].argmax()))
            given, mask = np.array([[tokens[-1]]]), np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        return tokens

    return write


def stock_seq2seq(model: PreTrainedModel, ids: Sequence[int], place: Path, threads: int) -> Writer:
    """Generate with a plain export of a T5: encoder, first step and further steps of the decoder, a graph each."""
    model.set_attn_implementation("eager")
    tokens = torch.ones(2, 3, dtype=torch.long)
    seen = {0: "batch", 1: "seen"}
    with torch.no_grad():
        hidden = model.encoder(tokens).last_hidden_state
        past = _First(model)(tokens[:, :1], tokens, hidden)[1:]
    encode = _export(_Encoder(model), (tokens, tokens), [seen, seen], place / "encoder", threads)
    start = _export(
        _First(model), (tokens[:, :1], tokens, hidden), [{0: "batch"}, seen, seen], place / "first", threads
    )
    axes = [{0: "batch"}, seen, *({0: "batch", 2: "seen" if i % 4 > 1 else "written"} for i in range(len(past)))]
    step = _export(_Further(model), (tokens[:, :1], tokens, *past), axes, place / "further", threads)
    begin = np.array([[model.config.decoder_start_token_id]])

    def write(count: int) -> list[int]:
        given = np.array([ids])
        mask = np.ones_like(given)
        logits, *cache = start([begin, mask, *encode([given, mask])])
        tokens = [int(logits[0, -1].argmax())]
        while len(tokens) < count:
            logits, *own = step([np.array([[tokens[-1]]]), mask, *cache])
            # Self-attention's keys and values grow; those of cross-attention stay.
            cache = [own[i // 4 * 2 + i % 4] if i % 4 < 2 else part for i, part in enumerate(cache)]
            tokens.append(int(logits[0, -1].argmax()))
        return tokens

    return write


class _Causal(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=_filled(past), use_cache=True)
        return out.logits, *_flat(out.past_key_values)


class _Encoder(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return out


class _First(nn.Module):
    """The decoder's first step, which also computes the keys and values of cross-attention."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        logits, cache = _decoded(self.model, ids, mask, hidden, cache)
        own, cross = _flat(cache.self_attention_cache), _flat(cache.cross_attention_cache)
        return logits, *(part for i in range(0, len(own), 2) for part in (*own[i : i + 2], *cross[i : i + 2]))


class _Further(nn.Module):
    """A further step, from four tensors a layer to the two that grew."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        own, cross = ([past[i + j] for i in range(0, len(past), 4) for j in pair] for pair in ((0, 1), (2, 3)))
        cache = EncoderDecoderCache(_filled(own), _filled(cross))
        cache.is_updated = dict.fromkeys(range(len(past) // 4), True)
        # Cross-attention reads its cache, so only the shape of the encoder's states matters.
        hidden = cross[0].new_zeros(1).expand(*mask.shape, self.model.config.d_model)
        logits, cache = _decoded(self.model, ids, mask, hidden, cache)
        return logits, *_flat(cache.self_attention_cache)


def _decoded(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, hidden: Tensor, cache: EncoderDecoderCache
) -> tuple[Tensor, EncoderDecoderCache]:
    out = model.decoder(
        input_ids=ids,
        encoder_hidden_states=hidden,
        encoder_attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    )
    scale = model.config.d_model**-0.5 if model.config.tie_word_embeddings else 1.0
    return model.lm_head(scale * out.last_hidden_state), out.past_key_values


def _filled(past: Sequence[Tensor]) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _flat(cache: DynamicCache) -> list[Tensor]:
    return [part for layer in cache.layers for part in (layer.keys, layer.values)]


def _export(
    module: nn.Module, arguments: tuple[Tensor, ...], axes: Sequence[dict[int, str]], place: Path, threads: int
) -> Callable[[Sequence[Any]], list[Any]]:
    """Export a module by tracing, and return a function that runs it on its inputs in order, without unread ones."""
    place.mkdir(parents=True, exist_ok=True)
    names = [f"input.{i}" for i in range(len(arguments))]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            place / "model.onnx",
            dynamo=False,
            opset_version=18,
            input_names=names,
            dynamic_axes=dict(zip(names, axes, strict=True)),
        )
    session = open_session(place / "model.onnx", SessionOptions(threads=threads))
    read = {value.name for value in session.get_inputs()}

    def run(values: Sequence[Any]) -> list[Any]:
        feeds = {name: value for name, value in zip(names, values, strict=True) if name in read}
        outputs: list[Any] = session.run(None, feeds)
        return outputs

    return run
