"""Fixtures of several modules: encoders with and without a prompt, and small tasks in files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    PreTrainedModel,
)

from mpt_edge.training.modernbert import PromptedModernBert
from mpt_edge.training.prompted import PromptedEncoder
from mpt_edge.training.recipes import Recipe
from tests.support.prompted import CONFIGS
from tests.support.stages import write_task


@pytest.fixture(scope="module", params=CONFIGS)
def models(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel, PromptedEncoder]:
    torch.manual_seed(1)
    model = AutoModel.from_config(CONFIGS[request.param]).eval()
    with torch.no_grad():  # default biases and norms are zeros and ones, which would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    carrier = PromptedModernBert if request.param == "modernbert" else PromptedEncoder
    return request.param, model, carrier(copy.deepcopy(model))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Recipe]]:
    folder = tmp_path_factory.mktemp("data")
    words = {
        "mood": {"negative": "dull", "positive": "witty"},
        "field": {"nature": "atom", "sky": "star", "state": "party"},
        "match": {"no": "bad", "yes": "good"},
    }
    recipes = {name: write_task(folder, name, entries, pair=name == "match") for name, entries in words.items()}
    recipes["mood"] = replace(recipes["mood"], labels={"negative": ("a bad one",), "positive": ("a good one", "great")})
    return folder, recipes
