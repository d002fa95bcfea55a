"""Decoder-only models under a prompt against transformers' own forward."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES, PromptedCausal
from tests.support.causal import CONFIGS, LENGTH, build, inputs, reference


def test_every_architecture_is_tried() -> None:
    assert set(CONFIGS) == set(CAUSAL_ARCHITECTURES)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("position", [PromptPosition.FIRST_LAYER, PromptPosition.EMBEDDINGS])
def test_logits_are_those_of_transformers(kind: str, position: PromptPosition) -> None:
    """Joint, and with a cache of batch one: both equal the unchanged model's logits of each text alone."""
    plain, prompted = build(kind)
    ids, mask, prompt = inputs()
    from_zero = position is PromptPosition.FIRST_LAYER and kind.startswith("gpt")
    assert prompted.positions_from_zero(position) == from_zero
    lengths = mask.sum(1).tolist()
    expected = [reference(plain, ids[i, :n], prompt, from_zero=from_zero) for i, n in enumerate(lengths)]

    positions = prompted.text_positions(mask, LENGTH, position)
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    with torch.no_grad():
        past = prompted.encode_prompt(prompt[None], position)
        hidden, present = prompted(ids, keys, positions, past=past)
        cached = prompted.logits(hidden)
        everything = torch.cat([torch.arange(LENGTH).expand(2, -1), positions], 1)
        hidden, _ = prompted(ids, keys, everything, prompt=prompt.expand(2, -1, -1), position=position)
        joint = prompted.logits(hidden)[:, LENGTH:]
    assert present[0][0].shape[2] == LENGTH + 12
    for i, n in enumerate(lengths):
        assert expected[i].std() > 0.1
        torch.testing.assert_close(cached[i, :n], expected[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(joint[i, :n], expected[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_continuing_from_the_cache(kind: str) -> None:
    """A text that is continued after its padding gets the logits of the whole text."""
    plain, prompted = build(kind)
    ids, mask, prompt = inputs()
    more = torch.tensor([[7, 9], [11, 13]])
    with torch.no_grad():
        past = prompted.encode_prompt(prompt[None])
        keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
        _, present = prompted(ids, keys, prompted.text_positions(mask, LENGTH, PromptPosition.FIRST_LAYER), past=past)
        from_zero = prompted.positions_from_zero(PromptPosition.FIRST_LAYER)
        first = 0 if from_zero else LENGTH
        positions = first + mask.sum(1, keepdim=True) + torch.arange(2)
        hidden, _ = prompted(more, torch.cat([keys, torch.ones(2, 2, dtype=torch.long)], 1), positions, past=present)
        logits = prompted.logits(hidden)
    for i, n in enumerate(mask.sum(1).tolist()):
        whole = torch.cat([ids[i, :n], more[i]])
        expected = reference(plain, whole, prompt, from_zero=from_zero)[n:]
        torch.testing.assert_close(logits[i], expected, atol=1e-4, rtol=1e-4)


def test_gradient_reaches_only_the_prompt() -> None:
    _, prompted = build("llama")
    ids, mask, prompt = inputs()
    prompt.requires_grad_()
    past = prompted.encode_prompt(prompt[None])
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    hidden, _ = prompted(ids, keys, prompted.text_positions(mask, LENGTH, PromptPosition.FIRST_LAYER), past=past)
    prompted.logits(hidden).square().mean().backward()
    assert prompt.grad is not None
    assert (prompt.grad.abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in prompted.parameters())


@pytest.mark.parametrize("kind", ["gemma2", "gpt2", "gpt_neo", "llama"])
def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(kind: str) -> None:
    ids, mask, prompt = inputs()
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    gradients, kept = [], []
    for checkpoints in (False, True):
        _, prompted = build(kind)
        if checkpoints:
            prompted.enable_gradient_checkpointing()
        read = prompt.clone().requires_grad_()
        past = prompted.encode_prompt(read[None])
        sizes: list[int] = []

        def count(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        positions = prompted.text_positions(mask, LENGTH, PromptPosition.FIRST_LAYER)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            hidden, _ = prompted(ids, keys, positions, past=past)
        kept.append(sum(sizes))
        prompted.logits(hidden).square().mean().backward()
        assert read.grad is not None
        gradients.append(read.grad)
    assert kept[1] < kept[0] / 3
    torch.testing.assert_close(*gradients)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(
        UnsupportedModelError, match="'bert' models cannot carry a prompt yet; use one of gemma, gemma2"
    ):
        PromptedCausal(BertModel(BertConfig(vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)))
