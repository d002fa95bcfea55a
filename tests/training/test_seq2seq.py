"""T5 under a prompt against transformers' own forward and generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedModel, T5Config, T5ForConditionalGeneration

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.seq2seq import PromptedSeq2Seq
from tests.training.test_causal import build as build_causal

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "initializer_factor": 1.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
KINDS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "t5": (T5ForConditionalGeneration, T5Config(**SIZES)),
    "flan-t5": (
        T5ForConditionalGeneration,
        T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**SIZES, tie_word_embeddings=False)),
}
LENGTH = 5


def build(kind: str) -> tuple[PreTrainedModel, PromptedSeq2Seq]:
    """Return an unchanged model and a prompted one with the same random weights, in float64.

    Logits of these weights are in the tens, so float32 would hide a small mistake in its rounding.
    """
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        cls, config = KINDS[kind]
        models.append(cls(config).double().eval())
        for name, parameter in models[-1].named_parameters():
            if "relative_attention_bias" in name:  # so that wrong positions cannot hide
                parameter.data.normal_(0, 1.5)
    return models[0], PromptedSeq2Seq(models[1])


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids, out = torch.randint(3, 61, (2, 12)), torch.randint(3, 61, (2, 6))
    out[:, 0] = 0
    mask, out_mask = torch.ones_like(ids), torch.ones_like(out)
    mask[1, 8:], out_mask[1, 4:] = 0, 0
    return ids, mask, out, out_mask, 3 * torch.randn(LENGTH, 32).double()


@torch.no_grad()
def states(model: PreTrainedModel, text: torch.Tensor, prompt: torch.Tensor, *, prefix: bool) -> torch.Tensor:
    """Encoder states of prompt and one text from the unchanged stack."""
    rows = torch.cat([prompt, model.get_input_embeddings()(text)])[None]
    mask = torch.zeros(1, 1, rows.shape[1], rows.shape[1], dtype=rows.dtype)
    if prefix:
        mask[..., : len(prompt), len(prompt) :] = -1e9
    stack = model.get_encoder()
    hidden, bias = rows, None
    for block in stack.block:
        hidden, bias, _ = block(hidden, attention_mask=mask, position_bias=bias)
    return stack.final_layer_norm(hidden)


@torch.no_grad()
def reference(
    model: PreTrainedModel, text: torch.Tensor, out: torch.Tensor, prompt: torch.Tensor, *, prefix: bool
) -> torch.Tensor:
    if not prefix:  # as PEFT feeds it
        rows = torch.cat([prompt, model.get_input_embeddings()(text)])[None]
        return model(inputs_embeds=rows, decoder_input_ids=out[None]).logits[0]
    found = states(model, text, prompt, prefix=True)
    return model(encoder_outputs=(found,), decoder_input_ids=out[None]).logits[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "joint"])
def test_logits_are_those_of_transformers(kind: str, prefix: bool) -> None:
    """Two padded rows, all at once and token by token, against each row alone."""
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
        states_, _ = prompted.decode(out, out_mask, keys, cross)
        whole = prompted.logits(states_)
        cache, steps = None, []
        for i in range(out.shape[1]):
            states_, cache = prompted.decode(out[:, i : i + 1], out_mask[:, : i + 1], keys, cross, cache)
            steps.append(prompted.logits(states_))
    for i, (n, m) in enumerate(zip(mask.sum(1), out_mask.sum(1), strict=True)):
        wanted = reference(plain, ids[i, :n], out[i, :m], prompt, prefix=prefix)
        assert wanted.std() > 0.1
        torch.testing.assert_close(whole[i, :m], wanted, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(torch.cat(steps, 1)[i, :m], wanted, atol=1e-9, rtol=1e-9)


def test_gradient_reaches_the_prompt_alone() -> None:
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
