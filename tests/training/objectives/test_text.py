"""Text tasks on a decoder-only model: loss and answers against transformers, training that helps, and the bundle."""

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
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.data.rows import Rows, TaskData, load_task
from mpt_edge.training.objectives.generative import TextObjective
from mpt_edge.training.objectives.objective import Distillation, Teacher
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import Settings, TeacherPlan
from mpt_edge.training.stages import NewPrompt, Origin, Plan, train_source, train_target
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.causal import CONFIGS
from tests.support.encoders import save_tokenizer
from tests.support.parts import assert_parts_add_up
from tests.support.places import SHARED
from tests.support.stages import silent

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
    rows = Rows(TEXTS, [], ANSWERS)
    recipe = Recipe(
        "story", "t", "v", kind="generation", template="{text}:", max_length=32, max_target_length=12, metric="f1"
    )
    return TaskData(recipe, (), rows, rows, None)


def prompt(seed: int) -> torch.Tensor:
    return 0.05 * torch.randn(7, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reference_losses(backbone: GenerativeBackbone, given: torch.Tensor | None) -> np.ndarray:
    """Loss of every wanted token, one text at a time, from the unchanged model."""
    model = AutoModelForCausalLM.from_pretrained(backbone.folder, dtype=torch.float32).eval()
    found = []
    for text, answers in zip(TEXTS, ANSWERS, strict=True):
        ids = backbone.texts.encode([f"{text}:"], 100)[0].ids
        wanted = [*backbone.texts.continuations([answers[0]])[0][:12], 2]
        rows = model.get_input_embeddings()(torch.tensor(ids + wanted))
        rows = rows if given is None else torch.cat([given, rows])
        scores = log_softmax(model(inputs_embeds=rows[None]).logits[0].numpy(), axis=-1)
        places = np.arange(len(rows) - len(wanted) - 1, len(rows) - 1)
        found.append(-scores[places, wanted])
    return np.concatenate(found)


@pytest.mark.parametrize("seed", [None, 3])
def test_loss_is_that_of_transformers(backbone: GenerativeBackbone, seed: int | None) -> None:
    given = None if seed is None else prompt(seed)
    objective = TextObjective(backbone, [story()], [[]])
    wanted = reference_losses(backbone, given).mean()
    loss = objective.loss(given, TaskBatch(0, np.arange(3)), np.random.default_rng(0))
    assert float(loss.task) == pytest.approx(wanted, abs=1e-4)
    assert objective.held_out_loss(0, given, story().validation) == pytest.approx(wanted, abs=1e-4)


def test_a_teacher_pulls_and_an_agreeing_one_does_not(backbone: GenerativeBackbone) -> None:
    batch = TaskBatch(0, np.arange(3))
    same = TextObjective(backbone, [story()], [[]], Distillation([Teacher(prompt(1))]))
    loss = same.loss(prompt(1), batch, np.random.default_rng(0))
    assert float(loss.logits) == pytest.approx(0, abs=1e-6)
    assert float(loss.hidden) == pytest.approx(0, abs=1e-6)
    other = TextObjective(backbone, [story()], [[]], Distillation([Teacher(prompt(2))]))
    given = prompt(1).requires_grad_()
    loss = other.loss(given, batch, np.random.default_rng(0))
    assert float(loss.logits) > 1e-4
    assert float(loss.hidden) > 1e-4
    assert float(loss.total) == pytest.approx(float(loss.task + 0.9 * (loss.logits + loss.hidden)), rel=1e-5)
    loss.total.backward()
    assert given.grad is not None
    assert (given.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_batch_add_up_to_it_where_texts_are_of_different_lengths(
    backbone: GenerativeBackbone, size: int
) -> None:
    objective = TextObjective(backbone, [story()], [[]], Distillation([Teacher(prompt(2))]))
    assert_parts_add_up(objective, prompt(1), 3, size)


def test_a_choice_keeps_room_for_its_longest_label(backbone: GenerativeBackbone) -> None:
    texts = ["He was Tom.", "She"]
    rows = Rows(["The cat", "The dog"], [0, 1])
    task = TaskData(Recipe("who", "t", "v"), ("Tom", "Lily"), rows, rows, None)
    found = TextObjective(backbone, [task], [[[text] for text in texts]]).measured(0, prompt(0))
    long, short = map(len, backbone.texts.continuations(texts))
    assert found.generation == {"max_new_tokens": long}
    assert long > short


def write_data(folder: Path) -> list[Recipe]:
    """Write a task that always wants the same words, and one of two labels."""
    things = ["cat", "dog", "ball", "park", "tree", "boy"]
    rows = [{"text": f"The {thing}", "target": "was very happy."} for thing in things]
    (folder / "happy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"text": f"{name} saw a {thing}.", "label": name} for thing in things for name in ("Tom", "Lily")]
    (folder / "who.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = {"template": "{text}\n", "max_length": 32}
    written = {"kind": "generation", "metric": "exact_match", "max_target_length": 8}
    return [
        Recipe("happy", "happy.jsonl", "happy.jsonl", "happy.jsonl", **written, **common),
        Recipe("who", "who.jsonl", "who.jsonl", labels={"Tom": ("He was Tom.",), "Lily": ("She was Lily.",)}, **common),
    ]


@pytest.mark.skipif(
    not LLAMA.is_dir(), reason="no ../shared/weights with a model that knows enough to learn by a prompt"
)
def test_stages_learn_and_the_bundle_writes_what_pytorch_wrote(tmp_path: Path) -> None:
    """Teachers, student, target, export: the device gives the texts and labels that training measured."""
    backbone = open_backbone(str(LLAMA))
    assert isinstance(backbone, GenerativeBackbone)
    happy, who = write_data(tmp_path)
    settings = Settings(epochs=30, batch_size=6, tasks_per_step=2, max_tasks=0, prompt_lr=0.05, task_lr=0.05)
    plan = Plan([happy, who], tmp_path, tmp_path / "run", settings, test=True)
    teachers = TeacherPlan(folder=tmp_path / "teachers", epochs=2, rate=0.05)
    tasks = {
        task.name: task
        for task in train_source(
            backbone, plan, NewPrompt(name="shared", length=8, entry="first_layer"), silent, teachers
        )
    }
    assert (tasks["happy"].readout, tasks["who"].readout) == ("generation", "choice")
    assert tasks["happy"].metrics["test"]["exact_match"] > 0.5  # nothing of it is ever written without training
    data = load_task(happy, tmp_path)
    untrained = TextObjective(backbone, [data], [[]])
    assert set(untrained.write(0, None, data.train.texts)) != {"was very happy."}
    assert tasks["happy"].metrics["test"]["loss"] < 0.7 * untrained.held_out_loss(0, None, data.train)
    assert tasks["who"].metrics["validation"]["accuracy"] > 0.5  # of two labels, each for half of the rows
    shared = SharedPrompt.load(tmp_path / "run/prompts/shared.safetensors")
    plan = replace(plan, recipes=[replace(happy, name="again")], settings=replace(settings, epochs=2))
    train_target(backbone, plan, Origin(folder=tmp_path / "run", shared=shared, start="nearest"), silent)
    export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == ["again", "happy", "who"]
    for name in model.tasks:
        reference_example = TaskFile.load(tmp_path / f"run/tasks/{name}.safetensors").reference_example
        answer = model.task(name)(reference_example["text"])
        assert (answer.label, answer.score) == (
            reference_example["label"],
            pytest.approx(reference_example["score"], abs=1e-3),
        )


def test_cut_and_stop_are_the_devices_too(backbone: GenerativeBackbone, tmp_path: Path) -> None:
    """Tasks that write and choose see of a long text what training saw of it, and end where training ended."""
    happy, who = write_data(tmp_path)
    long = " ".join(f"{name} saw a ball." for name in ("Tom", "Lily", "Max") * 6)
    rows = [{"text": long, "target": "was very happy.", "label": name} for name in ("Tom", "Lily")]
    for name in ("happy", "who"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipes = [replace(happy, cut="left", stop=("a", "t")), replace(who, cut="left")]
    plan = Plan(recipes, tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    files = train_source(backbone, plan, NewPrompt(name="shared", length=7), silent)
    assert [file.cut for file in files] == ["left", "left"]
    assert files[0].written == {"max_new_tokens": 8, "stop": ["a", "t"]}
    export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert isinstance(model, GenerativeModel)
    objective = TextObjective(backbone, [load_task(recipe, tmp_path) for recipe in recipes], [[], [["a"], ["b"]]])
    right = TextObjective(backbone, [load_task(replace(happy, metric="f1"), tmp_path)], [[]]).train_rows[0][0]
    for index, name in enumerate(("happy", "who")):
        task = model._select(name)
        read = model._request(long, task, model._options(task, {})).row
        assert read == objective.train_rows[index][0]
        assert read.ids != right.ids
        assert isinstance(read.text, str)
        assert long.endswith(read.text)


def test_what_is_scored_ends_at_a_stop_text(backbone: GenerativeBackbone) -> None:
    plain = replace(story(), recipe=replace(story().recipe, template=""))
    whole = TextObjective(backbone, [plain], [[]]).write(0, None, ["The cat"])[0]
    stop = whole[4:6]
    assert stop
    stopping = replace(plain, recipe=replace(plain.recipe, stop=(stop,)))
    assert TextObjective(backbone, [stopping], [[]]).write(0, None, ["The cat"]) == [whole.split(stop)[0]]


def test_labels_of_the_same_tokens(backbone: GenerativeBackbone, tmp_path: Path) -> None:
    _, who = write_data(tmp_path)
    same = load_task(replace(who, labels={"Tom": ("He.",), "Max": ("I.",), "Lily": ("He.",)}), tmp_path)
    with pytest.raises(InputError, match="who: the labels 'Tom' and 'Lily' have the same tokens; give one of them oth"):
        TextObjective(backbone, [same], [list(same.recipe.labels.values())])


def test_a_label_without_tokens(backbone: GenerativeBackbone, tmp_path: Path) -> None:
    _, who = write_data(tmp_path)
    with pytest.raises(InputError, match="who: the text of the label 'Lily' has no tokens for this model"):
        TextObjective(backbone, [load_task(who, tmp_path)], [[["He was Tom."], [""]]])


def test_an_encoder_does_not_write(tiny: EncoderBackbone, tmp_path: Path) -> None:
    plan = Plan([write_data(tmp_path)[0]], tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    with pytest.raises(InputError, match="'happy' generates text and tiny-bert is an encoder"):
        train_source(tiny, plan, NewPrompt(name="shared", length=8), silent)


@pytest.mark.parametrize(
    ("length", "changes", "says"),
    [
        (
            158,
            {},
            "has 160 positions and the prompt takes 158 of them, which leaves no text any room; .* lower --length",
        ),
        (600, {}, "the prompt takes 600 of them, which leaves no text any room; train a prompt of a lower --length"),
        (
            7,
            {"max_target_length": 150},
            "what 'happy' writes 151, which leaves its text no room; lower its max_target_l",
        ),
        (7, {"max_length": 145}, r"takes 7 of them, what 'happy' writes 9; lower max_length of 'happy' to 144 or less"),
    ],
)
def test_lengths_that_the_model_cannot_hold(
    backbone: GenerativeBackbone, tmp_path: Path, length: int, changes: dict[str, int], says: str
) -> None:
    """They are refused before training, whose tasks no bundle could run."""
    happy, _ = write_data(tmp_path)
    plan = Plan([replace(happy, **changes)], tmp_path, tmp_path / "run", Settings(epochs=1))
    with pytest.raises(InputError, match=says):
        train_source(backbone, plan, NewPrompt(length=length), silent)
    assert not (tmp_path / "run").exists()


def test_label_texts_that_the_model_cannot_hold(backbone: GenerativeBackbone, tmp_path: Path) -> None:
    _, who = write_data(tmp_path)
    wordy = replace(who, labels={"Tom": ("He was Tom. " * 30,), "Lily": ("She was Lily.",)})
    with pytest.raises(InputError, match="which leaves its text no room; shorten its label texts, or train a prompt"):
        train_source(backbone, Plan([wordy], tmp_path, tmp_path, Settings()), NewPrompt(length=7), silent)


@pytest.mark.parametrize("entry", ["first_layer", "every_layer", "inputs_embeds"])
def test_lengths_that_the_model_just_holds(tmp_path: Path, entry: str) -> None:
    """Learned positions are a table, which a row too many would read beyond."""
    folder = tmp_path / "tiny-gpt2"
    AutoModelForCausalLM.from_config(CONFIGS["gpt2"]).save_pretrained(folder)
    save_tokenizer(folder)
    backbone = open_backbone(str(folder))
    assert isinstance(backbone, GenerativeBackbone)
    rows = [{"text": "a b " * 30, "target": "c d " * 30}] * 4
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(
        "long", "long.jsonl", "long.jsonl", kind="generation", metric="f1", max_length=23, max_target_length=20
    )
    plan = Plan([recipe], tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    (task,) = train_source(backbone, plan, NewPrompt(length=20, entry=entry), silent)
    manifest = export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    assert (manifest.max_length, task.max_length) == (44, 23)
    assert (
        mpt_edge.load(tmp_path / "bundle", threads=1).task("long")(task.reference_example["text"]).label
        == task.reference_example["label"]
    )
