"""A real model with learned positions and local attention, through the command, against transformers' forward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.prompts import compose
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from tests.support import commands
from tests.support.places import SHARED
from tests.support.writers import TEXTS, text_task, word_prompt

NEO = SHARED / "weights" / "tinystories-3m-gptneo"
COUNT = 16

pytestmark = pytest.mark.skipif(not NEO.is_dir(), reason="no ../shared/weights with the TinyStories models")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neo")
    backbone = open_backbone(str(NEO))
    assert isinstance(backbone, GenerativeBackbone)
    shared = word_prompt(backbone, "Lily was happy and sang in the park with her friend Max and his dog.", 12)
    shared.save(folder / "prompts/mpt.safetensors")
    text_task(backbone, shared, "story").save(folder / "tasks/story.safetensors")
    export_bundle(ExportPlan(backbone, [folder], folder / "bundle"))
    return folder / "bundle"


@torch.no_grad()
def reference(bundle: Path, text: str) -> str:
    """Generate greedily by whole passes. Text positions count from 0, and the prompt has none.

    transformers adds positions to all embeddings, so those of the prompt are subtracted first.
    """
    model = AutoModelForCausalLM.from_pretrained(NEO, dtype=torch.float32).eval()
    tokenizer, opened = AutoTokenizer.from_pretrained(NEO), Bundle.open(bundle)
    file = opened.task("story")
    prompt = torch.from_numpy(compose(opened.prompt("mpt").values, file.u, file.v))
    prompt = prompt - model.transformer.wpe.weight[: len(prompt)]
    ids = tokenizer(text).input_ids
    start = len(ids)
    while len(ids) < start + COUNT:
        rows = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids))])[None]
        positions = torch.cat([torch.arange(len(prompt)), torch.arange(len(ids))])[None]
        token = int(model(inputs_embeds=rows, position_ids=positions).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True)).lstrip()


def test_the_command_generates_what_transformers_generates(bundle: Path) -> None:
    """One text streamed, and three of different lengths in one batch."""
    expected = [reference(bundle, text) for text in TEXTS]
    options = ["--bundle", bundle, "--task", "story", "--max-new-tokens", COUNT]
    assert commands.run("run", *options, TEXTS[1]).stdout == expected[1] + "\n"
    rows = commands.run("run", *options, "--json", *TEXTS).stdout.splitlines()
    assert [json.loads(row)["output"] for row in rows] == expected
    assert len(set(expected)) == len(TEXTS)
    assert min(map(len, expected)) > 10
