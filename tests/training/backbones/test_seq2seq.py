"""T5 under a prompt against transformers' own forward."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from tests.support.causal import build as build_causal
from tests.support.seq2seq import KINDS, LENGTH, SIZES, build, inputs, reference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "joint"])
def test_logits_are_those_of_transformers(kind: str, prefix: bool) -> None:
    """Two padded texts, all tokens at once and token by token, against each text alone."""
    plain, prompted = build(kind)
    ids, mask, out, out_mask, prompt = inputs()
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    with torch.no_grad():
        if prefix:
            past, seen = prompted.encode_prompt(prompt[None])
            hidden, _ = prompted.encode(ids, keys, past=past)
            pairs = zip(seen, prompted.cross(hidden), strict=True)
            cross = [
                tuple(torch.cat([a.expand(2, -1, -1, -1), b], 2) for a, b in zip(one, two, strict=True))
                for one, two in pairs
            ]
        else:
            cross = prompted.cross(prompted.encode(ids, keys, prompt=prompt.expand(2, -1, -1))[0])
        states, _ = prompted.decode(out, out_mask, keys, cross)
        whole = prompted.logits(states)
        cache, steps = None, []
        for i in range(out.shape[1]):
            states, cache = prompted.decode(out[:, i : i + 1], out_mask[:, : i + 1], keys, cross, cache)
            steps.append(prompted.logits(states))
    for i, (n, m) in enumerate(zip(mask.sum(1), out_mask.sum(1), strict=True)):
        expected = reference(plain, ids[i, :n], out[i, :m], prompt, prefix=prefix)
        assert expected.std() > 0.1
        torch.testing.assert_close(whole[i, :m], expected, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(torch.cat(steps, 1)[i, :m], expected, atol=1e-9, rtol=1e-9)


def test_gradient_reaches_only_the_prompt() -> None:
    _, prompted = build("t5")
    ids, mask, out, out_mask, prompt = inputs()
    prompt.requires_grad_()
    keys = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), mask], 1)
    past, seen = prompted.encode_prompt(prompt[None])
    hidden, _ = prompted.encode(ids, keys, past=past)
    own = prompted.cross(hidden)
    cross = [
        tuple(torch.cat([a.expand(2, -1, -1, -1), b], 2) for a, b in zip(one, two, strict=True))
        for one, two in zip(seen, own, strict=True)
    ]
    prompted.logits(prompted.decode(out, out_mask, keys, cross)[0]).square().mean().backward()
    assert prompt.grad is not None
    assert (prompt.grad.abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in prompted.parameters())


def test_other_architectures_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'gpt2' models cannot carry a prompt yet; use one of mt5, t5"):
        PromptedSeq2Seq(build_causal("gpt2")[0])


def test_start_token_is_the_one_that_generate_takes() -> None:
    model = T5ForConditionalGeneration(T5Config(**SIZES))
    model.generation_config.decoder_start_token_id = 3
    assert PromptedSeq2Seq(model).start_id == 3
    model = T5ForConditionalGeneration(T5Config(**{k: v for k, v in SIZES.items() if k != "decoder_start_token_id"}))
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(UnsupportedModelError, match="names no decoder_start_token_id"):
        PromptedSeq2Seq(model)
