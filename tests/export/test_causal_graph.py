"""The exported decoder-only graph in ONNX Runtime against the unchanged transformers model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.prompts import Entry
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.graph_names import PAST_LENGTH
from mpt_edge.inference.runtime.kv_cache import BLOCK
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge_export.causal_graph import export_causal_graph
from tests.support.causal import CONFIGS, build, inputs, reference
from tests.support.manifests import described, facts


def manifest(model: PromptedCausal, heads: int, size: int) -> Manifest:
    from_zero = model.positions_from_zero(Entry.FIRST_LAYER)
    return described(
        layers=model.layer_count,
        heads=heads,
        head_size=size,
        hidden_size=model.hidden_size,
        generation=facts(positions_from_zero=from_zero),
    )


#: Its scores are capped, which the operator does otherwise in other versions of ONNX Runtime.
CAPPED = "gemma2"
Exported = tuple[PreTrainedModel, bool, OnnxCausal]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, bool, OnnxCausal]:
    plain, prompted = build(request.param)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    key = prompted.encode_prompt(torch.zeros(1, 1, 32))[0][0]
    heads, size = key.shape[1], key.shape[3]
    export_causal_graph(prompted, heads, size, "first_layer", path)
    model = OnnxCausal(path, manifest(prompted, heads, size), threads=1)
    return plain, prompted.positions_from_zero("first_layer"), model


def test_every_call(exported: Exported) -> None:
    """Prompt once, a padded batch under it, more tokens, rows taken out and repeated: logits to 1e-4."""
    plain, from_zero, model = exported
    ids, mask, prompt = inputs()
    cache = model.encode_prompt(prompt.numpy())
    assert next(iter(cache.values())).shape[:1] == (1,)
    state, first = model.open(Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids)), [cache])
    texts = [ids[i, : int(n)] for i, n in enumerate(mask.sum(1))]

    def wanted(text: torch.Tensor) -> np.ndarray:
        return reference(plain, text, prompt, from_zero=from_zero).numpy()

    for row, text in zip(first, texts, strict=True):
        assert np.abs(row - wanted(text)[-1]).max() < 1e-4
    state.select(np.array([1, 0, 1]))
    texts = [texts[1], texts[0], texts[1]]
    more = np.array([[7, 9], [11, 0], [13, 5]])
    more_mask = np.array([[1, 1], [1, 0], [1, 1]])
    found = state.extend(more, more_mask)
    assert found.shape == (len(texts), 2, 96)
    for row, text, tokens, n in zip(found, texts, more, more_mask.sum(1), strict=True):
        whole = torch.cat([text, torch.from_numpy(tokens[:n])])
        assert np.abs(row[:n] - wanted(whole)[-n:]).max() < 1e-4


def test_rows_under_different_prompts(exported: Exported) -> None:
    plain, from_zero, model = exported
    ids, _, prompt = inputs()
    other = prompt.flip(0)[:3]
    caches = [model.encode_prompt(p.numpy()) for p in (prompt, other)]
    mask = np.ones_like(ids.numpy())
    _, first = model.open(Batch(ids.numpy(), mask, np.zeros_like(mask)), caches)
    for row, text, given in zip(first, ids, (prompt, other), strict=True):
        assert np.abs(row - reference(plain, text, given, from_zero=from_zero).numpy()[-1]).max() < 1e-4


def test_a_text_outgrows_its_room(exported: Exported) -> None:
    """A text written token by token, behind filling, past the rows that its cache has at first."""
    plain, from_zero, model = exported
    _, _, prompt = inputs()
    text = torch.randint(3, 61, (59,), generator=torch.Generator().manual_seed(2))
    filling = 8
    front = np.pad(text[None, :10].numpy(), ((0, 0), (0, filling)))
    mask = (np.arange(front.shape[1])[None] < 10).astype(np.int64)
    state, first = model.open(Batch(front, mask, np.zeros_like(front)), [model.encode_prompt(prompt.numpy())])
    later = [state.extend(token, np.ones_like(token))[0, 0] for token in text[10:, None, None].numpy()]
    assert len(prompt) + len(text) + filling > BLOCK
    wanted = reference(plain, text, prompt, from_zero=from_zero).numpy()[9:]
    assert np.abs(np.stack([first[0], *later]) - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Return a graph and what describes it. Do not change it; copy it."""
    _, prompted = build("llama")
    path = tmp_path_factory.mktemp("llama") / "model.onnx"
    export_causal_graph(prompted, 2, 8, "first_layer", path)
    return path, manifest(prompted, 2, 8)


def test_graphs_from_before_caches_had_room_are_refused(llama: tuple[Path, Manifest], tmp_path: Path) -> None:
    path, manifest = llama
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.input[:] = ["taken" if name == PAST_LENGTH else name for name in node.input]
    for value in graph.graph.input:
        value.name = "taken" if value.name == PAST_LENGTH else value.name
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes"):
        OnnxCausal(tmp_path / "model.onnx", manifest, threads=1)


def test_attention_is_one_node_a_layer(exported: Exported) -> None:
    """It reads keys and values where they lie, so grouped heads are not repeated for each of their query heads."""
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


def test_weights_are_there_once(exported: Exported) -> None:
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
def test_a_manifest_that_describes_another_graph(llama: tuple[Path, Manifest], entries: dict[str, int]) -> None:
    path, manifest = llama
    assert OnnxCausal(path, manifest, threads=1)
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes; export the bundle again"):
        OnnxCausal(path, replace(manifest, **entries), threads=1)
