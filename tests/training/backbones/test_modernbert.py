"""ModernBERT's windows: around the text, and not between a text and its cached prompt."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from mpt_edge.formats.placement import Layout
from mpt_edge.training.backbones.modernbert import PromptedModernBert
from tests.support.adapters import shake
from tests.support.prompted import CONFIGS, reference

LENGTH, TOKENS = 5, 16


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, PromptedModernBert]:
    torch.manual_seed(2)
    model = AutoModel.from_config(CONFIGS["modernbert"]).eval()
    shake(model)
    return model, PromptedModernBert(copy.deepcopy(model))


def test_positions_are_relative(pair: tuple[torch.nn.Module, PromptedModernBert]) -> None:
    _, encoder = pair
    assert (encoder.first_position, encoder.max_positions) == (0, 24)
    assert not encoder.token_types


@pytest.mark.parametrize("layout", Layout)
@torch.no_grad()
def test_a_text_longer_than_the_window(pair: tuple[torch.nn.Module, PromptedModernBert], layout: Layout) -> None:
    """The last tokens are further from the prompt than a local layer's window."""
    model, encoder = pair
    assert model.config.local_attention < TOKENS
    ids = torch.randint(5, 60, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    prompt = torch.randn(1, LENGTH, 32, generator=torch.Generator().manual_seed(4))
    mask = torch.ones(1, LENGTH + TOKENS, dtype=torch.long)
    visible = mask.bool()[:, None, :].repeat(1, LENGTH + TOKENS, 1)
    if layout is Layout.PREFIX:
        visible[:, :LENGTH, LENGTH:] = False
        hidden, _ = encoder(ids, mask, past=encoder.encode_prompt(prompt))
    else:
        hidden = encoder(ids, mask, prompt=prompt)[0][:, LENGTH:]
    expected = reference(model, ids, {}, prompt, visible)[:, LENGTH:]
    assert torch.allclose(hidden, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_before_the_text_moves_no_window(pair: tuple[torch.nn.Module, PromptedModernBert]) -> None:
    _, encoder = pair
    ids = torch.randint(5, 60, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    padded = functional.pad(ids, (3, 0), value=0)
    mask = (torch.arange(TOKENS + 3) >= 3).long()[None]
    hidden, _ = encoder(padded, mask)
    plain, _ = encoder(ids, torch.ones_like(ids))
    assert torch.allclose(hidden[:, 3:], plain, atol=1e-5, rtol=0)
