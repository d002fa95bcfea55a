"""Generative models and their unchanged originals: a small one, and a real one where its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.prompts import compose
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from tests.support.places import SHARED
from tests.support.writers import export_writer

LLAMA = SHARED / "weights" / "tinystories-656k-llama"


class Reference:
    """The unchanged model; prompt and text are one sequence of embeddings."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.bundle = Bundle.open(bundle)

    def embedded(self, text: str, task: str, more: list[int] | None = None) -> torch.Tensor:
        """Return prompt, text and further tokens as embeddings, ``(1, rows, d)``."""
        file = self.bundle.task(task)
        prompt = torch.from_numpy(compose(self.bundle.prompt("mpt").values, file.u, file.v))
        ids = self.tokenizer(text).input_ids + (more or [])
        return torch.cat([prompt, self.model.get_input_embeddings()(torch.tensor(ids))])[None]

    @torch.no_grad()
    def generate(self, text: str, task: str, count: int, **options: object) -> list[int]:
        """Return at most ``count`` new tokens, without the one that ends a text."""
        rows = self.embedded(text, task)
        ones = torch.ones(rows.shape[:2], dtype=torch.long)
        result = self.model.generate(
            inputs_embeds=rows, attention_mask=ones, max_new_tokens=count, do_sample=False, pad_token_id=0, **options
        )[0].tolist()
        return result[: result.index(2)] if 2 in result else result

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.fixture(scope="session", params=["tiny", "real"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model's folder and its bundle."""
    if request.param == "tiny":
        return request.getfixturevalue("writer").folder, request.getfixturevalue("writer_bundle")
    if not LLAMA.is_dir():
        pytest.skip("no ../shared/weights with the TinyStories models")
    backbone = open_backbone(str(LLAMA))
    assert isinstance(backbone, GenerativeBackbone)
    return LLAMA, export_writer(backbone, 12, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def generative(exported: tuple[Path, Path]) -> Any:
    """Return the exported model, loaded."""
    return mpt_edge.load(exported[1], threads=1)


@pytest.fixture(scope="session")
def reference(exported: tuple[Path, Path]) -> Reference:
    """Return the unchanged model."""
    return Reference(*exported)
