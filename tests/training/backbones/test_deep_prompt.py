"""Prompts that enter all layers, against unchanged transformers models with overwritten layer inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.training.backbones.deep_prompt import DeepPrompt, recorded_inputs, replace_inputs
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.initialization import _spread_over_layers, initialize_prompt
from tests.support import causal, seq2seq
from tests.support.prompted import batch, overwritten, reference, segments

LENGTH = 5
POSITIONS = (PromptPosition.FIRST_LAYER, PromptPosition.ALL_LAYERS)


@pytest.mark.parametrize("apart", [True, False], ids=["cached", "with the text"])
@torch.no_grad()
def test_encoders(models: tuple[str, Any, PromptedEncoder], apart: bool) -> None:
    kind, model, encoder = models
    ids, mask, types = batch(kind)
    prompt = torch.randn(LENGTH, 2, 32, generator=torch.Generator().manual_seed(4))
    keys = functional.pad(mask, (LENGTH, 0), value=1)
    visible = keys.bool()[:, None, :].repeat(1, LENGTH + ids.shape[1], 1)
    visible[:, :LENGTH, LENGTH:] = not apart  # no difference to the text, except for ModernBERT's windows
    layers = model.get_submodule(encoder.architecture.layers)
    with overwritten(list(layers.children()), prompt):
        expected = reference(model, ids, segments(encoder, types), prompt[:, 0].expand(3, -1, -1), visible)[:, LENGTH:]
    if apart:
        result, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompt[None], PromptPosition.ALL_LAYERS))
    else:
        together = prompt.expand(3, *prompt.shape)
        result = encoder(ids, keys, types, prompt=together, position=PromptPosition.ALL_LAYERS)[0][:, LENGTH:]
    assert torch.allclose(result[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)
    other, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompt[None, :, 0]))
    assert not torch.allclose(result[mask == 1], other[mask == 1], atol=1e-2)


@pytest.mark.parametrize("kind", causal.CONFIGS)
def test_decoder_only_models(kind: str) -> None:
    plain, prompted = causal.build(kind)
    ids, mask, _ = causal.inputs()
    prompt = torch.randn(LENGTH, prompted.layer_count, 32)
    keys, positions = (
        functional.pad(mask, (LENGTH, 0), value=1),
        prompted.text_positions(mask, LENGTH, PromptPosition.ALL_LAYERS),
    )
    from_zero = prompted.positions_from_zero(PromptPosition.ALL_LAYERS)
    assert from_zero == kind.startswith("gpt")
    layers = plain.base_model.h if hasattr(plain.base_model, "h") else plain.base_model.layers
    with torch.no_grad():
        hidden, _ = prompted(ids, keys, positions, past=prompted.encode_prompt(prompt[None], PromptPosition.ALL_LAYERS))
        cached = prompted.logits(hidden)
        everything = torch.cat([torch.arange(LENGTH).expand(2, -1), positions], 1)
        hidden, _ = prompted(
            ids, keys, everything, prompt=prompt.expand(2, *prompt.shape), position=PromptPosition.ALL_LAYERS
        )
        together = prompted.logits(hidden)[:, LENGTH:]
        for i, n in enumerate(mask.sum(1).tolist()):
            with overwritten(list(layers), prompt):
                expected = causal.reference(plain, ids[i, :n], prompt[:, 0], from_zero=from_zero)
            torch.testing.assert_close(cached[i, :n], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together[i, :n], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", seq2seq.KINDS)
def test_encoder_decoder_models(kind: str) -> None:
    plain, prompted = seq2seq.build(kind)
    ids, mask, out, out_mask, _ = seq2seq.inputs()
    prompt = 3 * torch.randn(LENGTH, 3, 32).double()
    keys = functional.pad(mask, (LENGTH, 0), value=1)
    with torch.no_grad():
        past, seen = prompted.encode_prompt(prompt[None])
        pairs = zip(seen, prompted.cross(prompted.encode(ids, keys, past=past)[0]), strict=True)
        cross = [
            tuple(torch.cat([a.expand(2, -1, -1, -1), b], 2) for a, b in zip(one, two, strict=True))
            for one, two in pairs
        ]
        logits = prompted.logits(prompted.decode(out, out_mask, keys, cross)[0])
        for i, (n, m) in enumerate(zip(mask.sum(1), out_mask.sum(1), strict=True)):
            with overwritten(list(plain.get_encoder().block), prompt):
                expected = seq2seq.reference(plain, ids[i, :n], out[i, :m], prompt[:, 0], prefix=True)
            torch.testing.assert_close(logits[i, :m], expected, atol=1e-9, rtol=1e-9)


def test_initialization_equals_a_prompt_at_the_first_layer(tiny: EncoderBackbone) -> None:
    first, every = (initialize_prompt(tiny, 4, 0, "vocabulary", position) for position in POSITIONS)
    assert every.shape == (4, 2, 32)
    assert torch.equal(every[:, 0], first)
    for one, other in zip(
        tiny.model.encode_prompt(first[None]),
        tiny.model.encode_prompt(every[None], PromptPosition.ALL_LAYERS),
        strict=True,
    ):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def test_initialization_of_a_causal_model() -> None:
    """With learned positions, the recorded inputs of the attention include them."""
    _, prompted = causal.build("gpt2")
    prompt = torch.randn(4, 32)
    with torch.no_grad():
        expected = prompted.encode_prompt(prompt[None])
        backbone = type("Backbone", (), {"model": prompted})
        every = _spread_over_layers(backbone, prompt)  # type: ignore[arg-type]
        first = prompted.layers[0].ln_1(prompt)
        result = prompted.encode_prompt(every[None])
    torch.testing.assert_close(every[:, 0], first, atol=1e-5, rtol=0)
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in causal.CONFIGS if kind not in {"qwen3", "gemma3_text"}])
@torch.no_grad()
def test_no_norm_undoes_the_scale_of_a_virtual_token(kind: str) -> None:
    """Keys and values grow with u. Two models have another norm after the keys' product, so values alone grow there."""
    _, prompted = causal.build(kind)
    prompt = torch.randn(LENGTH, prompted.layer_count, 32)
    zero, one, two = (prompted.encode_prompt(factor * prompt[None], PromptPosition.ALL_LAYERS) for factor in (0, 1, 2))
    for pairs in zip(zero, one, two, strict=True):
        for bias, once, twice in zip(*pairs, strict=True):
            torch.testing.assert_close(twice - bias, 2 * (once - bias), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradient_reaches_every_virtual_token(tiny_folder: Any, gradient_checkpointing: bool) -> None:
    """The gradient of a prompt without text equals that of a prompt read with its text."""
    backbone = load_encoder(str(tiny_folder))
    encoder = backbone.model
    ids, mask, types = (part % 60 for part in batch("bert"))
    keys = functional.pad(mask, (LENGTH, 0), value=1)
    start = torch.randn(LENGTH, 2, 32, generator=torch.Generator().manual_seed(1))
    gradients = []
    if gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    for alone in (True, False):
        prompt = start.clone().requires_grad_()
        if alone:
            hidden, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompt[None], PromptPosition.ALL_LAYERS))
        else:
            together = prompt.expand(3, *prompt.shape)
            hidden = encoder(ids, keys, types, prompt=together, position=PromptPosition.ALL_LAYERS)[0][:, LENGTH:]
        hidden[mask == 1].square().sum().backward()
        assert prompt.grad is not None
        gradients.append(prompt.grad)
    assert (gradients[0].abs().amax(-1) > 0).all()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3, rtol=1e-4)


def test_split_tells_deep_prompts_by_their_shape() -> None:
    values = torch.randn(3, LENGTH, 2, 8)
    deep, first = DeepPrompt.split(values, alone=True)
    assert deep is not None
    assert deep.alone
    assert torch.equal(first, values[:, :, 0])
    shallow, same = DeepPrompt.split(first)
    assert shallow is None
    assert same is first


def test_inputs_are_replaced_and_recorded_in_all_layers_but_the_first() -> None:
    layers = [torch.nn.Identity() for _ in range(3)]
    values = torch.randn(1, 2, 3, 8)
    replace_inputs(layers, lambda _: DeepPrompt(values))
    hidden = torch.randn(1, 6, 8)
    with recorded_inputs(layers) as inputs:
        outputs = hidden
        for layer in layers:
            outputs = layer(outputs)
    assert torch.equal(inputs[0], hidden)
    for number in (1, 2):
        assert torch.equal(inputs[number][:, :2], values[:, :, number])
        assert torch.equal(inputs[number][:, 2:], hidden[:, 2:])
    layers[0](hidden)
    assert len(inputs) == 3  # the recording ends with the block
