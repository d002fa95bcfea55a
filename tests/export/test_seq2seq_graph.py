"""T5's exported graphs in ONNX Runtime against the unchanged transformers model."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.formats.manifest import Family, Manifest
from mpt_edge.formats.placement import Layout, PromptPosition
from mpt_edge.inference.generation.beams import BeamRow, beam_search
from mpt_edge.inference.runtime.graph_names import PAST_LENGTH
from mpt_edge.inference.runtime.kv_cache import BLOCK
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge_export import bundle
from mpt_edge_export.dimensions import Dimensions
from mpt_edge_export.seq2seq_graph import WEIGHTS
from tests.support.manifests import facts, graph_manifest
from tests.support.seq2seq import KINDS, build, inputs, reference, states

Exported = tuple[PreTrainedModel, OnnxSeq2Seq, Path]


ONE_THREAD = SessionOptions(threads=1)
T5 = Dimensions(family=Family.SEQ2SEQ, layers=3, heads=4, head_size=8, hidden_size=32)


def t5(start_id: int = 0) -> Manifest:
    return graph_manifest(T5, generation=facts(start_id=start_id))


@pytest.fixture(scope="module", params=sorted(KINDS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    plain, prompted = build(request.param)
    folder = tmp_path_factory.mktemp("graphs")
    bundle.export_seq2seq_graphs(prompted.float(), T5, PromptPosition.FIRST_LAYER, folder)
    return plain, OnnxSeq2Seq(folder / "encoder_model.onnx", folder / "decoder_model.onnx", t5(), ONE_THREAD), folder


def close(result: np.ndarray, expected: torch.Tensor) -> bool:
    """Compare logits to 1e-4 of their standard deviation, which is in the tens with these weights."""
    return bool(np.abs(result - expected.numpy()).max() < 1e-4 * max(1.0, float(expected.std())))


@pytest.mark.parametrize("layout", Layout)
def test_every_call(exported: Exported, layout: Layout) -> None:
    """Prompt once, a padded batch under it, first and further tokens, rows reordered and repeated."""
    plain, model, _ = exported
    ids, mask, out, _, prompt = inputs()
    cache = model.encode_prompt(prompt.float().numpy(), layout)
    batch = Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids))
    state, first = model.open(batch, [cache])
    texts = [ids[i, : int(n)] for i, n in enumerate(mask.sum(1))]
    prefix = layout is Layout.PREFIX
    for row, text in zip(first, texts, strict=True):
        assert close(row, reference(plain, text, out[0, :1], prompt, prefix=prefix)[0])
    state.select(np.array([1, 0, 1]))
    more, given = np.array([[7, 9], [11, 0], [13, 5]]), np.array([[1, 1], [1, 0], [1, 1]])
    result = [state.extend(more, given), state.extend(np.array([[4], [8], [6]]), np.ones((3, 1), np.int64))]
    for i, (text, n) in enumerate(zip([texts[1], texts[0], texts[1]], given.sum(1), strict=True)):
        generated = torch.tensor([0, *more[i, :n], (4, 8, 6)[i]])
        expected = reference(plain, text, generated, prompt, prefix=prefix)
        assert close(result[0][i, :n], expected[1 : n + 1])
        assert close(result[1][i, 0], expected[-1])


def test_rows_under_different_prompts(exported: Exported) -> None:
    plain, model, _ = exported
    ids, _, out, _, prompt = inputs()
    prompts = [prompt, prompt.flip(0)[:3]]
    caches = [model.encode_prompt(one.float().numpy()) for one in prompts]
    ones = np.ones_like(ids.numpy())
    _, first = model.open(Batch(ids.numpy(), ones, np.zeros_like(ones)), caches)
    for row, text, given in zip(first, ids, prompts, strict=True):
        hidden = states(plain, text, given, prefix=True)
        with torch.no_grad():
            expected = plain(encoder_outputs=(hidden,), decoder_input_ids=out[:1, :1]).logits[0, 0]
        assert close(row, expected)


@torch.no_grad()
def test_beams_are_those_of_transformers(exported: Exported) -> None:
    plain, model, _ = exported
    ids, _, _, _, prompt = inputs()
    hidden = torch.cat([states(plain, text, prompt, prefix=True) for text in ids])
    outputs = BaseModelOutput(last_hidden_state=hidden)
    ones = torch.ones(hidden.shape[:2], dtype=torch.long)
    theirs = plain.generate(
        input_ids=ids, encoder_outputs=outputs, attention_mask=ones, num_beams=3, max_new_tokens=8, do_sample=False
    )
    cache = model.encode_prompt(prompt.float().numpy())
    ones = np.ones_like(ids.numpy())
    decoding, logits = model.open(Batch(ids.numpy(), ones, np.zeros_like(ones)), [cache])
    rows = [BeamRow(GenerationOptions(max_new_tokens=8, num_beams=3), history=[0]) for _ in ids]
    beam_search(decoding, logits, rows, (1,))
    for row, expected in zip(rows, theirs[:, 1:].tolist(), strict=True):
        assert row.best[0] == (expected[: expected.index(1)] if 1 in expected else expected)


def test_weights_are_stored_once(exported: Exported) -> None:
    """Both graphs refer to one copy of the embedding; the graphs themselves are small."""
    plain, _, folder = exported
    shared = {p.data_ptr(): p.numel() for p in plain.parameters()}
    large = sum(4 * n + 4096 for n in shared.values())
    assert (folder / WEIGHTS).stat().st_size < large
    names = [onnx.load(folder / f"{side}_model.onnx", load_external_data=False) for side in ("encoder", "decoder")]
    parts = [[{e.key: e.value for e in t.external_data} for t in model.graph.initializer] for model in names]
    offsets = [{(part["location"], part["offset"]) for part in side if part} for side in parts]
    assert offsets[0] & offsets[1]
    assert {location for location, _ in offsets[0] | offsets[1]} == {WEIGHTS}
    assert all((folder / f"{side}_model.onnx").stat().st_size < 400_000 for side in ("encoder", "decoder"))


def test_text_outgrows_the_cache(exported: Exported) -> None:
    """A text that is generated token by token, past the first capacity of the decoder's cache."""
    plain, model, _ = exported
    ids, mask, _, _, prompt = inputs()
    cache = model.encode_prompt(prompt.float().numpy())
    one = Batch(ids[:1].numpy(), mask[:1].numpy(), np.zeros_like(ids[:1]))
    state, first = model.open(one, [cache])
    generated = torch.randint(3, 30, (BLOCK + 6,), generator=torch.Generator().manual_seed(2))
    later = [state.extend(token, np.ones_like(token))[0, 0] for token in generated[:, None, None].numpy()]
    whole = torch.cat([torch.zeros(1, dtype=torch.long), generated])
    assert close(
        np.stack([first[0], *later]), reference(plain, ids[0, : int(mask[0].sum())], whole, prompt, prefix=True)
    )


def test_decoder_without_the_past_length_is_refused(exported: Exported, tmp_path: Path) -> None:
    _, _, folder = exported
    shutil.copytree(folder, tmp_path / "graphs")
    path = tmp_path / "graphs" / "decoder_model.onnx"
    graph = onnx.load(path, load_external_data=False)
    for value in graph.graph.input:
        value.name = "other" if value.name == PAST_LENGTH else value.name
    for node in graph.graph.node:
        node.input[:] = ["other" if name == PAST_LENGTH else name for name in node.input]
    onnx.save(graph, path)
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes"):
        OnnxSeq2Seq(tmp_path / "graphs" / "encoder_model.onnx", path, t5(), ONE_THREAD)


def test_attention_is_one_node(exported: Exported) -> None:
    plain, _, folder = exported
    found = {}
    for name in ("encoder", "decoder"):
        graph = onnx.load(folder / f"{name}_model.onnx", load_external_data=False).graph
        found[name] = Counter(node.op_type for node in graph.node)
        assert found[name]["Softmax"] == 0
    assert found["encoder"]["Attention"] == plain.config.num_layers
    assert found["decoder"]["Attention"] == 2 * plain.config.num_decoder_layers  # self- and cross-attention


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ({"layers": 2}, "encoder_model.onnx"),
        ({"layers": 4}, "encoder_model.onnx"),
        ({"heads": 2}, "encoder_model.onnx"),
        ({"head_size": 16}, "encoder_model.onnx"),
        ({"hidden_size": 64}, "encoder_model.onnx"),
        ({"generation": t5(start_id=96).generation}, "decoder_model.onnx"),
    ],
    ids=str,
)
def test_manifest_of_other_graphs(exported: Exported, entries: dict[str, Any], name: str) -> None:
    _, _, folder = exported
    manifest = replace(t5(), **entries)
    with pytest.raises(CorruptFileError) as caught:
        OnnxSeq2Seq(folder / "encoder_model.onnx", folder / "decoder_model.onnx", manifest, ONE_THREAD)
    assert (
        str(caught.value) == f"{folder / name} is not the graph that the manifest describes; export the bundle again."
    )
