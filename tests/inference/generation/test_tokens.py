"""Penalties and sampling probabilities against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.tokens import penalize, pick, probabilities


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.8), (0.9, 20, 0.5)]
)
def test_probabilities_are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (8, 61)).astype(np.float32)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    wanted = softmax(warpers(None, torch.from_numpy(logits)).numpy(), axis=-1)
    options = GenerationOptions(temperature=temperature, top_k=top_k, top_p=top_p)
    for row, expected in zip(logits, wanted, strict=True):
        np.testing.assert_allclose(probabilities(row, options), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-6, 1e-310])
def test_hardly_any_temperature_takes_the_likeliest(temperature: float) -> None:
    options = GenerationOptions(temperature=temperature)
    np.testing.assert_array_equal(probabilities(np.array([9, 10, -3, -np.inf], np.float32), options), [0, 1, 0, 0])


def test_samples_follow_the_probabilities() -> None:
    scores = np.random.default_rng(1).normal(0, 1.5, 10).astype(np.float32)
    options = GenerationOptions(temperature=0.8)
    rng = np.random.default_rng(0)
    counts = np.bincount([pick(scores, options, rng) for _ in range(20_000)], minlength=10) / 20_000
    assert np.abs(counts - probabilities(scores, options)).max() < 0.012


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(CorruptFileError, match="not a number"):
        penalize(np.array([0.0, np.nan], np.float32), [], GenerationOptions(), (2,), 0)


def test_penalties() -> None:
    """Scores of earlier tokens shrink, whatever their sign, and no text ends before its minimum length."""
    scores = np.array([4, -2, 1, 3], np.float32)
    options = GenerationOptions(repetition_penalty=2.0, min_new_tokens=2)
    np.testing.assert_array_equal(penalize(scores, [0, 1, 0], options, (3,), 1), [2, -4, 1, -np.inf])
    np.testing.assert_array_equal(penalize(scores, [], options, (3,), 2), scores)
    np.testing.assert_array_equal(scores, [4, -2, 1, 3])
