"""Metadata and weights of GGUF files, and damaged ones."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from mpt_edge.errors import CorruptFileError, MissingExtraError, UnsupportedModelError
from mpt_edge.training.backbones.gguf_file import GgufFile
from tests.support.checkpoints import assert_one_sentence
from tests.support.gguf import TOKENS, write, write_model

MATRIX = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_model(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_entries(path: Path) -> None:
    file = GgufFile.open(path)
    assert (file.architecture, file.own("block_count", int)) == ("llama", 2)
    assert file.own("attention.layer_norm_rms_epsilon", float) == 1e-6  # as written, not as 32 bits round it
    assert (file.has("block_count"), file.has("expert_count"), file.own("expert_count", int, 3)) == (True, False, 3)
    assert file.values("tokenizer.ggml.tokens", str) == TOKENS
    assert file.values("no.such", str) == []


@pytest.mark.parametrize(("key", "kind"), [("no.such", int), ("llama.block_count", str)])
def test_entry_that_is_missing_or_of_another_type(path: Path, key: str, kind: type) -> None:
    with pytest.raises(CorruptFileError, match=f"no usable entry '{key}'"):
        GgufFile.open(path).value(key, kind)


@pytest.mark.parametrize("key", ["llama.block_count", "tokenizer.ggml.token_type"])
def test_list_of_another_type(path: Path, key: str) -> None:
    with pytest.raises(CorruptFileError, match=f"no usable entry '{key}'"):
        GgufFile.open(path).values(key, str)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_weights_of_each_type(tmp_path: Path, kind: str) -> None:
    quantization = GGMLQuantizationType[kind]
    write(tmp_path / "a.gguf", {"general.architecture": "llama"}, {"x.weight": MATRIX}, quantization)
    values = GgufFile.open(tmp_path / "a.gguf").weights("x.weight")
    assert (values.shape, values.dtype) == ((4, 64), np.float32)
    np.testing.assert_array_equal(values, gguf.dequantize(gguf.quantize(MATRIX, quantization), quantization))
    assert np.abs(values - MATRIX).max() < 0.3


def test_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(CorruptFileError) as caught:
        GgufFile.open(tmp_path / "a.gguf")
    assert_one_sentence(caught.value, "a.gguf is no GGUF file", "pass a .gguf file")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 0.999])
def test_file_that_is_cut_short(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: max(4, int(share * len(data)))])
    with pytest.raises(CorruptFileError) as caught:
        GgufFile.open(path)
    assert_one_sentence(caught.value, "is damaged or cut short", "download the file again")


def test_type_of_weights_that_is_unknown(path: Path) -> None:
    data = bytearray(path.read_bytes())
    name = data.index(b"output_norm.weight") + len(b"output_norm.weight")
    data[name + 12 : name + 16] = (9999).to_bytes(4, "little")  # after the number of dimensions and the only one
    path.write_bytes(data)
    with pytest.raises(UnsupportedModelError) as caught:
        GgufFile.open(path)
    assert_one_sentence(caught.value, "9999", "another quantization, such as Q8_0")


def test_type_of_weights_that_cannot_be_converted(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", {"general.architecture": "llama"}, {"x.weight": MATRIX})
    file = GgufFile.open(tmp_path / "a.gguf")
    tensor = file.tensors["x.weight"]._replace(tensor_type=GGMLQuantizationType.I8)
    with pytest.raises(UnsupportedModelError) as caught:
        GgufFile(file.path, file.entries, {"x.weight": tensor}).weights("x.weight")
    assert_one_sentence(caught.value, "weights of the type I8", "another quantization")


def test_one_part_of_several(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", {"general.architecture": "llama", "split.count": 3})
    with pytest.raises(UnsupportedModelError) as caught:
        GgufFile.open(tmp_path / "a.gguf")
    assert_one_sentence(caught.value, "one of 3 parts", "llama-gguf-split --merge")


def test_missing_package(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else sys)
    with pytest.raises(MissingExtraError, match=r"gguf is not installed; run: pip install 'mpt-edge\[torch\]'"):
        GgufFile.open(path)
