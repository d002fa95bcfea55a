"""Prompts that enter every layer, against unchanged transformers models whose prompt rows are overwritten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.initialization import _at_every_layer, initial_prompt
from tests.support import causal, seq2seq
from tests.support.prompted import batch, overwritten, reference, segments

LENGTH = 5


@pytest.mark.parametrize("apart", [True, False], ids=["cached", "with the text"])
@torch.no_grad()
def test_encoders(models: tuple[str, Any, PromptedEncoder], apart: bool) -> None:
    kind, model, encoder = models
    ids, mask, types = batch(kind)
    prompt = torch.randn(LENGTH, 2, 32, generator=torch.Generator().manual_seed(4))
    keys = functional.pad(mask, (LENGTH, 0), value=1)
    visible = keys.bool()[:, None, :].repeat(1, LENGTH + ids.shape[1], 1)
    visible[:, :LENGTH, LENGTH:] = not apart  # which makes no difference to the text, except for ModernBERT's windows
    layers = model.get_submodule(encoder.architecture.layers)
    with overwritten(list(layers.children()), prompt):
        wanted = reference(model, ids, segments(encoder, types), prompt[:, 0].expand(3, -1, -1), visible)[:, LENGTH:]
    if apart:
        found, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompt[None], "every_layer"))
    else:
        together = prompt.expand(3, *prompt.shape)
        found = encoder(ids, keys, types, prompt=together, entry="every_layer")[0][:, LENGTH:]
    assert torch.allclose(found[mask == 1], wanted[mask == 1], atol=1e-5, rtol=0)
    other, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompt[None, :, 0]))
    assert not torch.allclose(found[mask == 1], other[mask == 1], atol=1e-2)


@pytest.mark.parametrize("kind", causal.CONFIGS)
def test_decoder_only_models(kind: str) -> None:
    plain, prompted = causal.build(kind)
    ids, mask, _ = causal.inputs()
    prompt = torch.randn(LENGTH, prompted.layer_count, 32)
    keys, positions = functional.pad(mask, (LENGTH, 0), value=1), prompted.text_positions(mask, LENGTH, "every_layer")
    from_zero = prompted.positions_from_zero("every_layer")
    assert from_zero == kind.startswith("gpt")
    layers = plain.base_model.h if hasattr(plain.base_model, "h") else plain.base_model.layers
    with torch.no_grad():
        hidden, _ = prompted(ids, keys, positions, past=prompted.encode_prompt(prompt[None], "every_layer"))
        cached = prompted.logits(hidden)
        rows = torch.cat([torch.arange(LENGTH).expand(2, -1), positions], 1)
        hidden, _ = prompted(ids, keys, rows, prompt=prompt.expand(2, *prompt.shape), entry="every_layer")
        together = prompted.logits(hidden)[:, LENGTH:]
        for i, n in enumerate(mask.sum(1).tolist()):
            with overwritten(list(layers), prompt):
                wanted = causal.reference(plain, ids[i, :n], prompt[:, 0], from_zero=from_zero)
            torch.testing.assert_close(cached[i, :n], wanted, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together[i, :n], wanted, atol=1e-4, rtol=1e-4)


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
                wanted = seq2seq.reference(plain, ids[i, :n], out[i, :m], prompt[:, 0], prefix=True)
            torch.testing.assert_close(logits[i, :m], wanted, atol=1e-9, rtol=1e-9)


def test_it_starts_as_a_prompt_that_enters_the_first_layer(tiny: EncoderBackbone) -> None:
    first, every = (initial_prompt(tiny, 4, 0, "vocabulary", entry) for entry in ("first_layer", "every_layer"))
    assert every.shape == (4, 2, 32)
    assert torch.equal(every[:, 0], first)
    for one, other in zip(
        tiny.model.encode_prompt(first[None]), tiny.model.encode_prompt(every[None], "every_layer"), strict=True
    ):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def test_causal_start() -> None:
    """A model with learned positions records what its layers receive behind them."""
    _, prompted = causal.build("gpt2")
    prompt = torch.randn(4, 32)
    with torch.no_grad():
        wanted = prompted.encode_prompt(prompt[None])
        backbone = type("Backbone", (), {"model": prompted})
        every = _at_every_layer(backbone, prompt)  # type: ignore[arg-type]
        found = prompted.encode_prompt(every[None])
    torch.testing.assert_close(every[:, 0], prompt, atol=1e-6, rtol=0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradient_reaches_every_row(tiny_folder: Any, gradient_checkpointing: bool) -> None:
    """Each layer's rows get the gradient that they have where nothing is cut short."""
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
            hidden, _ = encoder(ids, keys, types, past=encoder.encode_prompt(prompt[None], "every_layer"))
        else:
            together = prompt.expand(3, *prompt.shape)
            hidden = encoder(ids, keys, types, prompt=together, entry="every_layer")[0][:, LENGTH:]
        hidden[mask == 1].square().sum().backward()
        assert prompt.grad is not None
        gradients.append(prompt.grad)
    assert (gradients[0].abs().amax(-1) > 0).all()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3, rtol=1e-4)
