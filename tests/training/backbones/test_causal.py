"""Decoder-only models under a prompt against transformers' own forward."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
)

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES, PromptedCausal
from tests.support.causal import CONFIGS, LENGTH, build, inputs, reference


def test_every_architecture_is_tried() -> None:
    assert set(CONFIGS) == set(CAUSAL_ARCHITECTURES)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("entry", ["first_layer", "inputs_embeds"])
def test_logits_are_those_of_transformers(kind: str, entry: str) -> None:
    """Joint, and under a cache of batch one: both are what the unchanged model makes of each text alone."""
    plain, prompted = build(kind)
    ids, mask, prompt = inputs()
    from_zero = entry == "first_layer" and kind.startswith("gpt")
    assert prompted.positions_from_zero(entry) == from_zero
    lengths = mask.sum(1).tolist()
    wanted = [reference(plain, ids[i, :n], prompt, from_zero=from_zero) for i, n in enumerate(lengths)]

    positions = prompted.text_positions(mask, LENGTH, entry)
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    with torch.no_grad():
        past = prompted.encode_prompt(prompt[None], entry)
        hidden, present = prompted(ids, keys, positions, past=past)
        cached = prompted.logits(hidden)
        rows = torch.arange(LENGTH).expand(2, -1)
        rows = torch.cat([rows, positions], 1)
        hidden, _ = prompted(ids, keys, rows, prompt=prompt.expand(2, -1, -1), entry=entry)
        joint = prompted.logits(hidden)[:, LENGTH:]
    assert present[0][0].shape[2] == LENGTH + 12
    for i, n in enumerate(lengths):
        assert wanted[i].std() > 0.1
        torch.testing.assert_close(cached[i, :n], wanted[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(joint[i, :n], wanted[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_going_on_from_the_cache(kind: str) -> None:
    """A row that is continued behind its padding gets the logits of the whole text."""
    plain, prompted = build(kind)
    ids, mask, prompt = inputs()
    more = torch.tensor([[7, 9], [11, 13]])
    with torch.no_grad():
        past = prompted.encode_prompt(prompt[None])
        keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
        _, present = prompted(ids, keys, prompted.text_positions(mask, LENGTH, "first_layer"), past=past)
        from_zero = prompted.positions_from_zero("first_layer")
        first = 0 if from_zero else LENGTH
        positions = first + mask.sum(1, keepdim=True) + torch.arange(2)
        hidden, _ = prompted(more, torch.cat([keys, torch.ones(2, 2, dtype=torch.long)], 1), positions, past=present)
        found = prompted.logits(hidden)
    for i, n in enumerate(mask.sum(1).tolist()):
        whole = torch.cat([ids[i, :n], more[i]])
        wanted = reference(plain, whole, prompt, from_zero=from_zero)[n:]
        torch.testing.assert_close(found[i], wanted, atol=1e-4, rtol=1e-4)


def test_gradient_reaches_the_prompt_alone() -> None:
    _, prompted = build("llama")
    ids, mask, prompt = inputs()
    prompt.requires_grad_()
    past = prompted.encode_prompt(prompt[None])
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    hidden, _ = prompted(ids, keys, prompted.text_positions(mask, LENGTH, "first_layer"), past=past)
    prompted.logits(hidden).square().mean().backward()
    assert prompt.grad is not None
    assert (prompt.grad.abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in prompted.parameters())


def test_other_architectures_are_refused() -> None:
    with pytest.raises(
        UnsupportedModelError, match="'bert' models cannot carry a prompt yet; use one of gemma, gemma2"
    ):
        PromptedCausal(BertModel(BertConfig(vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)))
