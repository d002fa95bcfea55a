"""A configuration of transformers from a GGUF file's metadata.

transformers reads these files, too, but leaves settings at the defaults of one checkpoint: the size
of Qwen 3's heads, Gemma's scaling of scores, Llama 3's rotary positions, and attention biases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from transformers import AutoConfig, PretrainedConfig

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.gguf_file import GgufFile
from mpt_edge.training.backbones.weights import reason

#: Types of transformers by GGUF's names of architectures. Mistral's files are of the type ``llama``.
MODEL_TYPES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}

#: Factors of Llama 3's rotary positions, and the tensor that holds their result.
_LLAMA3_FACTORS, _LLAMA3_TENSOR = (8.0, 32.0), "rope_freqs.weight"

#: Gemmas of 27B, by architecture and layers. They scale scores by the width per head instead of the head's size.
_SCALED_BY_WIDTH = {("gemma2", 46), ("gemma3", 62)}

#: Tokens that end a text: of a document, of a turn, and of a message.
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_config(file: GgufFile) -> PretrainedConfig:
    """Return the configuration of the model in a file.

    Raises:
        UnsupportedModelError: its architecture, or a variant of it, is not supported.
        CorruptFileError: an entry is missing or impossible.
    """
    if file.architecture not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"{file.path} is a {file.architecture!r} model, which is not read from GGUF; use one of "
            f"{', '.join(MODEL_TYPES)}, or the folder of the model that it was made from."
        )
    for problem in _variants(file):
        raise UnsupportedModelError(f"{file.path} {problem}; use the folder of the model that it was made from.")
    entries = _sizes(file) | _tokens(file) | {"rope_parameters": _rope(file)} | _family(file)
    kind = entries.pop("model_type", MODEL_TYPES[file.architecture])
    try:
        config: PretrainedConfig = AutoConfig.for_model(kind, **entries)
    except Exception as error:  # transformers checks each entry in its own way
        raise CorruptFileError(f"{file.path} describes no model ({reason(error)}); download the file again.") from error
    return config


def _variants(file: GgufFile) -> Iterator[str]:
    """Yield variants of an architecture that would be read wrongly, each as the end of a sentence."""
    if file.own("expert_count", int, 0):
        yield "is a mixture of experts, which cannot carry a prompt"
    size = _head_size(file)
    if file.own("rope.dimension_count", int, size) != size or file.own("attention.value_length", int, size) != size:
        yield "has heads of several sizes, or rotates a part of each, which is not supported"
    if file.architecture.startswith("qwen") and file.has("attention.sliding_window"):
        yield "has local layers, and GGUF does not state which"


def _sizes(file: GgufFile) -> dict[str, Any]:
    """Return sizes, and whether the output matrix is the embedding's."""
    if "token_embd.weight" not in file.tensors:
        raise CorruptFileError(f"{file.path} lacks token_embd.weight; download the file again.")
    heads = file.own("attention.head_count", int)
    return {
        "vocab_size": int(file.tensors["token_embd.weight"].shape[-1]),
        "hidden_size": file.own("embedding_length", int),
        "intermediate_size": file.own("feed_forward_length", int),
        "num_hidden_layers": file.own("block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": file.own("attention.head_count_kv", int, heads),
        "head_dim": _head_size(file),
        "max_position_embeddings": file.own("context_length", int),
        "rms_norm_eps": file.own("attention.layer_norm_rms_epsilon", float),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _head_size(file: GgufFile) -> int:
    heads, width = file.own("attention.head_count", int), file.own("embedding_length", int)
    if heads < 1 or width < heads:
        raise CorruptFileError(f"{file.path} describes no attention heads; download the file again.")
    return file.own("attention.key_length", int, width // heads)


def _tokens(file: GgufFile) -> dict[str, Any]:
    """Return special tokens; all that end a text are in ``eos_token_id``."""
    ends = [file.value(f"tokenizer.ggml.{name}", int, -1) for name in _END_TOKENS]
    return {
        "eos_token_id": [token for token in dict.fromkeys(ends) if token >= 0] or None,
        "bos_token_id": _token(file, "bos_token_id"),
        "pad_token_id": _token(file, "padding_token_id"),
    }


def _token(file: GgufFile, name: str) -> int | None:
    token = file.value(f"tokenizer.ggml.{name}", int, -1)
    return None if token < 0 else token


def _rope(file: GgufFile) -> dict[str, Any]:
    """Return the rotary positions. Raises UnsupportedModelError for a type that is not supported."""
    base = {"rope_theta": file.own("rope.freq_base", float, 10_000.0)}
    kind = file.own("rope.scaling.type", str, "none")
    if _LLAMA3_TENSOR in file.tensors:
        return base | _llama3(file, base["rope_theta"])
    if kind == "none":
        return base | {"rope_type": "default"}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(
            f"{file.path} has rotary positions of type {kind!r}, which is not read from GGUF; use a model without."
        )
    scaling = base | {"rope_type": kind, "factor": file.own("rope.scaling.factor", float)}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = file.own("rope.scaling.original_context_length", int)
    return scaling


def _llama3(file: GgufFile, theta: float) -> dict[str, Any]:
    """Return Llama 3's rotary positions; a file has their result alone.

    Raises:
        UnsupportedModelError: they are none that Llama was released with.
    """
    stated, size = file.weights(_LLAMA3_TENSOR), _head_size(file)
    for factor in _LLAMA3_FACTORS:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        if np.allclose(stated, _llama3_divisors(scaling, theta, size), rtol=1e-4):
            return scaling
    raise UnsupportedModelError(
        f"{file.path} scales rotary positions by {_LLAMA3_TENSOR} as no Llama does; use the folder of the model that "
        "it was made from."
    )


def _llama3_divisors(scaling: Mapping[str, Any], theta: float, size: int) -> list[float]:
    """Return by how much each rotary frequency is divided: by 1 up to the factor, from high to low."""
    result = []
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    for index in range(0, size, 2):
        turns = scaling["original_max_position_embeddings"] / (2 * math.pi * theta ** (index / size))
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        result.append(1 / ((1 - share) / factor + share))
    return result


def _family(file: GgufFile) -> dict[str, Any]:
    """Return what only one family has."""
    if file.architecture == "llama":
        biases = {
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        }
        window = file.own("attention.sliding_window", int, 0)
        return {"model_type": "mistral", "sliding_window": window} if window else biases
    if file.architecture == "qwen3":
        return {"attention_bias": "blk.0.attn_q.bias" in file.tensors}
    if file.architecture not in ("gemma2", "gemma3"):
        return {}
    heads, layers = file.own("attention.head_count", int), file.own("block_count", int)
    by_width = (file.architecture, layers) in _SCALED_BY_WIDTH
    size = file.own("embedding_length", int) // heads if by_width else _head_size(file)
    caps = {
        name: file.own(name, float) for name in ("attn_logit_softcapping", "final_logit_softcapping") if file.has(name)
    }
    shared = caps | {"query_pre_attn_scalar": size, "sliding_window": file.own("attention.sliding_window", int, 4096)}
    return shared | _gemma3(file, layers) if file.architecture == "gemma3" else shared


def _gemma3(file: GgufFile, layers: int) -> dict[str, Any]:
    """Return Gemma 3's types of layers, and their rotary positions."""
    pattern = file.own("attention.sliding_window_pattern", int, 6)
    local = {"rope_type": "default", "rope_theta": file.own("rope.freq_base_swa", float, 10_000.0)}
    full = _rope(file) | {"rope_theta": file.own("rope.freq_base", float, 1_000_000.0)}
    return {
        "layer_types": [
            "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)
        ],
        "rope_parameters": {"sliding_attention": local, "full_attention": full},
    }
