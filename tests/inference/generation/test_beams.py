"""Beam search against transformers' generate on random models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.beams import BeamRow, beam_search
from mpt_edge.training.backbones.causal import PromptedCausal
from tests.support.decodings import opened
from tests.support.searches import EOS, TEXTS, reference


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 4},
        {"num_beams": 3, "length_penalty": 0.0},
        {"num_beams": 3, "length_penalty": 2.5},
        {"num_beams": 3, "length_penalty": -1.0},
        {"num_beams": 4, "early_stopping": True},
        {"num_beams": 3, "early_stopping": "never"},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.5},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": -1.0},
        {"num_beams": 3, "repetition_penalty": 1.5},
        {"num_beams": 3, "min_new_tokens": 9},
    ],
    ids=str,
)
@pytest.mark.parametrize("boost", [0.0, 4.0], ids=["", "early ends"])
def test_beams_are_those_of_transformers(
    pair: tuple[PreTrainedModel, PromptedCausal], options: dict[str, float], boost: float
) -> None:
    plain, prompted = pair
    heads = [model.get_output_embeddings() for model in (plain, prompted.model)]
    hooks = [head.register_forward_hook(lambda *given: _boosted(given[2], boost)) for head in heads]
    try:
        chosen = GenerationOptions(max_new_tokens=14, **options)
        decoding, logits = opened(prompted, TEXTS)
        rows = [BeamRow(chosen, history=text) for text in TEXTS]
        beam_search(decoding, logits, rows, EOS)
        for row, text in zip(rows, TEXTS, strict=True):
            assert row.best[0] == reference(plain, text, max_new_tokens=14, **options)
    finally:
        for hook in hooks:
            hook.remove()


def test_beams_go_on_beside_several_end_tokens() -> None:
    row = BeamRow(GenerationOptions(num_beams=2))
    _, tokens = row.step(np.tile(np.arange(6, 0, -1, dtype=np.float32), (2, 1)), eos=(0, 1, 2))
    assert tokens == [3, 4]


def test_beams_that_all_come_to_a_stop_text_end() -> None:
    row = BeamRow(GenerationOptions(num_beams=2), stops=lambda _: True)
    row.step(np.tile(np.arange(6, dtype=np.float32), (2, 1)), EOS)
    assert row.done
    assert row.best == ([5], "stop")


def test_beams_that_favor_short_texts_never_stop_too_early() -> None:
    """Complete texts have -4 and -5; one under way has -1, and would have -14 if it ran to the limit."""
    options = GenerationOptions(num_beams=2, max_new_tokens=14, early_stopping="never", length_penalty=-1.0)
    row = BeamRow(options, complete=[(-4.0, [2], "eos"), (-5.0, [2], "eos")])
    row.scores[0] = -1.0
    row.step(np.tile(np.array([0, 0, -99, 40], np.float32), (2, 1)), EOS)
    assert not row.done


def _boosted(logits: torch.Tensor, boost: float) -> torch.Tensor:
    """Make the token that ends a text likelier, so that beams end at different lengths."""
    changed = logits.clone()
    changed[..., 2] += boost
    return changed
