"""Random models, unchanged and prompted."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from mpt_edge.training.backbones.causal import PromptedCausal
from tests.support.causal import build


@pytest.fixture(scope="package", params=["llama", "gpt2", "gpt_neo"])
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PromptedCausal]:
    """Return a model of transformers, and a prompted one with the same weights."""
    return build(request.param)
