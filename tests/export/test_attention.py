"""Attention as one node: a model that was exported is left as it was.

Where the node stands, and that it computes what transformers computes, is what the tests of the graphs hold.
"""

from __future__ import annotations

import pytest

from mpt_edge_export.attention import one_node_attention
from tests.support.causal import build


@pytest.mark.parametrize("kind", ["gpt_neo", "llama", "gemma2"])
def test_a_model_attends_as_before(kind: str) -> None:
    _, prompted = build(kind)

    def attending() -> list[object]:
        own = [getattr(module, "_attn", None) for module in prompted.model.modules()]
        return [prompted.model.config._attn_implementation, *own]

    before = attending()
    with one_node_attention(prompted.model):
        assert (attending() == before) == (kind == "gemma2")  # whose capped scores are left to transformers
    assert attending() == before
