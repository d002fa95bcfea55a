"""The exported encoder in ONNX Runtime against PyTorch: three calls, dynamic axes, weights stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel, RobertaConfig

from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.training.backbones.attention import KeyValue
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.encoders import save_tokenizer

TOLERANCE = 1e-4
NAMES = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]


@dataclass(frozen=True)
class Exported:
    """A graph with its PyTorch counterparts."""

    path: Path
    encoder: PromptedEncoder
    model: PreTrainedModel
    session: onnxruntime.InferenceSession
    heads: int

    def run(self, outputs: Sequence[str] | None, **feeds: np.ndarray) -> list[np.ndarray]:
        names = {given.name for given in self.session.get_inputs()}
        empty = np.zeros((1, self.heads, 0, self.encoder.hidden_size // self.heads), np.float32)
        past = {f"past_key_values.{name}": empty for name in NAMES}
        return self.session.run(outputs, {key: value for key, value in (past | feeds).items() if key in names})


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a RoBERTa whose weights are mostly in its layers, and a bundle of it without vectors."""
    root = tmp_path_factory.mktemp("roberta")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=100,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=50,
        type_vocab_size=1,
        pad_token_id=0,
        initializer_range=0.1,
    )
    AutoModel.from_config(config).save_pretrained(root / "model")
    save_tokenizer(root / "model")
    export_bundle(ExportPlan(load_encoder(str(root / "model")), [], root / "bundle"))
    return root


@pytest.fixture(scope="module", params=["bert", "roberta"])
def exported(request: pytest.FixtureRequest, tiny: EncoderBackbone) -> Exported:
    if request.param == "bert":
        source, path = tiny.folder, request.getfixturevalue("tiny_bundle") / MODEL
        encoder = tiny.model
    else:
        root = request.getfixturevalue("roberta")
        source, path = root / "model", root / "bundle" / MODEL
        encoder = load_encoder(str(source)).model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Exported(path, encoder, AutoModel.from_pretrained(source).eval(), session, heads=4)


def texts(batch: int, length: int, encoder: PromptedEncoder) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch * 100 + length)
    ids = rng.integers(5, 100, (batch, length))
    mask = (np.arange(length)[None, :] < rng.integers(1, length + 1, batch)[:, None]).astype(np.int64)
    types = rng.integers(0, 2, (batch, length)) if encoder.token_types else np.zeros_like(mask)
    return {"input_ids": np.where(mask == 1, ids, 0), "attention_mask": mask, "token_type_ids": types}


def prompts(batch: int, length: int, width: int) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((batch, length, width)).astype(np.float32)


def tensors(given: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(given[name]) for name in ("input_ids", "attention_mask", "token_type_ids")]


def assert_close(result: np.ndarray, expected: torch.Tensor) -> None:
    assert result.shape == tuple(expected.shape)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, expected.numpy(), atol=TOLERANCE, rtol=0)


def with_prompt(given: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    return given | {"attention_mask": np.pad(given["attention_mask"], ((0, 0), (length, 0)), constant_values=1)}


def cached(past: list[KeyValue]) -> dict[str, np.ndarray]:
    flat = [tensor.numpy() for pair in past for tensor in pair]
    return {f"past_key_values.{name}": value for name, value in zip(NAMES, flat, strict=bool(flat))}


def no_prompt(batch: int, encoder: PromptedEncoder) -> np.ndarray:
    return np.zeros((batch, 0, encoder.hidden_size), np.float32)


@torch.no_grad()
def test_names_are_those_of_hugging_face_and_optimum(exported: Exported) -> None:
    types = ["token_type_ids"] if exported.encoder.token_types else []
    inputs = ["input_ids", "attention_mask", *types, "prompt", *(f"past_key_values.{name}" for name in NAMES)]
    assert [given.name for given in exported.session.get_inputs()] == inputs
    outputs = ["last_hidden_state", *(f"present.{name}" for name in NAMES)]
    assert [given.name for given in exported.session.get_outputs()] == outputs
    for given in exported.session.get_inputs():
        fixed = {"prompt": {2}}.get(given.name, {1, 3} if given.name.startswith("past") else set())
        assert {axis for axis, size in enumerate(given.shape) if isinstance(size, int)} == fixed


@pytest.mark.parametrize("length", [1, 6, 11])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_encode_prompt(exported: Exported, batch: int, length: int) -> None:
    prompt = prompts(batch, length, exported.encoder.hidden_size)
    no_text = np.zeros((batch, 0), np.int64)
    result = exported.run(
        [f"present.{name}" for name in NAMES],
        input_ids=no_text,
        attention_mask=np.ones((batch, length), np.int64),
        token_type_ids=no_text,
        prompt=prompt,
    )
    expected = [tensor for pair in exported.encoder.encode_prompt(torch.from_numpy(prompt)) for tensor in pair]
    for array, tensor in zip(result, expected, strict=True):
        assert_close(array, tensor)


@pytest.mark.parametrize("length", [0, 1, 6, 11])
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("batch", [1, 2, 5])
@torch.no_grad()
def test_request(exported: Exported, batch: int, tokens: int, length: int) -> None:
    given = texts(batch, tokens, exported.encoder)
    text = given["attention_mask"] == 1
    for caches in {1, batch}:
        prompt = torch.from_numpy(prompts(caches, length, exported.encoder.hidden_size))
        past = exported.encoder.encode_prompt(prompt) if length else None
        feeds = with_prompt(given, length)
        expected, _ = exported.encoder(*tensors(feeds), past=past)
        (result,) = exported.run(
            ["last_hidden_state"], **feeds, **cached(past or []), prompt=no_prompt(batch, exported.encoder)
        )
        assert_close(result[text], expected[text])


@pytest.mark.parametrize("length", [0, 1, 6, 11])
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("batch", [1, 2, 5])
@torch.no_grad()
def test_joint_request(exported: Exported, batch: int, tokens: int, length: int) -> None:
    given = with_prompt(texts(batch, tokens, exported.encoder), length)
    prompt = prompts(batch, length, exported.encoder.hidden_size)
    (result,) = exported.run(["last_hidden_state"], **given, prompt=prompt)
    expected, _ = exported.encoder(*tensors(given), prompt=torch.from_numpy(prompt))
    visible = given["attention_mask"] == 1
    assert_close(result[visible], expected[visible])


@torch.no_grad()
def test_without_a_prompt_it_is_the_transformers_model(exported: Exported) -> None:
    given = texts(5, 9, exported.encoder)
    (result,) = exported.run(["last_hidden_state"], **given, prompt=no_prompt(5, exported.encoder))
    ids, mask, types = tensors(given)
    expected = exported.model(
        input_ids=ids, attention_mask=mask, **({"token_type_ids": types} if exported.encoder.token_types else {})
    ).last_hidden_state
    assert_close(result[given["attention_mask"] == 1], expected[mask == 1])


@torch.no_grad()
def test_cached_prompt_and_further_rows_in_one_call(exported: Exported) -> None:
    given = with_prompt(texts(2, 9, exported.encoder), 7)
    past = exported.encoder.encode_prompt(torch.from_numpy(prompts(1, 4, exported.encoder.hidden_size)))
    prompt = prompts(2, 3, exported.encoder.hidden_size)
    result = exported.run(None, **given, **cached(past), prompt=prompt)
    hidden, present = exported.encoder(*tensors(given), prompt=torch.from_numpy(prompt), past=past)
    visible = functional.pad(torch.from_numpy(given["attention_mask"])[:, 7:], (3, 0), value=1) == 1
    assert_close(result[0][visible.numpy()], hidden[visible])
    assert [array.shape for array in result[1:]] == [tuple(t.shape) for pair in present for t in pair]


def test_weights_are_stored_once(exported: Exported) -> None:
    weights = {k: v for k, v in exported.encoder.model.state_dict().items() if not k.startswith("pooler.")}
    count = sum(value.numel() for value in weights.values() if value.is_floating_point())
    large = [t for t in onnx.load(exported.path).graph.initializer if np.prod(t.dims) > 64]
    stored = sum(int(np.prod(t.dims)) for t in large)
    assert stored <= 1.02 * count
    assert stored >= 0.9 * count
    digests = [hashlib.sha256(onnx.numpy_helper.to_array(t).tobytes()).digest() for t in large if len(t.dims) == 2]
    assert len(set(digests)) == len(digests)
    assert {path.name for path in exported.path.parent.iterdir()} == {"model.onnx", "model.onnx_data"}
    assert exported.path.with_name("model.onnx_data").stat().st_size < 1.2 * 4 * count
    assert exported.path.stat().st_size < 500_000  # nodes alone
