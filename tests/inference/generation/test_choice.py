"""Likelihoods of all choices in one pass against those of each choice alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import PreTrainedModel

from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.training.backbones.causal import PromptedCausal
from tests.support.decodings import opened
from tests.support.searches import TEXTS


def test_likelihoods_are_those_of_each_choice_alone(pair: tuple[PreTrainedModel, PromptedCausal]) -> None:
    plain, prompted = pair
    choices = [[[4, 5, 6], [9]], [[30], [31], [32, 33]], [[10, 11, 12, 13]]]
    decoding, logits = opened(prompted, TEXTS)
    for text, group, result in zip(TEXTS, choices, likelihoods(decoding, logits, choices), strict=True):
        for tokens, value in zip(group, result, strict=True):
            with torch.no_grad():
                scores = log_softmax(plain(torch.tensor([text + tokens])).logits[0].numpy(), axis=-1)
            places = np.arange(len(text) - 1, len(text) + len(tokens) - 1)
            assert value == pytest.approx(scores[places, tokens].mean(), abs=1e-4)
