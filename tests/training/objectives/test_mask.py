"""What training at a mask reads of a long text is what the device reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

import mpt_edge
from mpt_edge.formats.linear_head import Head, Layer
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.data.rows import Rows, TaskData, load_task
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.objectives.objective import Distillation, Teacher
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import Settings
from mpt_edge.training.stages import NewPrompt, Plan, train_source
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.encoders import save_tokenizer
from tests.support.prompted import CONFIGS
from tests.support.stages import silent

LONG = "dull " * 30 + "a witty film"
LABELS = {"bad": ("bad",), "good": ("good",)}


@pytest.fixture
def masked(tmp_path: Path) -> EncoderBackbone:
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    BertForMaskedLM(CONFIGS["bert"]).save_pretrained(folder)
    save_tokenizer(folder)
    return load_encoder(str(folder))


@pytest.mark.parametrize(("cut", "kept"), [("right", LONG.startswith), ("left", LONG.endswith)])
def test_long_texts_are_cut_as_on_the_device(masked: EncoderBackbone, tmp_path: Path, cut: str, kept: object) -> None:
    rows = [{"text": LONG, "label": label} for label in LABELS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = "{text} is {mask}"
    recipe = Recipe(
        "mood", "rows.jsonl", "rows.jsonl", template=template, readout="mask", labels=LABELS, max_length=12, cut=cut
    )
    plan = Plan([recipe], tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    (file,) = train_source(masked, plan, NewPrompt(name="mpt", length=4), silent)
    assert file.cut == cut
    export_bundle(ExportPlan(masked, [tmp_path / "run"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert isinstance(model, EncoderModel)
    (read,) = model._encode([LONG], [model._select("mood")])[1]
    wanted = MaskObjective(masked, [load_task(recipe, tmp_path)], [list(LABELS.values())]).train_rows[0][0]
    assert read == wanted
    assert callable(kept)
    assert kept(wanted.text)
    assert model.task("mood")(LONG).score == pytest.approx(file.reference_example["score"], abs=1e-4)


def taught(backbone: EncoderBackbone, teacher: Teacher) -> dict[str, float]:
    """Return the losses of a student with the teacher's own prompt, read in the prefix layout at the first layer."""
    rows = Rows(["a witty film", "a dull ball game"], [1, 0])
    recipe = Recipe("mood", "t", "v", template="{text} is {mask}", readout="mask", labels=LABELS)
    task = TaskData(recipe, tuple(LABELS), rows, rows, None)
    objective = MaskObjective(backbone, [task], [list(LABELS.values())], Distillation([teacher]))
    with torch.no_grad():
        return objective.loss(teacher.prompt, TaskBatch(0, np.arange(2)), np.random.default_rng(0)).parts()


@pytest.mark.parametrize(("layout", "entry"), [(Layout.JOINT, Entry.FIRST_LAYER), (Layout.PREFIX, Entry.INPUTS_EMBEDS)])
def test_a_teacher_is_read_in_its_own_layout_and_entry(masked: EncoderBackbone, layout: Layout, entry: Entry) -> None:
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert abs(taught(masked, Teacher(prompt))["logits"]) < 1e-6
    assert taught(masked, Teacher(prompt, layout, entry))["logits"] > 1e-5


def test_a_teacher_with_a_head_answers_by_it(masked: EncoderBackbone) -> None:
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    weight = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    head = Head((Layer(weight, np.zeros(2, np.float32)),))
    assert taught(masked, Teacher(prompt, head=head, outputs=(0, 1)))["logits"] > 1e-3
