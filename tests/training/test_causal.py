"""Decoder-only models under a prompt against transformers' own forward."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.causal import CAUSAL_ARCHITECTURES, PromptedCausal

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "head_dim": 8,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "gemma": GemmaConfig(**SIZES, **SPECIAL),
    "gemma2": Gemma2Config(**SIZES, **SPECIAL, query_pre_attn_scalar=8, sliding_window=7),
    "gemma3_text": Gemma3TextConfig(
        **SIZES, **SPECIAL, query_pre_attn_scalar=8, sliding_window=7, sliding_window_pattern=2
    ),
    "gpt2": GPT2Config(vocab_size=61, n_positions=64, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3, **SPECIAL),
    "gpt_neo": GPTNeoConfig(
        vocab_size=61,
        max_position_embeddings=64,
        hidden_size=32,
        num_layers=4,
        attention_types=[[["global", "local"], 2]],
        num_heads=4,
        intermediate_size=48,
        window_size=9,
        initializer_range=0.3,
        **SPECIAL,
    ),
    "llama": LlamaConfig(**SIZES, **SPECIAL),
    "mistral": MistralConfig(**SIZES, **SPECIAL, sliding_window=7),
    "qwen2": Qwen2Config(
        **{k: v for k, v in SIZES.items() if k != "head_dim"},
        **SPECIAL,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**SIZES, **SPECIAL),
    "smollm3": SmolLM3Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}, **SPECIAL),
}
LENGTH = 5


def build(kind: str) -> tuple[PreTrainedModel, PromptedCausal]:
    """Return an unchanged model and a prompted one with the same random weights."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(AutoModelForCausalLM.from_config(CONFIGS[kind]).eval())
    return models[0], PromptedCausal(models[1])


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 61, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return ids, mask, torch.randn(LENGTH, 32)


@torch.no_grad()
def reference(model: PreTrainedModel, ids: torch.Tensor, prompt: torch.Tensor, *, from_zero: bool) -> torch.Tensor:
    """One text at a time, prompt and words as one sequence of embeddings, as PEFT feeds them."""
    words = model.get_input_embeddings()(ids[None])
    rows = prompt[None]
    positions = torch.arange(LENGTH + len(ids))[None]
    if from_zero:  # learned positions are for the text alone
        positions = torch.cat([torch.zeros(LENGTH, dtype=torch.long), torch.arange(len(ids))])[None]
        rows = rows - model.base_model.wpe.weight[0]
    output = model(inputs_embeds=torch.cat([rows, words], 1), position_ids=positions)
    return output.logits[0, LENGTH:]


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
