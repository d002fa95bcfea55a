"""What `generation.py` compares with: a stock ONNX export without a prompt, CTranslate2, and transformers itself.

Each `Writer` reads token ids and writes a given number of tokens greedily, without ever ending early.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

#: From how many tokens to write to the tokens.
Writer = Callable[[int], list[int]]

_AUTO = torch.export.Dim.AUTO

#: Architectures that `torch.onnx.export` takes as transformers has them; what happened with others.
_EXPORTS = ("gemma", "gemma2", "gpt2", "llama", "mistral", "qwen2", "qwen3")
_FAILURES = {
    "gpt_neo": "torch.export did not come to an end within three minutes",
    "t5": "ours wrote other tokens than transformers and was left out",
}


def transformers_writer(model: PreTrainedModel, rows: Tensor) -> Writer:
    """Write with transformers' own `generate` behind embeddings ``(1, rows, d)``, as PEFT feeds prompt and text."""
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    ones = torch.ones(rows.shape[:2], dtype=torch.long)

    @torch.no_grad()
    def write(count: int) -> list[int]:
        found = model.generate(  # type: ignore[operator]
            inputs_embeds=rows, attention_mask=ones, max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        return [int(token) for token in found[0, -count:]]

    return write


def ctranslate2_writer(folder: Path, place: Path, tokens: Sequence[str], kind: str, threads: int) -> Writer:
    """Write with CTranslate2 in ``"float32"`` or ``"int8"``; ``place`` is a folder for its model.

    Raises:
        ImportError: it is not installed.
        ValueError: it knows no such architecture.
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


class _Causal(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=_filled(past), use_cache=True)
        return out.logits, *_flat(out.past_key_values)


def stock_causal(model: PreTrainedModel, ids: Sequence[int], place: Path, threads: int) -> Writer:
    """Write with a plain export of a decoder-only model and its cache.

    Raises:
        ValueError: exporting this architecture so has been tried, and failed.
    """
    kind = model.config.model_type
    if kind not in _EXPORTS:
        raise ValueError(_FAILURES.get(kind, f"{kind} was not tried"))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        shape = model(torch.ones(1, 1, dtype=torch.long), use_cache=True).past_key_values.layers[0].keys.shape
        layers = len(model(torch.ones(1, 1, dtype=torch.long), use_cache=True).past_key_values.layers)
    heads, size = int(shape[1]), int(shape[3])
    past = [torch.zeros(2, heads, 4, size) for _ in range(2 * layers)]
    axes = {0: _AUTO, 1: _AUTO}
    arguments = (torch.ones(2, 3, dtype=torch.long), torch.ones(2, 7, dtype=torch.long), *past)
    session = _export(_Causal(model), arguments, (axes, axes, ({0: _AUTO, 2: _AUTO},) * len(past)), place, threads)

    def write(count: int) -> list[int]:
        given, found = np.array([ids]), list[int]()
        cache = [np.zeros((1, heads, 0, size), np.float32)] * len(past)
        mask = np.ones_like(given)
        while len(found) < count:
            logits, *cache = session([given, mask, *cache])
            found.append(int(logits[0, -1].argmax()))
            given, mask = np.array([[found[-1]]]), np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        return found

    return write


def _filled(past: Sequence[Tensor]) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _flat(cache: DynamicCache) -> list[Tensor]:
    return [part for layer in cache.layers for part in (layer.keys, layer.values)]


def _export(
    module: nn.Module, arguments: tuple[Any, ...], shapes: tuple[Any, ...], place: Path, threads: int
) -> Callable[[Sequence[Any]], list[Any]]:
    """Export a module, load it, and return what runs it on its inputs in order; unread inputs are left out."""
    place.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), arguments, dynamo=True, opset_version=20, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    program.save(place / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(place / "model.onnx", options)
    names = [value.name for value in session.get_inputs()]
    every = [value.name for value in program.model.graph.inputs]

    def run(values: Sequence[Any]) -> list[Any]:
        feeds = {name: value for name, value in zip(every, values, strict=True) if name in names}
        found: list[Any] = session.run(None, feeds)
        return found

    return run
