"""Prompt algebra against PEFT, and the shared prompt's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import MultitaskPromptTuningConfig, TaskType
from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding
from torch import nn

from mpt_edge.errors import CorruptFileError, MismatchError
from mpt_edge.formats import tensors
from mpt_edge.formats.linear_head import Activation, LinearHead, LinearLayer
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import FORMAT, MAX_PROMPT_BYTES, SharedPrompt, compose

STATED = {"format": FORMAT, "layout": "prefix", "prompt_position": "first_layer"}


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return tuple(rng.normal(1, 1, shape).astype(np.float32) for shape in [(7, 5), (7,), (5,)])


@pytest.fixture
def prompt() -> SharedPrompt:
    values = np.random.default_rng(2).standard_normal((7, 5)).astype(np.float16)
    return SharedPrompt("mpt", values, Placement(), "f" * 64, {"steps": 3, "data": ["a", "ü"]}, "cc-by-4.0")


def test_compose_is_the_outer_product(parts: tuple[np.ndarray, ...]) -> None:
    shared, u, v = parts
    composed = compose(shared, u, v)
    assert composed.dtype == np.float32
    np.testing.assert_allclose(composed, shared * np.outer(u, v), rtol=1e-6)
    np.testing.assert_allclose(composed, np.diag(u) @ shared @ np.diag(v), rtol=1e-5)


@pytest.mark.parametrize("task", [0, 2])
def test_compose_is_what_peft_computes(parts: tuple[np.ndarray, ...], task: int) -> None:
    shared, u, v = parts
    config = MultitaskPromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_tasks=3, num_ranks=1, num_virtual_tokens=7, token_dim=5, num_layers=1,
        num_attention_heads=1, num_transformer_submodules=1,
    )  # fmt: skip
    embedding = MultitaskPromptEmbedding(config, nn.Embedding(11, 5))
    assert embedding.prefix_task_cols.shape == (3, 7, 1)
    assert embedding.prefix_task_rows.shape == (3, 1, 5)
    with torch.no_grad():
        embedding.embedding.weight.copy_(torch.from_numpy(shared))
        embedding.prefix_task_cols[task, :, 0] = torch.from_numpy(u)
        embedding.prefix_task_rows[task, 0] = torch.from_numpy(v)
        expected = embedding(torch.arange(7)[None], torch.tensor([task]))[0].numpy()
    np.testing.assert_allclose(compose(shared, u, v), expected, rtol=1e-5, atol=1e-6)


def test_compose_multiplies_half_precision_in_single() -> None:
    big = np.full((1, 1), 60000, np.float16)
    assert compose(big, np.full(1, 2, np.float16), np.full(1, 3, np.float16))[0, 0] == big[0, 0].astype(np.float32) * 6


@pytest.mark.parametrize(
    ("shared", "u", "v"), [((4, 3), (3,), (3,)), ((4, 3), (4,), (4,)), ((4, 3), (4, 1), (3,)), ((4,), (4,), (4,))]
)
def test_compose_of_shapes_that_do_not_fit(shared: tuple[int, ...], u: tuple[int, ...], v: tuple[int, ...]) -> None:
    with pytest.raises(MismatchError, match="do not fit a shared prompt"):
        compose(np.ones(shared, np.float32), np.ones(u, np.float32), np.ones(v, np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_round_trip(prompt: SharedPrompt, tmp_path: Path, dtype: type) -> None:
    placement = Placement(Layout.JOINT, PromptPosition.EMBEDDINGS)
    prompt = replace(prompt, values=prompt.values.astype(dtype), placement=placement)
    file = tmp_path / "prompts" / "mpt.safetensors"
    prompt.save(file)
    loaded = SharedPrompt.load(file)
    assert loaded.values.dtype == dtype
    np.testing.assert_array_equal(loaded.values, prompt.values)
    assert replace(loaded, values=prompt.values) == prompt
    assert loaded.fingerprint == prompt.fingerprint
    assert [f.name for f in file.parent.iterdir()] == [file.name]  # nothing temporary is left


def test_fingerprint_follows_values_shape_and_type(prompt: SharedPrompt) -> None:
    changed = prompt.values.copy()
    changed[3, 2] += 1
    others = [changed, prompt.values.reshape(5, 7), prompt.values.astype(np.float32)]
    prints = {replace(prompt, values=values).fingerprint for values in [prompt.values, *others]}
    assert len(prints) == 4
    assert replace(prompt, name="other", training={}).fingerprint == prompt.fingerprint


@pytest.mark.parametrize(
    ("arrays", "entries"),
    [
        ({"prompt": np.ones((2, 2), np.float32)}, {"layout": "sideways"}),
        ({"prompt": np.ones((2, 2), np.float32)}, {"layout": None}),
        ({"prompt": np.ones((2, 2), np.float32)}, {"prompt_position": "elsewhere"}),
        ({"prompt": np.ones((2, 2), np.float32)}, {"prompt_position": "all_layers"}),
        ({"prompt": np.ones((2, 2, 2), np.float32)}, {}),
        ({"prompt": np.ones((2, 2, 2), np.float32)}, {"layout": "joint", "prompt_position": "all_layers"}),
        ({"prompt": np.ones(2, np.float32)}, {}),
        ({"other": np.ones((2, 2), np.float32)}, {}),
        ({"prompt": np.ones((2, 2), np.float32), "more": np.ones(2, np.float32)}, {}),
    ],
    ids=[
        "layout",
        "no layout",
        "position",
        "too few axes",
        "too many axes",
        "no placement",
        "one axis",
        "no prompt",
        "two tensors",
    ],
)
def test_file_that_is_no_prompt(arrays: dict[str, np.ndarray], entries: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    tensors.write(file, arrays, STATED | entries)
    with pytest.raises(CorruptFileError, match=r"x\.safetensors is not a prompt file"):
        SharedPrompt.load(file)


@pytest.mark.parametrize("entries", [{}, {"format": "mpt-edge prompt 2"}])
def test_a_file_of_another_version_is_refused(entries: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    tensors.write(file, {"prompt": np.ones((2, 2), np.float32)}, {**STATED, "format": None, **entries})
    with pytest.raises(CorruptFileError, match=r"this version reads .*expected 'mpt-edge prompt 1'"):
        SharedPrompt.load(file)


def test_training_that_is_no_object(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    tensors.write(file, {"prompt": np.ones((2, 2), np.float32)}, {**STATED, "training": [1]})
    with pytest.raises(CorruptFileError, match="'training' is not a JSON dict"):
        SharedPrompt.load(file)


def test_oversized_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with file.open("wb") as stream:
        stream.truncate(MAX_PROMPT_BYTES + 1)
    with pytest.raises(CorruptFileError, match="more than the 67,108,864"):
        SharedPrompt.load(file)


def test_the_head_of_all_tasks_of_a_prompt(prompt: SharedPrompt, tmp_path: Path) -> None:
    """The fingerprint covers it, so no task is answered by another head than its own."""
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5), (4,), (2, 4), (2,))]
    head = LinearHead((LinearLayer(weights[0], weights[1], Activation.TANH), LinearLayer(weights[2], weights[3])))
    headed = replace(prompt, head=head)
    headed.save(tmp_path / "p.safetensors")
    result = SharedPrompt.load(tmp_path / "p.safetensors")
    assert result.head is not None
    states = rng.standard_normal((3, 5)).astype(np.float32)
    expected = np.tanh(states @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    np.testing.assert_allclose(result.head(states), expected, rtol=1e-5)
    assert result.fingerprint == headed.fingerprint != prompt.fingerprint
    other = LinearHead((head.layers[0], LinearLayer(weights[2], weights[3] + 1)))
    assert replace(prompt, head=other).fingerprint != headed.fingerprint
    replace(prompt, values=prompt.values[:, :3], head=head).save(tmp_path / "p.safetensors")
    with pytest.raises(CorruptFileError, match="layer 0 of its head cannot be used"):
        SharedPrompt.load(tmp_path / "p.safetensors")
