"""Finished tasks as teachers, in another layout than their students, against PEFT's own forward pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModel

import mpt_edge
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.placement import PEFT_PLACEMENT, Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.similarity import TRAINING_SCALE, SimilarityObjective
from mpt_edge.training.objectives.table import make_objectives
from mpt_edge.training.plan import Origin, Plan
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import DistillationSettings, Settings, Trained
from mpt_edge.training.target_stage import train_target
from mpt_edge.training.teachers import Teaching
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, import_adapter, read_adapter
from tests.support import adapters
from tests.support.stages import answers_as_trained, silent

LABELS = ("law", "game", "film")  # in the order of the head's outputs, which is not that of the recipe
TEXTS = [["film"], ["game"], ["law"]]
WORDS = {"film": "witty movie", "game": "ball team", "law": "party vote"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("data")
    extra = ["a", "the", "good", "bad", "dull", "great", "gorgeous", "star"]
    rows = [{"text": f"{word} {words}", "label": label} for word in extra for label, words in WORDS.items()]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder, Recipe("x", "x.jsonl", "x.jsonl", max_length=16)


@pytest.fixture(scope="module")
def peft(tiny: EncoderBackbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[PeftModel, Path]:
    """PEFT's classifier with three tasks, and the folder that its second task was imported into as ``x``."""
    root = tmp_path_factory.mktemp("peft")
    model = adapters.make_adapter(tiny.folder, "SEQ_CLS", root / "adapter")
    options = ImportOptions(tasks={"x": 1, "y": 2}, name="p", labels=LABELS, max_length=16)
    import_adapter(read_adapter(str(root / "adapter")), tiny, options).save(root / "vectors")
    return model, root / "vectors"


def test_a_classifier_teaches_what_peft_computes(
    tiny: EncoderBackbone, data: tuple[Path, Recipe], peft: tuple[PeftModel, Path]
) -> None:
    """Equation 3 by hand, from PEFT's logits and from cosines that are computed one text at a time."""
    model, folder = peft
    task = load_task(data[1], data[0])
    objective = SimilarityObjective(tiny, task, [[label] for label in task.labels])
    objective = objective.distilled(
        Teaching(folder=folder, distillation=DistillationSettings(hidden=False)).of(objective)
    )
    rows, plain = np.arange(6), AutoModel.from_pretrained(tiny.folder).eval()
    loss = objective.loss(None, TaskBatch(0, rows), np.random.default_rng(0))

    def embedded(text: str) -> torch.Tensor:
        ids = torch.tensor([tiny.texts.encode([text], 16)[0].ids])
        hidden = plain(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return functional.normalize(hidden.mean(1), dim=-1)[0]

    order = [LABELS.index(label) for label in task.labels]
    assert order == [2, 1, 0]
    divergences = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([tiny.texts.encode([task.train.texts[row]], 16)[0].ids])
            logits = model(ids, torch.ones_like(ids), task_ids=torch.tensor([1])).logits[0, order]
            cosines = torch.stack([embedded(label) for label in task.labels]) @ embedded(str(task.train.texts[row]))
            teacher, student = torch.softmax(logits / 2, -1), torch.softmax(TRAINING_SCALE * cosines / 2, -1)
            divergences.append(4 * (teacher * (teacher.log() - student.log())).sum())
    assert float(loss.logits) == pytest.approx(float(torch.stack(divergences).mean()), abs=1e-4)
    assert float(loss.logits) > 0.01
    assert float(loss.hidden) == 0


def test_an_imported_task_becomes_one_of_the_prefix_layout(
    tiny: EncoderBackbone, data: tuple[Path, Recipe], peft: tuple[PeftModel, Path], tmp_path: Path
) -> None:
    """From PEFT's prompt in the other layout; the loss is the teacher's alone, and falls."""
    folder, recipe = data
    settings = Settings(epochs=12, batch_size=6, tasks_per_step=1, max_tasks=0, prompt_lr=0.05, task_lr=0.05)
    plan = Plan([recipe], folder, tmp_path / "run", settings)
    teaching = Teaching(folder=peft[1], distillation=DistillationSettings(hidden=False))
    origin = Origin(
        folder=peft[1],
        shared=VectorFolder(peft[1]).find_prompt(),
        init="y",
        trained=Trained.PROMPT,
        teaching=teaching,
    ).placed(Layout.PREFIX)
    seen: list[float] = []
    (task,) = train_target(tiny, plan, origin, lambda progress: seen.append(progress.loss["logits"]))
    assert np.mean(seen[-4:]) < np.mean(seen[:4])
    assert task.own_prompt is not None
    assert (task.head_type, task.own_prompt.head) == ("similarity", None)
    assert task.own_prompt.placement == Placement(position=PromptPosition.EMBEDDINGS)
    assert task.training["distillation"] == {"weight": 0.9, "temperature": 2.0, "hidden": False}
    export_bundle(ExportPlan(tiny, [tmp_path / "run"], tmp_path / "bundle"))
    assert answers_as_trained(mpt_edge.load(tmp_path / "bundle"), task)


def test_several_targets_start_from_the_average_of_an_imported_adapter(
    tiny: EncoderBackbone, data: tuple[Path, Recipe], peft: tuple[PeftModel, Path], tmp_path: Path
) -> None:
    """PEFT fails here: it reads one prefix for all target tasks and then expects one for each."""
    folder, recipe = data
    settings = Settings(epochs=1, max_tasks=0, prompt_lr=0.0, task_lr=0.0)
    plan = Plan([replace(recipe, name=name) for name in ("a", "b")], folder, tmp_path / "run", settings)
    shared = VectorFolder(peft[1]).find_prompt()
    files = [TaskFile.load(peft[1] / f"tasks/{name}.safetensors") for name in "xy"]
    aligned = []
    for u, v in ((file.u, file.v) for file in files):
        factor = np.sqrt(np.sqrt((v**2).mean()) / np.sqrt((u**2).mean())) * (-1 if u.sum() < 0 else 1)
        aligned.append((u * factor, v / factor))
    expected = np.outer(*(np.mean(parts, axis=0) for parts in zip(*aligned, strict=True)))
    tasks = train_target(tiny, plan, Origin(folder=peft[1], shared=shared), silent)
    assert len(tasks) == 2
    for task in tasks:
        assert task.training["init"] == "average"
        np.testing.assert_allclose(np.outer(task.u, task.v), expected, atol=2e-3)


def test_whole_prompts_are_origins(tiny: EncoderBackbone, data: tuple[Path, Recipe], tmp_path: Path) -> None:
    """Plain prompt tuning has no shared prompt; its task's own prompt takes that place."""
    adapters.make_adapter(tiny.folder, "FEATURE_EXTRACTION", tmp_path / "adapter", multitask=False)
    read = read_adapter(str(tmp_path / "adapter"))
    import_adapter(read, tiny, ImportOptions(tasks={"plain": 0})).save(tmp_path / "vectors")
    prompt = VectorFolder(tmp_path / "vectors").find_prompt()
    assert (prompt.name, prompt.placement) == ("plain", PEFT_PLACEMENT)
    assert np.array_equal(prompt.values, read.shared())
    plan = Plan([data[1]], data[0], tmp_path / "run", Settings(epochs=1, max_tasks=0))
    with pytest.raises(InputError, match="holds no task on 'plain' to start 'x' from; pass --init ones"):
        train_target(tiny, plan, Origin(folder=tmp_path / "vectors", shared=prompt), silent)
    (task,) = train_target(tiny, plan, Origin(folder=tmp_path / "vectors", shared=prompt, init="ones"), silent)
    assert task.is_two_vectors
    kept = SharedPrompt.load(tmp_path / "run/prompts/plain.safetensors")
    assert kept.fingerprint == task.prompt_sha256 == prompt.fingerprint


def test_t5_in_the_joint_layout_teaches_the_prefix_layout(data: tuple[Path, Recipe], tmp_path: Path) -> None:
    """The teacher's answers are PEFT's; a student with the same prompt agrees in its layout alone."""
    base = adapters.save_base("t5", tmp_path / "tiny-t5")
    backbone = open_backbone(str(base))
    assert isinstance(backbone, GenerativeBackbone)
    options = {"multitask": False, "num_transformer_submodules": 1}
    model = adapters.make_adapter(base, "SEQ_2_SEQ_LM", tmp_path / "adapter", **options)
    read = read_adapter(str(tmp_path / "adapter"))
    import_adapter(read, backbone, ImportOptions(tasks={"x": 0}, labels=LABELS)).save(tmp_path / "vectors")
    task = load_task(data[1], data[0])
    prompt, batch, losses = torch.from_numpy(read.shared()), TaskBatch(0, np.arange(6)), {}
    for layout in Layout:
        (objective,) = make_objectives(backbone, [task], Placement(layout))
        objective = objective.distilled(Teaching(folder=tmp_path / "vectors").of(objective))
        losses[layout] = objective.loss(prompt, batch, np.random.default_rng(0))
    assert float(losses[Layout.JOINT].logits) == pytest.approx(0, abs=1e-5)
    assert float(losses[Layout.JOINT].hidden) == pytest.approx(0, abs=1e-5)
    assert float(losses[Layout.PREFIX].logits) > 1e-3
    expected = []
    with torch.no_grad():
        for row in range(6):
            ids = torch.tensor([backbone.texts.encode([task.train.texts[row]], 128)[0].ids])
            answer = backbone.texts.continuations([task.labels[task.train.labels[row]]])[0]
            logits = model(ids, torch.ones_like(ids), labels=torch.tensor([answer])).logits[0]
            expected.append(functional.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    assert float(losses[Layout.JOINT].task) == pytest.approx(float(torch.cat(expected).mean()), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "none"}, "holds no task 'none' to teach the recipe of that name"),
        ({"template": "say {text}"}, "reads texts as '{text}' and the recipe has 'say {text}'"),
    ],
)
def test_recipes_that_do_not_fit_the_teacher(
    tiny: EncoderBackbone, data: tuple[Path, Recipe], peft: tuple[PeftModel, Path], change: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Teaching(folder=peft[1]).of(SimilarityObjective(tiny, load_task(replace(data[1], **change), data[0]), TEXTS))


def test_teachers_that_do_not_fit(
    tiny: EncoderBackbone, data: tuple[Path, Recipe], peft: tuple[PeftModel, Path], tmp_path: Path
) -> None:
    objective = SimilarityObjective(tiny, load_task(data[1], data[0]), TEXTS)
    file = TaskFile.load(peft[1] / "tasks/x.safetensors")
    replace(file, labels=("law", "game", "book")).save(tmp_path / "tasks/x.safetensors")
    with pytest.raises(InputError, match="knows the labels law, game, book, and the recipe has film, game, law"):
        Teaching(folder=tmp_path).of(objective)
    file.save(tmp_path / "tasks/x.safetensors")
    with pytest.raises(InputError, match="lacks the prompt 'p' of its task 'x'"):
        Teaching(folder=tmp_path).of(objective)
    other = load_encoder(str(adapters.save_base("bert", tmp_path / "other")))
    with pytest.raises(MismatchError, match="was made for another backbone than other"):
        Teaching(folder=tmp_path).of(SimilarityObjective(other, objective.data, TEXTS))
    replace(file, head_type="embedding", labels=(), label_texts=()).save(tmp_path / "tasks/x.safetensors")
    with pytest.raises(InputError, match="'x' answers by 'embedding', which cannot teach a task with labels"):
        Teaching(folder=tmp_path).of(objective)
