"""Texts opened in PyTorch without a prompt, behind the interface that search is written for."""

from __future__ import annotations

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.objectives.generative_reading import TorchDecoding


def opened(model: PromptedCausal, texts: list[list[int]]) -> tuple[TorchDecoding, Floats]:
    """Read texts of different lengths, and return the state and the logits after each."""
    decoding = TorchDecoding(model, None, PromptPosition.FIRST_LAYER, len(texts))
    longest = max(map(len, texts))
    tokens = np.array([text + [0] * (longest - len(text)) for text in texts])
    mask = np.array([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    return decoding, decoding.read(tokens, mask, last_only=True)[:, 0]
