"""Models from GGUF files against the models that they were written from, and against transformers' reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.gguf_config import read_config
from mpt_edge.training.backbones.gguf_file import GgufFile
from mpt_edge.training.backbones.gguf_weights import read_gguf_model
from tests.support.causal import SIZES, SPECIAL, inputs
from tests.support.checkpoints import assert_one_sentence
from tests.support.gguf import ARCHITECTURES, write_model
from tests.support.prompted import shake


def read(path: Path) -> PreTrainedModel:
    file = GgufFile.open(path)
    return read_gguf_model(file, read_config(file))


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(inputs()[0]).logits


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_the_model_that_was_written(tmp_path: Path, kind: str) -> None:
    original = write_model(tmp_path / "a.gguf", kind)
    model = read(tmp_path / "a.gguf")
    assert type(model) is type(original)
    assert model.dtype is torch.float32
    torch.testing.assert_close(logits(model), logits(original), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [{"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_variants_of_llama(tmp_path: Path, extra: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **SPECIAL, **extra)
    model = AutoModelForCausalLM.from_config(config).eval()
    shake(model)
    write_model(tmp_path / "a.gguf", model=model)
    torch.testing.assert_close(logits(read(tmp_path / "a.gguf")), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_quantized_matrices_as_transformers_reads_them(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path / "a.gguf", quantization=GGMLQuantizationType[kind])
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32)
    values, expected = read(tmp_path / "a.gguf").state_dict(), reference.state_dict()
    assert values.keys() == expected.keys()
    assert all(torch.equal(values[name], expected[name]) for name in values)


def test_llama_3_s_rotary_positions(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(**(SIZES | {"head_dim": 16, "max_position_embeddings": 131_072}), **SPECIAL)
    config.rope_parameters = rope
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    plain = 500_000.0 ** -(torch.arange(0, 16, 2) / 16)
    divisors = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert (divisors[0], divisors[-1]) == (1, 32)
    write_model(tmp_path / "a.gguf", model=model, tensors={"rope_freqs.weight": divisors})
    result = read(tmp_path / "a.gguf")
    torch.testing.assert_close(result.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    torch.testing.assert_close(logits(result), logits(model), rtol=1e-5, atol=1e-5)


def test_weights_can_be_trained(tmp_path: Path) -> None:
    # Mapped ones would be read-only, or change the file.
    write_model(tmp_path / "a.gguf")
    data = (tmp_path / "a.gguf").read_bytes()
    model = read(tmp_path / "a.gguf")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (tmp_path / "a.gguf").read_bytes() == data


def test_missing_weight(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf", without=["blk.1.ffn_up.weight"])
    with pytest.raises(CorruptFileError) as caught:
        read(tmp_path / "a.gguf")
    assert_one_sentence(caught.value, "a.gguf lack model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("shape", [(48, 16), (40, 32)])
def test_weight_of_another_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    write_model(tmp_path / "a.gguf", tensors={"blk.0.ffn_up.weight": np.zeros(shape, np.float32)})
    with pytest.raises(CorruptFileError) as caught:
        read(tmp_path / "a.gguf")
    assert_one_sentence(caught.value, "another shape", "model.layers.0.mlp.up_proj.weight")


@pytest.mark.parametrize("rows", [30, 31])
def test_heads_of_another_size(tmp_path: Path, rows: int) -> None:
    write_model(tmp_path / "a.gguf", tensors={"blk.0.attn_q.weight": np.zeros((rows, 32), np.float32)})
    with pytest.raises(CorruptFileError, match=r"another shape .* model\.layers\.0\.self_attn\.q_proj\.weight"):
        read(tmp_path / "a.gguf")


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "blk.0.ffn_up_exps.weight", "v.blk.0.norm.weight", "x"])
def test_tensor_that_the_architecture_has_not(tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "a.gguf", tensors={name: np.ones(32, np.float32)})
    with pytest.raises(UnsupportedModelError) as caught:
        read(tmp_path / "a.gguf")
    assert_one_sentence(caught.value, repr(name), "no supported 'llama' model has")


def test_reference_quantizes(tmp_path: Path) -> None:
    # The comparison with transformers would prove nothing if the file held the original values.
    original = write_model(tmp_path / "a.gguf", quantization=GGMLQuantizationType.Q4_1)
    difference = read(tmp_path / "a.gguf").model.norm.weight - original.model.norm.weight
    assert not difference.any()
    quantized = read(tmp_path / "a.gguf").model.layers[0].mlp.up_proj.weight
    assert (quantized - original.model.layers[0].mlp.up_proj.weight).abs().max() > 1e-3
