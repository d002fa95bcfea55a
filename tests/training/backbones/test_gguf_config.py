"""Configurations from GGUF metadata, and variants that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PretrainedConfig

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.gguf_config import MODEL_TYPES, read_config
from mpt_edge.training.backbones.gguf_file import GgufFile
from tests.support.checkpoints import assert_one_sentence
from tests.support.gguf import ARCHITECTURES, VOCABULARY, metadata, tiny_model, write


def config(path: Path, kind: str = "llama", tensors: dict[str, Any] | None = None, **changes: Any) -> PretrainedConfig:
    """Write a file without most weights, and read its configuration; dots are underscores in ``changes``."""
    entries = metadata(kind, tiny_model(kind)) | VOCABULARY | changes
    embedding = {"token_embd.weight": np.zeros((96, 32), np.float32)}
    return read_config(GgufFile.open(write(path / "a.gguf", entries, embedding | (tensors or {}))))


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_sizes(tmp_path: Path, kind: str) -> None:
    result, expected = config(tmp_path, kind), tiny_model(kind).config
    assert result.model_type == expected.model_type
    names = [
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "bos_token_id", "pad_token_id",
        "layer_types", "sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping", "rope_parameters",
    ]  # fmt: skip
    for name in names:
        assert getattr(result, name, None) == getattr(expected, name, None), name


def test_all_types_can_carry_a_prompt() -> None:
    assert set(MODEL_TYPES.values()) <= set(CAUSAL_ARCHITECTURES)


def test_every_token_that_ends_a_text(tmp_path: Path) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 2}
    assert config(tmp_path).eos_token_id == [2]
    assert config(tmp_path, **ends).eos_token_id == [2, 5]
    assert config(tmp_path, **{"tokenizer.ggml.eos_token_id": None}).eos_token_id is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"type": "none"}, {"rope_type": "default"}),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_rotary_positions(tmp_path: Path, stated: dict[str, Any], expected: dict[str, Any]) -> None:
    changes = {f"llama.rope.scaling.{name}": value for name, value in stated.items()}
    result = config(tmp_path, **changes, **{"llama.rope.freq_base": 100_000.0}).rope_parameters
    assert {name: result[name] for name in (*expected, "rope_theta")} == expected | {"rope_theta": 100_000.0}


def test_gemma_3_scales_the_positions_of_full_layers_alone(tmp_path: Path) -> None:
    changes = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    result = config(tmp_path, "gemma3_text", **changes).rope_parameters
    assert result["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
    assert result["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.mark.parametrize(("layers", "expected"), [(26, 128), (46, 144)])
def test_scores_of_the_largest_gemma_2(tmp_path: Path, layers: int, expected: int) -> None:
    sizes = {"embedding_length": 4608, "attention.head_count": 32, "attention.key_length": 128, "block_count": layers}
    changes = {f"gemma2.{name}": value for name, value in sizes.items()} | {"gemma2.attention.value_length": 128}
    assert config(tmp_path, "gemma2", **changes).query_pre_attn_scalar == expected


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"general.architecture": "mamba"}, "is a 'mamba' model, which is not read from GGUF; use one of gem"),
        ("llama", {"llama.expert_count": 8}, "is a mixture of experts"),
        ("llama", {"llama.rope.dimension_count": 4}, "rotates a part of each"),
        ("llama", {"llama.attention.value_length": 4}, "heads of several sizes"),
        ("qwen3", {"qwen3.attention.sliding_window": 4}, "has local layers, and GGUF does not state which"),
        ("llama", {"llama.rope.scaling.type": "longrope"}, "rotary positions of type 'longrope'"),
    ],
)
def test_variants_that_are_refused(tmp_path: Path, kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        config(tmp_path, kind, **changes)
    assert_one_sentence(caught.value, "a.gguf", message, "; use ")


def test_rotary_divisors_that_are_no_llama_s(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"scales rotary positions by rope_freqs\.weight as no Llama does"):
        config(tmp_path, tensors={"rope_freqs.weight": np.full(4, 3, np.float32)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.block_count": None}, "has no usable entry 'llama.block_count'"),
        ({"llama.attention.head_count": 0}, "describes no attention heads"),
        ({"llama.attention.head_count": [4, 4]}, "has no usable entry 'llama.attention.head_count'"),
        ({"llama.embedding_length": 33}, "describes no model"),
    ],
)
def test_damaged_metadata(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        config(tmp_path, **changes)
    assert_one_sentence(caught.value, message, "download the file again")


def test_file_without_an_embedding(tmp_path: Path) -> None:
    entries = metadata("llama", tiny_model("llama")) | VOCABULARY
    with pytest.raises(CorruptFileError, match=r"lacks token_embd\.weight"):
        read_config(GgufFile.open(write(tmp_path / "a.gguf", entries)))
