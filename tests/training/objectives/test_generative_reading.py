"""Inputs and targets read in one pass, against rows read alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.inference.text import Encoded
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.objectives.generative_reading import _common_tokens, open_texts, read_texts
from tests.support import adapters, causal

TARGETS = [[7, 9, 11], [8]]


@pytest.mark.parametrize("layout", list(Layout))
@torch.no_grad()
def test_states_and_mask_of_an_encoder_decoder_are_those_of_the_text(tmp_path: Path, layout: Layout) -> None:
    backbone = open_backbone(str(adapters.save_base("t5", tmp_path / "t5")))
    assert isinstance(backbone, Seq2SeqBackbone)
    rows = backbone.texts.encode(["a witty film of the law", "ball"], 16)
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    output = read_texts(backbone, prompt, Placement(layout), rows, TARGETS)
    long, short = (len(row.ids) for row in rows)
    assert output.mask.tolist() == [[1] * (long + 3), [1] * short + [0] * (long - short) + [1, 0, 0]]
    assert output.hidden.shape[:2] == output.mask.shape
    ids, keys = torch.tensor([rows[1].ids]), torch.ones(1, 4 + short, dtype=torch.long)
    if layout is Layout.JOINT:
        states = backbone.model.encode(ids, keys, prompt=prompt[None])[0][:, 4:]
    else:
        states, _ = backbone.model.encode(ids, keys, past=backbone.model.encode_prompt(prompt[None])[0])
    torch.testing.assert_close(output.hidden[1, :short], states[0], atol=1e-5, rtol=1e-4)
    alone = read_texts(backbone, prompt, Placement(layout), rows[1:], TARGETS[1:])
    torch.testing.assert_close(output.logits[3:], alone.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_prompt_of_word_embeddings_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    """GPT-2 adds positions to it, and counts the text's from its end."""
    backbone = open_backbone(str(adapters.save_base("gpt2", tmp_path / "gpt2")))
    assert isinstance(backbone, CausalBackbone)
    (row,) = backbone.texts.encode(["a witty film"], 16)
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    output = read_texts(backbone, prompt, Placement(position=PromptPosition.EMBEDDINGS), [row], TARGETS[:1])
    model = AutoModelForCausalLM.from_pretrained(backbone.folder).eval()
    words = model.get_input_embeddings()(torch.tensor([*row.ids, *TARGETS[0]]))
    expected = model(inputs_embeds=torch.cat([prompt, words])[None]).logits[0, -4:-1]
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", list(PromptPosition))
@pytest.mark.parametrize("kind", sorted(causal.CONFIGS))
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_common_beginning_is_read_once_with_the_same_result(
    tmp_path: Path, kind: str, position: PromptPosition, is_checkpointed: bool
) -> None:
    """Losses, and gradients through it, are those of rows read alone, which share nothing."""
    backbone = open_backbone(str(adapters.save_base("gpt2", tmp_path / "gpt2")))
    assert isinstance(backbone, CausalBackbone)
    backbone = replace(backbone, model=causal.build(kind)[1])
    if is_checkpointed:
        backbone.model.enable_gradient_checkpointing()
    ids = [[*range(5, 45), *end] for end in ([61], [62, 63, 64])]
    rows = [Encoded(each, [0] * len(each), truncated=False) for each in ids]
    layers, width = len(backbone.model.layers), backbone.model.hidden_size
    shape = (4, layers, width) if position is PromptPosition.ALL_LAYERS else (4, width)
    prompt = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    calls: list[tuple[int, ...]] = []
    backbone.model.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
    output = read_texts(backbone, prompt, Placement(position=position), rows, TARGETS)
    assert calls[-2:] == [(1, 40), (2, 4)]
    (gradient,) = torch.autograd.grad(output.loss(), prompt)
    alone = [
        read_texts(backbone, prompt, Placement(position=position), [row], [target])
        for row, target in zip(rows, TARGETS, strict=True)
    ]
    torch.testing.assert_close(output.logits, torch.cat([each.logits for each in alone]), atol=1e-4, rtol=1e-4)
    (expected,) = torch.autograd.grad(sum(each.loss() for each in alone), prompt)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", sorted(causal.CONFIGS))
@pytest.mark.parametrize("position", [PromptPosition.FIRST_LAYER, PromptPosition.EMBEDDINGS])
@torch.no_grad()
def test_texts_are_continued_after_a_common_beginning(tmp_path: Path, kind: str, position: PromptPosition) -> None:
    backbone = open_backbone(str(adapters.save_base("gpt2", tmp_path / "gpt2")))
    assert isinstance(backbone, CausalBackbone)
    backbone = replace(backbone, model=causal.build(kind)[1])
    rows = [Encoded(each, [0] * len(each), truncated=False) for each in ([*range(5, 45), 61], [*range(5, 45), 7, 8])]
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    state, logits = open_texts(backbone, prompt, Placement(position=position), rows)
    after = state.step(np.array([9, 10]))
    for number, (row, token) in enumerate(zip(rows, (9, 10), strict=True)):
        alone, first = open_texts(backbone, prompt, Placement(position=position), [row])
        np.testing.assert_allclose(logits[number], first[0], atol=1e-4)
        np.testing.assert_allclose(after[number], alone.step(np.array([token]))[0], atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "common"),
    [
        ([[1] * 40, [1] * 40], [1] * 39),  # the last token predicts the target
        ([[1] * 40 + [2, 3], [1] * 40 + [4]], [1] * 40),
        ([[1] * 20 + [2], [1] * 20 + [4]], []),  # too few
        ([[1] * 20 + [2], [1] * 20 + [4], [1] * 20 + [5]], [1] * 20),
        ([[1] * 40], []),
        ([[1, 2], [2, 2]], []),
    ],
)
def test_common_beginning(rows: list[list[int]], common: list[int]) -> None:
    assert _common_tokens(rows) == common
