"""Attention as one node: an exported model is left as it was.

The tests of the graphs check the node's place and its numbers.
"""

from __future__ import annotations

import pytest

from mpt_edge_export.attention import one_node_attention
from tests.support.causal import build


@pytest.mark.parametrize("kind", ["gpt_neo", "llama", "gemma2"])
def test_model_attends_as_before(kind: str) -> None:
    _, prompted = build(kind)

    def attention() -> list[object]:
        own = [getattr(module, "_attn", None) for module in prompted.model.modules()]
        return [prompted.model.config._attn_implementation, *own]

    before = attention()
    with one_node_attention(prompted.model):
        assert (attention() == before) == (kind == "gemma2")  # its scores are capped
    assert attention() == before
