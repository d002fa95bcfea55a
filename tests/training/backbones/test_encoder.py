"""The prompted encoder against transformers' own models and an explicit attention mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModel,
    GPT2Config,
    PreTrainedModel,
    T5Config,
)

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.encoder import ARCHITECTURES, PromptedEncoder
from tests.support.prompted import batch, reference, segments


@torch.no_grad()
def test_without_a_prompt_it_is_the_model(models: tuple[str, PreTrainedModel, PromptedEncoder]) -> None:
    kind, model, encoder = models
    ids, mask, types = batch(kind)
    assert encoder.token_types == (kind in {"bert", "electra"})
    expected = model(input_ids=ids, attention_mask=mask, **segments(encoder, types)).last_hidden_state
    hidden, present = encoder(ids, mask, types)
    assert torch.allclose(hidden[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)
    assert [tuple(part.shape) for pair in present for part in pair] == [(3, 4, 7, 8)] * 4


@torch.no_grad()
def test_segment_ids_are_read(models: tuple[str, PreTrainedModel, PromptedEncoder]) -> None:
    kind, _, encoder = models
    ids, mask, types = batch(kind)
    differ = not torch.allclose(encoder(ids, mask, types)[0], encoder(ids, mask, torch.zeros_like(types))[0], atol=1e-3)
    assert differ == encoder.token_types
    assert torch.equal(encoder(ids, mask)[0], encoder(ids, mask, torch.zeros_like(types))[0])


@torch.no_grad()
def test_padding_on_the_left_equals_padding_on_the_right(
    models: tuple[str, PreTrainedModel, PromptedEncoder],
) -> None:
    kind, _, encoder = models
    (ids, mask, types), (ids_left, mask_left, types_left) = batch(kind), batch(kind, "left")
    past = encoder.encode_prompt(torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(3)))
    right, _ = encoder(ids, functional.pad(mask, (3, 0), value=1), types, past=past)
    left, _ = encoder(ids_left, functional.pad(mask_left, (3, 0), value=1), types_left, past=past)
    assert torch.allclose(right[mask == 1], left[mask_left == 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["prefix", "joint"])
@torch.no_grad()
def test_prompt_equals_an_explicit_mask(models: tuple[str, PreTrainedModel, PromptedEncoder], layout: str) -> None:
    kind, model, encoder = models
    ids, mask, types = batch(kind)
    length = 5
    shared = torch.randn(length, 32, generator=torch.Generator().manual_seed(4))
    u, v = torch.linspace(0.5, 1.5, length), torch.linspace(-1, 2, 32)
    prompt = torch.diag(u) @ shared @ torch.diag(v)
    keys = functional.pad(mask, (length, 0), value=1).bool()
    visible = keys[:, None, :].repeat(1, length + ids.shape[1], 1)
    if layout == "prefix":
        visible[:, :length, length:] = False
    expanded = prompt.expand(3, -1, -1)
    expected = reference(model, ids, segments(encoder, types), expanded, visible)[:, length:]
    if layout == "prefix":
        hidden, _ = encoder(ids, keys.long(), types, past=encoder.encode_prompt(prompt[None]))
    else:
        hidden = encoder(ids, keys.long(), types, prompt=expanded)[0][:, length:]
    assert torch.allclose(hidden[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)
    plain, _ = encoder(ids, mask, types)
    assert not torch.allclose(hidden[mask == 1], plain[mask == 1], atol=1e-2)


@torch.no_grad()
def test_each_text_has_its_own_prompt(models: tuple[str, PreTrainedModel, PromptedEncoder]) -> None:
    kind, _, encoder = models
    ids, mask, types = batch(kind)
    prompts = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(5))
    keys = functional.pad(mask, (4, 0), value=1)
    together, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompts))
    for i in range(3):
        past = encoder.encode_prompt(prompts[i : i + 1])
        alone, _ = encoder(ids[i : i + 1], keys[i : i + 1], types[i : i + 1], past=past)
        assert torch.allclose(together[i][mask[i] == 1], alone[0][mask[i] == 1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_masked_prompt_changes_nothing(models: tuple[str, PreTrainedModel, PromptedEncoder]) -> None:
    kind, _, encoder = models
    ids, mask, types = batch(kind)
    prompt = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(6))
    hidden, _ = encoder(ids, functional.pad(mask, (4, 0), value=0), types, past=encoder.encode_prompt(prompt))
    plain, _ = encoder(ids, mask, types)
    assert torch.allclose(hidden[mask == 1], plain[mask == 1], atol=1e-5, rtol=0)


def test_gradient_reaches_the_prompt_and_no_weight(models: tuple[str, PreTrainedModel, PromptedEncoder]) -> None:
    kind, _, encoder = models
    ids, mask, types = batch(kind)
    prompt = torch.randn(1, 4, 32, requires_grad=True)
    keys = functional.pad(mask, (4, 0), value=1)
    encoder(ids, keys, types, past=encoder.encode_prompt(prompt))[0].square().sum().backward()
    assert prompt.grad is not None
    assert (prompt.grad.abs().amax(-1) > 0).all()
    assert not any(p.requires_grad or p.grad is not None for p in encoder.parameters())
    assert not encoder.model.training


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8), "gpt2"),
        (T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2), "t5"),
    ],
)
def test_unsupported_model_lists_what_is(config: GPT2Config | T5Config, kind: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        PromptedEncoder(AutoModel.from_config(config))
    assert f"'{kind}'" in str(caught.value)
    for name in ARCHITECTURES:
        assert name in str(caught.value)
