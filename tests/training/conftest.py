"""Fixtures of several modules: encoders with and without a prompt, small tasks in files, and runs on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.modernbert import PromptedModernBert
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.plan import Origin, Plan
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from tests.support.prompted import CONFIGS
from tests.support.stages import SETTINGS, SHARED, Stages, silent, write_task


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


@pytest.fixture(scope="session")
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


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def stages(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path_factory: pytest.TempPathFactory
) -> Stages:
    """Run both stages once: two source tasks, then a target task of pairs with a template. Do not change them."""
    folder, recipes = data
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(output / "cache"))
        plan = Plan([recipes["mood"], recipes["field"]], folder, output / "source", SETTINGS, test=True)
        source = train_source(tiny, plan, SHARED, silent)
        shared = SharedPrompt.load(output / "source/prompts/shared.safetensors")
        match = replace(recipes["match"], template="{text_pair} ball {text}")
        plan = Plan([match], folder, output / "target", SETTINGS)
        target = train_target(tiny, plan, Origin(folder=output / "source", shared=shared, init="mood"), silent)
    return Stages(folder, recipes, output / "source", source, output / "target", target, shared)
