"""Graphs of generative models with prompts that enter all layers, against unchanged transformers models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mpt_edge
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.objectives.generative_reading import open_texts
from mpt_edge_export import ExportPlan, bundle, export_bundle
from mpt_edge_export.dimensions import causal_dimensions, seq2seq_dimensions
from tests.support import causal, seq2seq
from tests.support.adapters import save_base
from tests.support.causal import LENGTH
from tests.support.manifests import facts, graph_manifest
from tests.support.prompted import overwritten
from tests.support.writers import text_task

PLACEMENT = Placement(Layout.PREFIX, PromptPosition.ALL_LAYERS)
ONE_THREAD = SessionOptions(threads=1)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoder_only(kind: str, tmp_path: Path) -> None:
    """A padded batch after a prompt that was cached, then more tokens: logits to 1e-4."""
    plain, prompted = causal.build(kind)
    size, path = causal_dimensions(prompted), tmp_path / "model.onnx"
    prompt = torch.randn(LENGTH, size.layers, 32, generator=torch.Generator().manual_seed(3))
    bundle.export_causal_graph(prompted, size, PLACEMENT.position, path)
    from_zero = prompted.positions_from_zero(PLACEMENT.position)
    manifest = graph_manifest(size, placement=PLACEMENT, generation=facts(positions_from_zero=from_zero))
    model = OnnxCausal(path, manifest, ONE_THREAD)
    ids, mask, _ = causal.inputs()
    state, first = model.open(
        Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids)), [model.encode_prompt(prompt.numpy())]
    )
    more = np.array([[7, 9], [11, 13]])
    result = np.concatenate([first[:, None], state.extend(more, np.ones_like(more))], axis=1)
    blocks = plain.base_model.h if hasattr(plain.base_model, "h") else plain.base_model.layers
    for row, text, n, tokens in zip(result, ids, mask.sum(1), more, strict=True):
        whole = torch.cat([text[:n], torch.from_numpy(tokens)])
        with overwritten(list(blocks), prompt):
            expected = causal.reference(plain, whole, prompt[:, 0], from_zero=from_zero)
        assert np.abs(row - expected.numpy()[-3:]).max() < 1e-4


def test_encoder_decoder(tmp_path: Path) -> None:
    plain, prompted = seq2seq.build("t5")
    size = seq2seq_dimensions(prompted)
    bundle.export_seq2seq_graphs(prompted.float(), size, PLACEMENT.position, tmp_path)
    paths = [tmp_path / "encoder_model.onnx", tmp_path / "decoder_model.onnx"]
    model = OnnxSeq2Seq(*paths, graph_manifest(size, placement=PLACEMENT), ONE_THREAD)
    ids, mask, out, _, _ = seq2seq.inputs()
    prompt = 3 * torch.randn(LENGTH, 3, 32, generator=torch.Generator().manual_seed(3)).double()
    cache = model.encode_prompt(prompt.float().numpy())
    state, first = model.open(Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids)), [cache])
    more = out[:, 1:4].numpy()
    result = np.concatenate([first[:, None], state.extend(more, np.ones_like(more))], axis=1)
    for i, n in enumerate(mask.sum(1)):
        with overwritten(list(plain.get_encoder().block), prompt):
            expected = seq2seq.reference(plain, ids[i, :n], out[i, :4], prompt[:, 0], prefix=True).numpy()
        assert np.abs(result[i] - expected).max() < 1e-4 * max(1.0, expected.std())


def test_encoder_decoder_bundle(tmp_path: Path) -> None:
    """Exported and loaded, it generates the text that PyTorch's logits lead to, token by token."""
    backbone = open_backbone(str(save_base("t5", tmp_path / "tiny-t5")))
    assert isinstance(backbone, GenerativeBackbone)
    rng = np.random.default_rng(4)
    shared = SharedPrompt("mpt", rng.standard_normal((6, 3, 32)).astype(np.float16), PLACEMENT, backbone.fingerprint)
    task = text_task(
        backbone,
        shared,
        "say",
        u=rng.normal(1, 0.3, 6).astype(np.float16),
        v=rng.normal(1, 0.3, 32).astype(np.float16),
        max_length=128,
        generation={"max_new_tokens": 8},
    )
    shared.save(tmp_path / "run" / "prompts" / "mpt.safetensors")
    task.save(tmp_path / "run" / "tasks" / "say.safetensors")
    manifest = export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    assert (manifest.family, manifest.placement) == (Family.SEQ2SEQ, PLACEMENT)
    say = mpt_edge.load(tmp_path / "bundle", threads=1).task("say")
    prompt = torch.from_numpy(compose(shared.values, task.u, task.v))
    for text in ("a witty film", "the ball game and the law"):
        state, logits = open_texts(backbone, prompt, PLACEMENT, backbone.texts.encode([text], 100))
        tokens = [int(logits[0].argmax())]
        for _ in range(7):
            tokens.append(int(state.step(np.array(tokens[-1:]))[0].argmax()))
        assert say(text).text == backbone.texts.tokenizer.decode(tokens).strip()
