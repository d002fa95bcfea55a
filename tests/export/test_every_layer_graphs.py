"""Graphs of models that write, with prompts that enter every layer, against unchanged transformers models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mpt_edge
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.objectives.generative_reading import open_texts
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.causal_graph import export_causal_graph
from mpt_edge_export.seq2seq_graph import export_seq2seq_graphs
from tests.support import causal, seq2seq
from tests.support.adapters import save_base
from tests.support.causal import LENGTH
from tests.support.manifests import described, facts
from tests.support.prompted import overwritten


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoder_only(kind: str, tmp_path: Path) -> None:
    """A padded batch under a prompt that was read once, then more tokens: logits to 1e-4."""
    plain, prompted = causal.build(kind)
    layers = prompted.layer_count
    prompt = torch.randn(LENGTH, layers, 32, generator=torch.Generator().manual_seed(3))
    key = prompted.encode_prompt(torch.zeros(1, 1, layers, 32))[0][0]
    heads, size = key.shape[1], key.shape[3]
    export_causal_graph(prompted, heads, size, "every_layer", tmp_path / "model.onnx")
    from_zero = prompted.positions_from_zero("every_layer")
    written = facts(positions_from_zero=from_zero)
    manifest = described(layers=layers, heads=heads, head_size=size, entry="every_layer", generation=written)
    model = OnnxCausal(tmp_path / "model.onnx", manifest, threads=1)
    ids, mask, _ = causal.inputs()
    state, first = model.open(
        Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids)), [model.encode_prompt(prompt.numpy())]
    )
    more = np.array([[7, 9], [11, 13]])
    found = np.concatenate([first[:, None], state.extend(more, np.ones_like(more))], axis=1)
    blocks = plain.base_model.h if hasattr(plain.base_model, "h") else plain.base_model.layers
    for row, text, n, tokens in zip(found, ids, mask.sum(1), more, strict=True):
        whole = torch.cat([text[:n], torch.from_numpy(tokens)])
        with overwritten(list(blocks), prompt):
            wanted = causal.reference(plain, whole, prompt[:, 0], from_zero=from_zero)
        assert np.abs(row - wanted.numpy()[-3:]).max() < 1e-4


def test_encoder_decoder(tmp_path: Path) -> None:
    plain, prompted = seq2seq.build("t5")
    export_seq2seq_graphs(prompted.float(), 4, 8, "every_layer", tmp_path)
    manifest = described(layers=3, heads=4, head_size=8, entry="every_layer")
    model = OnnxSeq2Seq(tmp_path / "encoder_model.onnx", tmp_path / "decoder_model.onnx", manifest, threads=1)
    ids, mask, out, _, _ = seq2seq.inputs()
    prompt = 3 * torch.randn(LENGTH, 3, 32, generator=torch.Generator().manual_seed(3)).double()
    cache = model.encode_prompt(prompt.float().numpy())
    state, first = model.open(Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids)), [cache])
    more = out[:, 1:4].numpy()
    found = np.concatenate([first[:, None], state.extend(more, np.ones_like(more))], axis=1)
    for i, n in enumerate(mask.sum(1)):
        with overwritten(list(plain.get_encoder().block), prompt):
            wanted = seq2seq.reference(plain, ids[i, :n], out[i, :4], prompt[:, 0], prefix=True).numpy()
        assert np.abs(found[i] - wanted).max() < 1e-4 * max(1.0, wanted.std())


def test_an_encoder_decoder_bundle(tmp_path: Path) -> None:
    """Exported whole, then loaded: the text that PyTorch's logits lead to, token by token."""
    backbone = open_backbone(str(save_base("t5", tmp_path / "tiny-t5")))
    assert isinstance(backbone, GenerativeBackbone)
    rng = np.random.default_rng(4)
    shared = SharedPrompt(
        "mpt", rng.standard_normal((6, 2, 32)).astype(np.float16), "prefix", backbone.fingerprint, entry="every_layer"
    )
    task = TaskFile(
        name="say",
        kind="generation",
        readout="generation",
        labels=(),
        label_texts=(),
        u=rng.normal(1, 0.3, 6).astype(np.float16),
        v=rng.normal(1, 0.3, 32).astype(np.float16),
        prompt="mpt",
        prompt_sha256=shared.fingerprint,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        generation={"max_new_tokens": 8},
    )
    shared.save(tmp_path / "run" / "prompts" / "mpt.safetensors")
    task.save(tmp_path / "run" / "tasks" / "say.safetensors")
    manifest = export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    assert (manifest.family, manifest.entry, manifest.layout) == ("seq2seq", "every_layer", "prefix")
    say = mpt_edge.load(tmp_path / "bundle", threads=1).task("say")
    prompt = torch.from_numpy(compose(shared.values, task.u, task.v))
    for text in ("a witty film", "the ball game and the law"):
        state, logits = open_texts(backbone, prompt, "prefix", "every_layer", backbone.texts.encode([text], 100))
        written = [int(logits[0].argmax())]
        for _ in range(7):
            written.append(int(state.step(np.array(written[-1:]))[0].argmax()))
        assert say(text).label == backbone.texts.tokenizer.decode(written).strip()
