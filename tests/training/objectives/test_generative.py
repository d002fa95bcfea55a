"""Tasks on a decoder-only model: loss and answers against transformers, training that helps, and the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM

import mpt_edge
from mpt_edge.errors import InputError
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Side, TaskFile
from mpt_edge.inference.answers import Generation, Prediction
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.examples import Examples, TaskData, load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives import generative
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.objectives.generative import ChoiceObjective, GenerationObjective
from mpt_edge.training.objectives.table import make_objectives
from mpt_edge.training.objectives.text_metrics import token_f1
from mpt_edge.training.plan import NewPrompt, Origin, Plan
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import Settings, TeacherPlan
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.parts import assert_parts_add_up
from tests.support.places import SHARED
from tests.support.stages import record_fits, silent, write_text_tasks

LLAMA = SHARED / "weights" / "tinystories-656k-llama"
TEXTS = ["The cat", "Tom had a ball and", "One day"]
ANSWERS = [("It sat on the mat.", "It slept."), ("He was happy.",), ("She ran to the park.",)]


@pytest.fixture(scope="module")
def backbone(writer: GenerativeBackbone) -> GenerativeBackbone:
    return writer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def story() -> TaskData:
    examples = Examples(TEXTS, [], ANSWERS)
    recipe = Recipe(
        "story",
        "t",
        "v",
        head_type="generation",
        template="{text}:",
        max_length=32,
        max_target_length=12,
        metric="f1",
    )
    return TaskData(recipe, (), examples, examples, None)


def prompt(seed: int) -> torch.Tensor:
    return 0.05 * torch.randn(7, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reference_losses(backbone: GenerativeBackbone, prefix: torch.Tensor | None) -> np.ndarray:
    """Loss of every target token, one text at a time, from the unchanged model."""
    model = AutoModelForCausalLM.from_pretrained(backbone.folder, dtype=torch.float32).eval()
    losses = []
    for text, answers in zip(TEXTS, ANSWERS, strict=True):
        ids = backbone.texts.encode([f"{text}:"], 100)[0].ids
        target = [*backbone.texts.continuations([answers[0]])[0][:12], 2]
        rows = model.get_input_embeddings()(torch.tensor(ids + target))
        rows = rows if prefix is None else torch.cat([prefix, rows])
        scores = log_softmax(model(inputs_embeds=rows[None]).logits[0].numpy(), axis=-1)
        positions = np.arange(len(rows) - len(target) - 1, len(rows) - 1)
        losses.append(-scores[positions, target])
    return np.concatenate(losses)


@pytest.mark.parametrize("seed", [None, 3])
def test_loss_is_that_of_transformers(backbone: GenerativeBackbone, seed: int | None) -> None:
    prefix = None if seed is None else prompt(seed)
    objective = GenerationObjective(backbone, story(), [])
    expected = reference_losses(backbone, prefix).mean()
    loss = objective.loss(prefix, TaskBatch(0, np.arange(3)), np.random.default_rng(0))
    assert float(loss.task) == pytest.approx(expected, abs=1e-4)
    assert objective.held_out_loss(prefix, story().validation) == pytest.approx(expected, abs=1e-4)


def test_a_teacher_pulls_and_an_agreeing_one_does_not(backbone: GenerativeBackbone) -> None:
    batch = TaskBatch(0, np.arange(3))
    same = GenerationObjective(backbone, story(), [], Distillation(Teacher(prompt(1))))
    loss = same.loss(prompt(1), batch, np.random.default_rng(0))
    assert float(loss.logits) == pytest.approx(0, abs=1e-6)
    assert float(loss.hidden) == pytest.approx(0, abs=1e-6)
    other = GenerationObjective(backbone, story(), [], Distillation(Teacher(prompt(2))))
    trained = prompt(1).requires_grad_()
    loss = other.loss(trained, batch, np.random.default_rng(0))
    assert float(loss.logits) > 1e-4
    assert float(loss.hidden) > 1e-4
    assert float(loss.total) == pytest.approx(float(loss.task + 0.9 * (loss.logits + loss.hidden)), rel=1e-5)
    loss.total.backward()
    assert trained.grad is not None
    assert (trained.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_batch_of_texts_of_different_lengths_add_up_to_it(backbone: GenerativeBackbone, size: int) -> None:
    objective = GenerationObjective(backbone, story(), [], Distillation(Teacher(prompt(2))))
    assert_parts_add_up(objective, prompt(1), 3, size)


def test_passes_on_a_cpu_have_a_limited_number_of_tokens(
    backbone: GenerativeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = GenerationObjective(backbone, story(), [])
    rows = np.array([2, 0, 1])
    assert [part.tolist() for part in objective.parts(rows, None)] == [[2, 0, 1]]
    lengths = objective.train_lengths
    assert lengths.tolist() == [len(objective.example_tokens(row)) for row in range(3)]
    limit = int(2 * np.sort(lengths)[1])
    monkeypatch.setattr(generative, "_TOKENS_PER_PASS", limit)
    parts = list(objective.parts(rows, None))
    assert [len(part) for part in parts] == [2, 1]  # the shortest two together
    assert sorted(np.concatenate(parts)) == [0, 1, 2]
    assert lengths[parts[0]].max() * 2 <= limit < lengths.max() * 3
    assert [len(part) for part in objective.parts(rows, 1)] == [1, 1, 1]
    assert list(objective.parts(rows[:0], None)) == []


def test_validation_reads_the_loss_and_generates_a_stated_sample(
    backbone: GenerativeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(story(), test=story().validation)
    objective = GenerationObjective(backbone, data, [])
    expected = np.exp(-reference_losses(backbone, prompt(3)).mean())
    monkeypatch.setattr(objective, "generate", lambda *_: pytest.fail("texts are not for validation"))
    assert objective.score(prompt(3), data.validation) == pytest.approx(expected, abs=1e-4)
    monkeypatch.undo()
    monkeypatch.setattr(generative, "_VALIDATION_TEXTS", 2)
    metrics = objective.evaluate(prompt(3)).metrics
    assert (metrics["validation"]["examples"], metrics["validation"]["texts"]) == (3, 2)
    sample = data.validation.sample(2)
    assert metrics["validation"]["f1"] == round(
        token_f1(objective.generate(prompt(3), sample.texts), sample.references), 4
    )
    assert "texts" not in metrics["test"]
    assert metrics["test"]["loss"] == metrics["validation"]["loss"]


def test_a_choice_keeps_room_for_its_longest_label(backbone: GenerativeBackbone) -> None:
    texts = ["He was Tom.", "She"]
    examples = Examples(["The cat", "The dog"], [0, 1])
    task = TaskData(Recipe("who", "t", "v"), ("Tom", "Lily"), examples, examples, None)
    objective = ChoiceObjective(backbone, task, [[text] for text in texts])
    evaluation = objective.evaluate(prompt(0))
    long, short = map(len, backbone.texts.continuations(texts))
    assert evaluation.generation == {"max_new_tokens": long}
    assert objective.new_tokens == long
    assert long > short


@pytest.mark.skipif(
    not LLAMA.is_dir(), reason="no ../shared/weights with a model that knows enough to learn by a prompt"
)
def test_stages_learn_and_the_bundle_answers_as_pytorch_did(tmp_path: Path) -> None:
    """Teachers, student, target, export: the device gives the texts and labels that training measured."""
    backbone = open_backbone(str(LLAMA))
    assert isinstance(backbone, GenerativeBackbone)
    happy, who = write_text_tasks(tmp_path)
    settings = Settings(epochs=30, batch_size=6, tasks_per_step=2, max_tasks=0, prompt_lr=0.05, task_lr=0.05)
    plan = Plan([happy, who], tmp_path, tmp_path / "run", settings, test=True)
    teachers = TeacherPlan(folder=tmp_path / "teachers", epochs=2, lr=0.05)
    tasks = {
        task.name: task
        for task in train_source(
            backbone, plan, NewPrompt(name="shared", length=8, position=PromptPosition.FIRST_LAYER), silent, teachers
        )
    }
    assert (tasks["happy"].head_type, tasks["who"].head_type) == ("generation", "choice")
    assert tasks["happy"].metrics["test"]["exact_match"] > 0.5  # none of it is generated without training
    data = load_task(happy, tmp_path)
    untrained = GenerationObjective(backbone, data, [])
    assert set(untrained.generate(None, data.train.texts)) != {"was very happy."}
    assert tasks["happy"].metrics["test"]["loss"] < 0.7 * untrained.held_out_loss(None, data.train)
    assert tasks["who"].metrics["validation"]["accuracy"] > 0.5  # of two labels, each for half of the examples
    shared = SharedPrompt.load(tmp_path / "run/prompts/shared.safetensors")
    plan = replace(plan, recipes=[replace(happy, name="again")], settings=replace(settings, epochs=2))
    train_target(backbone, plan, Origin(folder=tmp_path / "run", shared=shared, init="nearest"), silent)
    export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == ["again", "happy", "who"]
    for name in model.tasks:
        reference_example = TaskFile.load(tmp_path / f"run/tasks/{name}.safetensors").reference_example
        answer = model.task(name)(reference_example["text"])
        if isinstance(answer, Generation):
            assert answer.text == reference_example["label"]
        else:
            assert isinstance(answer, Prediction)
            assert answer.label == reference_example["label"]
            assert answer.score == pytest.approx(reference_example["score"], abs=1e-3)


def test_truncation_and_stop_are_the_devices_too(
    backbone: GenerativeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both head types see of a long text what training saw of it, and texts end where training ended them."""
    happy, who = write_text_tasks(tmp_path)
    long = " ".join(f"{name} saw a ball." for name in ("Tom", "Lily", "Max") * 6)
    rows = [{"text": long, "target": "was very happy.", "label": name} for name in ("Tom", "Lily")]
    for name in ("happy", "who"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipes = [replace(happy, truncation_side=Side.LEFT, stop=("a", "t")), replace(who, truncation_side=Side.LEFT)]
    plan = Plan(recipes, tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    files = train_source(backbone, plan, NewPrompt(name="shared", length=7), silent)
    assert [file.truncation_side for file in files] == [Side.LEFT, Side.LEFT]
    assert files[0].generation == {"max_new_tokens": 8, "stop": ["a", "t"]}
    export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    read = record_fits(monkeypatch)
    for recipe in recipes:
        (objective,) = make_objectives(backbone, [load_task(recipe, tmp_path)])
        expected = objective.train_rows[0]
        (right,) = make_objectives(backbone, [load_task(replace(recipe, truncation_side=Side.RIGHT), tmp_path)])
        read.clear()
        model.task(recipe.name)(long)
        assert read == [expected]
        assert expected.ids != right.train_rows[0].ids
        assert isinstance(expected.text, str)
        assert long.endswith(expected.text)


def test_a_scored_text_ends_at_a_stop_text(backbone: GenerativeBackbone) -> None:
    plain = replace(story(), recipe=replace(story().recipe, template=None))
    whole = GenerationObjective(backbone, plain, []).generate(None, ["The cat"])[0]
    stop = whole[4:6]
    assert stop
    stopping = replace(plain, recipe=replace(plain.recipe, stop=(stop,)))
    assert GenerationObjective(backbone, stopping, []).generate(None, ["The cat"]) == [whole.split(stop)[0]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"a": ("b",), "c": ("d",)}}, "story: a task that generates text has no labels; leave .labels. out"),
        (
            {"metric": "accuracy"},
            "metric 'accuracy' is unknown; use one of exact_match, f1, bleu, rouge_l, pearson, sp",
        ),
    ],
)
def test_recipes_that_do_not_fit(changes: dict[str, object], says: str) -> None:
    GenerationObjective.check_recipe(replace(story().recipe, stop=(".",)))
    with pytest.raises(InputError, match=says):
        GenerationObjective.check_recipe(replace(story().recipe, **changes))


def test_a_text_to_generate_without_tokens(backbone: GenerativeBackbone) -> None:
    examples = Examples(["The cat"], [], [("",)])
    with pytest.raises(InputError, match="story: a text to generate has no tokens; give it words or drop its example"):
        GenerationObjective(backbone, replace(story(), train=examples), [])


def test_labels_of_the_same_tokens(backbone: GenerativeBackbone, tmp_path: Path) -> None:
    _, who = write_text_tasks(tmp_path)
    same = load_task(replace(who, labels={"Tom": ("He.",), "Max": ("I.",), "Lily": ("He.",)}), tmp_path)
    with pytest.raises(InputError, match="who: the labels 'Tom' and 'Lily' have the same tokens; use other words"):
        ChoiceObjective(backbone, same, list(same.recipe.labels.values()))


def test_a_label_without_tokens(backbone: GenerativeBackbone, tmp_path: Path) -> None:
    _, who = write_text_tasks(tmp_path)
    with pytest.raises(InputError, match="who: the text of the label 'Lily' has no tokens for this model"):
        ChoiceObjective(backbone, load_task(who, tmp_path), [["He was Tom."], [""]])
