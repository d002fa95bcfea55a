"""The exported decoder-only graph in ONNX Runtime against the unchanged transformers model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.graph_names import PAST_LENGTH
from mpt_edge.inference.runtime.kv_cache import BLOCK
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge_export import bundle
from mpt_edge_export.dimensions import causal_dimensions
from tests.support.causal import CONFIGS, build, inputs, reference
from tests.support.manifests import facts, graph_manifest

#: Its scores are capped, which the operator computes differently in other versions of ONNX Runtime.
CAPPED = "gemma2"
FIRST = PromptPosition.FIRST_LAYER
ONE_THREAD = SessionOptions(threads=1)
Exported = tuple[PreTrainedModel, bool, OnnxCausal]
Export = Callable[[str], tuple[PreTrainedModel, Path, Manifest]]


def export(kind: str, folder: Path) -> tuple[PreTrainedModel, Path, Manifest]:
    """Export a tiny model; return transformers' own, the graph, and its manifest."""
    plain, prompted = build(kind)
    size, path = causal_dimensions(prompted), folder / "model.onnx"
    bundle.export_causal_graph(prompted, size, FIRST, path)
    return plain, path, graph_manifest(size, generation=facts(positions_from_zero=prompted.positions_from_zero(FIRST)))


@pytest.fixture(scope="module")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return `export`, which makes each graph once. Do not change it; copy it."""
    return cache(lambda kind: export(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def exported(request: pytest.FixtureRequest, export_once: Export) -> Exported:
    plain, path, manifest = export_once(request.param)
    assert manifest.generation is not None
    return plain, manifest.generation.positions_from_zero, OnnxCausal(path, manifest, ONE_THREAD)


def test_every_call(exported: Exported) -> None:
    """Prompt once, a padded batch under it, more tokens, rows taken out and repeated: logits to 1e-4."""
    plain, from_zero, model = exported
    ids, mask, prompt = inputs()
    cache = model.encode_prompt(prompt.numpy())
    assert next(iter(cache.values())).shape[:1] == (1,)
    state, first = model.open(Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids)), [cache])
    texts = [ids[i, : int(n)] for i, n in enumerate(mask.sum(1))]

    def expected(text: torch.Tensor) -> np.ndarray:
        return reference(plain, text, prompt, from_zero=from_zero).numpy()

    for row, text in zip(first, texts, strict=True):
        assert np.abs(row - expected(text)[-1]).max() < 1e-4
    state.select(np.array([1, 0, 1]))
    texts = [texts[1], texts[0], texts[1]]
    more = np.array([[7, 9], [11, 0], [13, 5]])
    more_mask = np.array([[1, 1], [1, 0], [1, 1]])
    result = state.extend(more, more_mask)
    assert result.shape == (len(texts), 2, 96)
    for row, text, tokens, n in zip(result, texts, more, more_mask.sum(1), strict=True):
        whole = torch.cat([text, torch.from_numpy(tokens[:n])])
        assert np.abs(row[:n] - expected(whole)[-n:]).max() < 1e-4


def test_rows_under_different_prompts(exported: Exported) -> None:
    plain, from_zero, model = exported
    ids, _, prompt = inputs()
    other = prompt.flip(0)[:3]
    caches = [model.encode_prompt(p.numpy()) for p in (prompt, other)]
    mask = np.ones_like(ids.numpy())
    _, first = model.open(Batch(ids.numpy(), mask, np.zeros_like(mask)), caches)
    for row, text, given in zip(first, ids, (prompt, other), strict=True):
        assert np.abs(row - reference(plain, text, given, from_zero=from_zero).numpy()[-1]).max() < 1e-4


def test_text_outgrows_the_cache(exported: Exported) -> None:
    """A text that is generated token by token, after padding, past the first capacity of its cache."""
    plain, from_zero, model = exported
    _, _, prompt = inputs()
    text = torch.randint(3, 61, (59,), generator=torch.Generator().manual_seed(2))
    padding = 8
    front = np.pad(text[None, :10].numpy(), ((0, 0), (0, padding)))
    mask = (np.arange(front.shape[1])[None] < 10).astype(np.int64)
    state, first = model.open(Batch(front, mask, np.zeros_like(front)), [model.encode_prompt(prompt.numpy())])
    later = [state.extend(token, np.ones_like(token))[0, 0] for token in text[10:, None, None].numpy()]
    assert len(prompt) + len(text) + padding > BLOCK
    expected = reference(plain, text, prompt, from_zero=from_zero).numpy()[9:]
    assert np.abs(np.stack([first[0], *later]) - expected).max() < 1e-4


@pytest.fixture(scope="module")
def llama(export_once: Export) -> tuple[Path, Manifest]:
    """Return a graph and its manifest. Do not change it; copy it."""
    _, path, manifest = export_once("llama")
    return path, manifest


def test_graph_without_the_past_length_is_refused(llama: tuple[Path, Manifest], tmp_path: Path) -> None:
    path, manifest = llama
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.input[:] = ["other" if name == PAST_LENGTH else name for name in node.input]
    for value in graph.graph.input:
        value.name = "other" if value.name == PAST_LENGTH else value.name
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes"):
        OnnxCausal(tmp_path / "model.onnx", manifest, ONE_THREAD)


def test_attention_is_one_node_a_layer(exported: Exported) -> None:
    """It reads keys and values in place, so grouped heads are not repeated for each of their query heads."""
    plain, _, model = exported
    nodes = onnx.load(model.session._model_path).graph.node
    attention = [node for node in nodes if node.op_type == "Attention"]
    if plain.config.model_type == CAPPED:
        assert not attention
        return
    made_by = {name: node.op_type for node in nodes for name in node.output}
    assert len(attention) == plain.config.num_hidden_layers
    assert {made_by[name] for node in attention for name in node.input[1:3]} == {"TensorScatter"}
    assert "Softmax" not in made_by.values()


def test_weights_are_stored_once(exported: Exported) -> None:
    """Tied embeddings too: the file holds the parameters, and a graph of at most 250 KB."""
    plain, _, model = exported
    size = Path(model.session._model_path).stat().st_size
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight or plain.config.model_type in {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
    }
    assert size < 4 * sum(p.numel() for p in plain.parameters()) + 250_000


@pytest.mark.parametrize("entries", [{"layers": 1}, {"layers": 3}, {"heads": 4}, {"head_size": 16}], ids=str)
def test_manifest_of_another_graph(llama: tuple[Path, Manifest], entries: dict[str, int]) -> None:
    path, manifest = llama
    assert OnnxCausal(path, manifest, ONE_THREAD)
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes; export the bundle again"):
        OnnxCausal(path, replace(manifest, **entries), ONE_THREAD)
