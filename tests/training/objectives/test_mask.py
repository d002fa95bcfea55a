"""Answers at a mask: training truncates a long text as the device does, and teachers keep their placement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

import mpt_edge
from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.formats.linear_head import LinearHead, LinearLayer
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.taskfile import Side
from mpt_edge.inference.answers import Prediction
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.data.examples import Examples, TaskData, load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.plan import NewPrompt, Plan
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import Settings
from mpt_edge.training.source_stage import train_source
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.encoders import save_tokenizer
from tests.support.prompted import CONFIGS
from tests.support.stages import record_fits, silent

LONG = "dull " * 30 + "a witty film"
LABELS = {"bad": ("bad",), "good": ("good",)}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> EncoderBackbone:
    folder = tmp_path_factory.mktemp("masked") / "tiny"
    torch.manual_seed(0)
    BertForMaskedLM(CONFIGS["bert"]).save_pretrained(folder)
    save_tokenizer(folder)
    return load_encoder(str(folder))


@pytest.mark.parametrize(("side", "kept"), [(Side.RIGHT, LONG.startswith), (Side.LEFT, LONG.endswith)])
def test_long_texts_are_truncated_as_on_the_device(
    masked: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: Side, kept: object
) -> None:
    rows = [{"text": LONG, "label": label} for label in LABELS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = "{text} is {mask}"
    recipe = Recipe(
        "mood",
        "rows.jsonl",
        "rows.jsonl",
        template=template,
        head_type="mask",
        labels=LABELS,
        max_length=12,
        truncation_side=side,
    )
    plan = Plan([recipe], tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    (file,) = train_source(masked, plan, NewPrompt(name="mpt", length=4), silent)
    assert file.truncation_side is side
    export_bundle(ExportPlan(masked, [tmp_path / "run"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    expected = MaskObjective(masked, load_task(recipe, tmp_path), list(LABELS.values())).train_rows[0]
    read = record_fits(monkeypatch)
    answer = model.task("mood")(LONG)
    assert read == [expected]
    assert callable(kept)
    assert kept(expected.text)
    assert isinstance(answer, Prediction)
    assert answer.score == pytest.approx(file.reference_example["score"], abs=1e-4)


def taught(backbone: EncoderBackbone, teacher: Teacher) -> dict[str, float]:
    """Return the losses of a student with the teacher's own prompt, read in the prefix layout at the first layer."""
    examples = Examples(["a witty film", "a dull ball game"], [1, 0])
    recipe = Recipe("mood", "t", "v", template="{text} is {mask}", head_type="mask", labels=LABELS)
    task = TaskData(recipe, tuple(LABELS), examples, examples, None)
    objective = MaskObjective(backbone, task, list(LABELS.values()), Distillation(teacher))
    with torch.no_grad():
        return objective.loss(teacher.prompt, TaskBatch(0, np.arange(2)), np.random.default_rng(0)).parts()


@pytest.mark.parametrize("placement", [Placement(Layout.JOINT), Placement(position=PromptPosition.EMBEDDINGS)])
def test_a_teacher_is_read_in_its_own_placement(masked: EncoderBackbone, placement: Placement) -> None:
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert abs(taught(masked, Teacher(prompt))["logits"]) < 1e-6
    assert taught(masked, Teacher(prompt, placement))["logits"] > 1e-5


def test_a_teacher_with_a_head_answers_by_it(masked: EncoderBackbone) -> None:
    prompt = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    weight = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    head = LinearHead((LinearLayer(weight, np.zeros(2, np.float32)),))
    assert taught(masked, Teacher(prompt, head=head, outputs=(0, 1)))["logits"] > 1e-3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"template": None}, r"mood: head_type 'mask' needs the template to have {mask} once, as in '{text} It was"),
        ({"template": "{text} {mask} {mask}"}, "needs the template to have {mask} once"),
        ({"label_examples": 2}, "reads words at a mask; leave label_examples out"),
        ({"stop": (".",)}, "stop ends generated text, and this task generates none; leave it out"),
        ({"metric": "bleu"}, "metric 'bleu' is unknown; use one of accuracy, macro_f1, matthews"),
    ],
)
def test_recipes_that_do_not_fit(changes: dict[str, object], says: str) -> None:
    recipe = Recipe("mood", "t", "v", template="{text} is {mask}", head_type="mask", labels=LABELS)
    MaskObjective.check_recipe(recipe)
    with pytest.raises(InputError, match=says):
        MaskObjective.check_recipe(replace(recipe, **changes))


def test_backbones_and_words_that_do_not_fit(masked: EncoderBackbone, tiny: EncoderBackbone) -> None:
    examples = Examples(["a witty film", "a dull ball game"], [1, 0])
    recipe = Recipe("mood", "t", "v", template="{text} is {mask}", head_type="mask", labels=LABELS)
    task = TaskData(recipe, tuple(LABELS), examples, examples, None)
    with pytest.raises(UnsupportedModelError, match="tiny-bert has no masked-LM head, which head_type = 'mask' needs"):
        MaskObjective(tiny, task, [["bad"], ["good"]])
    with pytest.raises(InputError, match="mood: 'good film' is 2 tokens to this model"):
        MaskObjective(masked, task, [["bad"], ["good film"]])


def test_a_run_may_mix_head_types(masked: EncoderBackbone, tmp_path: Path) -> None:
    rows = [{"text": f"a {word} film", "label": label} for word, label in (("dull", "bad"), ("witty", "good"))] * 4
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = Recipe("plain", "rows.jsonl", "rows.jsonl", labels=LABELS, max_length=12)
    cloze = replace(plain, name="cloze", template="{text} is {mask}", head_type="mask")
    plan = Plan([plain, cloze], tmp_path, tmp_path / "run", Settings(epochs=1, batch_size=2, max_tasks=2))
    tasks = train_source(masked, plan, NewPrompt(length=4), silent)
    assert [(task.head_type, task.template) for task in tasks] == [("similarity", None), ("mask", "{text} is [MASK]")]
    assert not any(np.array_equal(task.v, np.ones(32)) for task in tasks)


def test_labels_of_one_word(masked: EncoderBackbone) -> None:
    task = TaskData(
        Recipe("mood", "t", "v", template="{text} is {mask}", head_type="mask"),
        ("no", "yes"),
        Examples(["a film", "a game"], [0, 1]),
        Examples(["a film"], [0]),
        None,
    )
    with pytest.raises(InputError, match="mood: the labels 'no' and 'yes' have the same tokens; use other words under"):
        MaskObjective(masked, task, [["good"], ["Good"]])
