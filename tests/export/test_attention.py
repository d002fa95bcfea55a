"""Attention as one node of the exported graph: where it stands, and that the model is left as it was.

That it computes what transformers computes is what the tests of the graphs hold.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from mpt_edge.training.seq2seq import PromptedSeq2Seq
from mpt_edge_export.causal_graph import export_causal_graph
from mpt_edge_export.seq2seq_graph import export_seq2seq_graphs
from tests.support.causal import build

CAPPED = "gemma2"


def nodes(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("kind", ["gpt_neo", "llama", CAPPED])
def test_causal(kind: str, tmp_path: Path) -> None:
    _, prompted = build(kind)
    key = prompted.encode_prompt(torch.zeros(1, 1, 32))[0][0]
    before = prompted.model.config._attn_implementation
    own = [getattr(module, "_attn", None) for module in prompted.model.modules()]
    export_causal_graph(prompted, key.shape[1], key.shape[3], "first_layer", tmp_path / "model.onnx")
    found = nodes(tmp_path / "model.onnx")
    layers = prompted.layer_count
    assert (found["Attention"], found["Softmax"]) == ((0, layers) if kind == CAPPED else (layers, 0))
    # Grouped heads are read where they lie: none is repeated for each of its query heads.
    assert kind == CAPPED or found["Expand"] < layers
    assert prompted.model.config._attn_implementation == before
    assert own == [getattr(module, "_attn", None) for module in prompted.model.modules()]


def test_t5(tmp_path: Path) -> None:
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0)
    export_seq2seq_graphs(PromptedSeq2Seq(T5ForConditionalGeneration(config)), 4, 4, "first_layer", tmp_path)
    assert nodes(tmp_path / "encoder_model.onnx")["Attention"] == config.num_layers
    assert nodes(tmp_path / "decoder_model.onnx")["Attention"] == 2 * config.num_decoder_layers
