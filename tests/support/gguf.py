"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from tests.support.causal import SIZES, SPECIAL, make
from tests.support.prompted import shake

#: GGUF's architecture of each kind of model.
ARCHITECTURES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}

#: A byte-level vocabulary of 96 tokens: special ones, printable characters, the space, and one pair.
TOKENS = ["<pad>", "<s>", "</s>", *(chr(code) for code in range(ord("!"), ord("|"))), "\u0120", "\u0120a"]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}:{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
VOCABULARY = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(TOKENS) - 3),
    "tokenizer.ggml.merges": ["\u0120 a"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.chat_template": TEMPLATE,
}


def tiny_model(kind: str) -> PreTrainedModel:
    """Return a random model; Qwen 2 without local layers, which GGUF does not have."""
    if kind != "qwen2":
        return make(kind)
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes, **SPECIAL)).eval()
    shake(model)
    return model


def write_model(
    path: Path,
    kind: str = "llama",
    *,
    model: PreTrainedModel | None = None,
    quantization: GGMLQuantizationType = GGMLQuantizationType.F32,
    changes: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    without: Sequence[str] = (),
) -> PreTrainedModel:
    """Write a random model with a small vocabulary, and return it.

    Args:
        path: the file.
        kind: a key of `ARCHITECTURES`.
        model: the model; None for `tiny_model`.
        quantization: type of the matrices.
        changes: metadata to add or replace; None for an entry to leave out.
        tensors: tensors to add or replace.
        without: names of tensors to leave out.
    """
    model = tiny_model(kind) if model is None else model
    entries = metadata(kind, model) | VOCABULARY | dict(changes or {})
    weights = {name: value for name, value in convert(kind, model).items() if name not in without} | dict(tensors or {})
    write(path, entries, weights, quantization)
    return model


def metadata(kind: str, model: PreTrainedModel) -> dict[str, Any]:
    """Return the entries that the converter writes for a model."""
    config, name = model.config, ARCHITECTURES[kind]
    own = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    if kind != "qwen2":
        own |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if kind == "llama":
        own["rope.freq_base"] = config.rope_parameters["rope_theta"]
    if getattr(config, "sliding_window", None):
        own["attention.sliding_window"] = config.sliding_window
    if kind == "gemma2":
        own |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if kind == "gemma3_text":
        own["attention.sliding_window_pattern"] = 2
    return {"general.architecture": name, **{f"{name}.{key}": value for key, value in own.items()}}


def convert(kind: str, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return a model's tensors under GGUF's names, as llama.cpp's converter makes them."""
    config, name = model.config, ARCHITECTURES[kind]
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    result = {}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, kind_ = key.rsplit(".", 1)
        values = tensor.float().numpy()
        if name == "llama" and module.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
            values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
        if name.startswith("gemma") and module.endswith("norm"):
            values = values + 1
        result[f"{names.get_name(module)}.{kind_}"] = np.ascontiguousarray(values)
    return result


def write(
    path: Path,
    entries: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray] | None = None,
    quantization: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:
    """Write a file of metadata and tensors; norms, biases and rows that fill no block are never quantized."""
    writer = GGUFWriter(path, str(entries["general.architecture"]))
    for key, value in entries.items():
        if key != "general.architecture" and value is not None:
            _add(writer, key, value)
    for name, values in (tensors or {}).items():
        fits = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[quantization][0] == 0
        kind = quantization if fits else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
