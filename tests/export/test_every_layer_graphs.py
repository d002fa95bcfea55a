"""Graphs of models that write, with prompts that enter every layer, against unchanged transformers models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpt_edge.causal import OnnxCausal
from mpt_edge.manifest import Manifest
from mpt_edge.seq2seq import OnnxSeq2Seq
from mpt_edge.text import Batch
from mpt_edge_export.causal_graph import export_causal_graph
from mpt_edge_export.seq2seq_graph import export_seq2seq_graphs
from tests.support import causal, seq2seq
from tests.support.causal import LENGTH
from tests.support.prompted import overwritten


def described(**facts: Any) -> Manifest:
    values = dict.fromkeys(Manifest.__dataclass_fields__, "") | {"entry": "every_layer", "hidden_size": 32} | facts
    return Manifest(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoder_only(kind: str, tmp_path: Path) -> None:
    """A padded batch under a prompt that was read once, then more tokens: logits to 1e-4."""
    plain, prompted = causal.build(kind, "every_layer")
    layers = prompted.layer_count
    prompt = torch.randn(LENGTH, layers, 32, generator=torch.Generator().manual_seed(3))
    key = prompted.encode_prompt(torch.zeros(1, 1, layers, 32))[0][0]
    heads, size = key.shape[1], key.shape[3]
    export_causal_graph(prompted, heads, size, tmp_path / "model.onnx")
    facts = {"positions_from_zero": prompted.positions_from_zero}
    manifest = described(layers=layers, heads=heads, head_size=size, generation=facts)
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
            wanted = causal.reference(plain, whole, prompt[:, 0], from_zero=prompted.positions_from_zero)
        assert np.abs(row - wanted.numpy()[-3:]).max() < 1e-4


def test_encoder_decoder(tmp_path: Path) -> None:
    plain, prompted = seq2seq.build("t5")
    prompted.entry = "every_layer"
    export_seq2seq_graphs(prompted.float(), 4, 8, tmp_path)
    manifest = described(layers=3, heads=4, head_size=8, generation={"start_id": 0})
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
