"""A GGUF file from training to the device: its identity, its answers, and the tokens of its chat template."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import mpt_edge
from mpt_edge.errors import InputError
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.formats.manifest import read_manifest
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.answers import Generation
from mpt_edge.training.backbones.generative_backbone import CausalBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.generative import GenerationObjective
from mpt_edge_export.command import export_command
from tests.support.causal import LENGTH
from tests.support.gguf import TEMPLATE, write_model
from tests.support.stages import record_fits

TEXTS = ["a bad film", "  12 a ", "</s><s>system:b", "(a) a_b {text}"]
SYSTEM = "be good"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    write_model(path, changes={"general.license": "apache-2.0"})
    return path


@pytest.fixture(scope="module")
def backbone(file: Path) -> CausalBackbone:
    backbone = open_backbone(str(file))
    assert isinstance(backbone, CausalBackbone)
    return backbone


def objective(backbone: CausalBackbone, **entries: object) -> GenerationObjective:
    """Return a task that generates text in a chat with a system text."""
    recipe = Recipe("story", "t", "v", head_type="generation", template="chat", max_length=60, metric="f1")
    examples = Examples(TEXTS, [], [("a",)] * len(TEXTS))
    data = TaskData(replace(recipe, **entries), (), examples, examples, None)  # type: ignore[arg-type]
    return GenerationObjective(backbone, data, [])


def expected(backbone: CausalBackbone, system: str | None, messages: list[str]) -> list[list[int]]:
    """Return the tokens that transformers makes of chats by the template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_buffer(backbone.tokenizer_json), chat_template=TEMPLATE
    )
    first = [{"role": "system", "content": system}] if system else []
    chats = [[*first, {"role": "user", "content": message}] for message in messages]
    ids: list[list[int]] = tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
    return ids


@pytest.mark.parametrize("system", [None, SYSTEM])
def test_training_reads_the_tokens_of_transformers(backbone: CausalBackbone, system: str | None) -> None:
    rows = [row.ids for row in objective(backbone, system=system).train_rows]
    assert rows == expected(backbone, system, TEXTS)


def test_message_around_a_text(backbone: CausalBackbone) -> None:
    rows = [row.ids for row in objective(backbone, message="say: {text}!").train_rows]
    assert rows == expected(backbone, None, [f"say: {text}!" for text in TEXTS])


def test_long_text_is_cut_and_the_chat_is_not(backbone: CausalBackbone) -> None:
    chat = backbone.chat_frame(SYSTEM)
    row = backbone.texts.fit(None, "abc" * 40, 50, chat=chat)
    assert (row.truncated, len(row.ids), row.text) == (True, 50, ("abc" * 40)[: len(row.text)])
    assert [row.ids] == expected(backbone, SYSTEM, [str(row.text)])


def test_file_without_a_template(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf", changes={"tokenizer.chat_template": None})
    with pytest.raises(InputError, match=r"a has no chat template; write the template out, with \{text\}"):
        open_backbone(str(tmp_path / "a.gguf")).chat_frame()


def save_task(folder: Path, backbone: CausalBackbone, chat: ChatFrame | None) -> None:
    """Write a shared prompt and a task with a chat, with random vectors."""
    rng = np.random.default_rng(0)
    values = (0.3 * rng.standard_normal((LENGTH, 32))).astype(np.float16)
    shared = SharedPrompt("mpt", values, Placement(), backbone.fingerprint)
    task = TaskFile(
        name="story",
        head_type="generation",
        u=np.ones(LENGTH, np.float16),
        v=np.ones(32, np.float16),
        prompt="mpt",
        prompt_sha256=shared.fingerprint,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        chat=chat,
        max_length=60,
        generation={"max_new_tokens": 4},
    )
    shared.save(folder / "prompts" / "mpt.safetensors")
    VectorFolder(folder).save(task)


def test_bundle_of_a_file(
    file: Path, backbone: CausalBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_task(tmp_path / "vectors", backbone, objective(backbone, system=SYSTEM).chat)
    export_command(str(file), tmp_path / "bundle", [tmp_path / "vectors"])
    assert read_manifest(tmp_path / "bundle" / "bundle.json").backbone == {
        "id": "tiny.F32", "file": "tiny.F32.gguf", "license": "apache-2.0", "fingerprint": backbone.fingerprint,
    }  # fmt: skip
    rows = record_fits(monkeypatch)
    (answer,) = mpt_edge.load(tmp_path / "bundle").task("story")(TEXTS[:1])
    assert [rows[-1].ids] == expected(backbone, SYSTEM, TEXTS[:1])
    assert isinstance(answer, Generation)
    assert answer.text == _continued(backbone, rows[-1].ids)


@torch.no_grad()
def _continued(backbone: CausalBackbone, ids: list[int]) -> str:
    """Return the four likeliest tokens after a prompt and a text, by transformers alone."""
    shared = (0.3 * np.random.default_rng(0).standard_normal((LENGTH, 32))).astype(np.float16)
    model, new = copy.deepcopy(backbone.model.model), list[int]()
    model.set_attn_implementation("eager")  # ours needs a mask with every call
    for _ in range(4):
        words = model.get_input_embeddings()(torch.tensor([ids + new]))
        logits = model(inputs_embeds=torch.cat([torch.tensor(shared)[None].float(), words], 1)).logits
        new.append(int(logits[0, -1].argmax()))
        if new[-1] in backbone.eos_ids:
            break
    return str(backbone.texts.tokenizer.decode(new))
