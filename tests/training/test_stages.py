"""Source and target stage from small files to vectors, and their reference examples on the device side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.data.rows import Rows, load_task
from mpt_edge.training.initialization import source_tasks
from mpt_edge.training.objectives.encoder_reading import typical_examples
from mpt_edge.training.settings import TeacherPlan, Trained
from mpt_edge.training.stages import NewPrompt, Origin, Plan, add_probe, label_texts, train_source, train_target
from mpt_edge.training.trainer import Progress
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.stages import LENGTH, SETTINGS, silent


def test_source_stage_writes_prompt_and_tasks(
    tiny: EncoderBackbone, stages: tuple[Path, list[TaskFile], Path, list[TaskFile]]
) -> None:
    folder, tasks, _, _ = stages
    shared = SharedPrompt.load(folder / "prompts/shared.safetensors")
    assert (shared.name, shared.layout, shared.backbone) == ("shared", "prefix", tiny.fingerprint)
    assert (shared.values.shape, shared.values.dtype) == ((LENGTH, 32), np.float16)
    assert shared.training["tasks"] == ["mood", "field"]
    assert shared.training["seed"] == 3
    assert sorted(path.name for path in (folder / "tasks").iterdir()) == ["field.safetensors", "mood.safetensors"]
    assert [task.name for task in tasks] == ["mood", "field"]
    for task in tasks:
        file = TaskFile.load(folder / "tasks" / f"{task.name}.safetensors")
        assert (file.backbone, file.tokenizer) == (tiny.fingerprint, tiny.texts.fingerprint)
        assert (file.prompt, file.prompt_sha256) == ("shared", shared.fingerprint)
        assert (file.u.shape, file.v.shape, file.u.dtype) == ((LENGTH,), (32,), np.float16)
        assert not np.array_equal(file.u, np.ones(LENGTH))
        assert np.array_equal(file.u, task.u)
        assert (file.metrics["validation"]["rows"], file.metrics["test"]["rows"]) == (8, 6)
        assert file.training == {"stage": "source", "rows": 24, "seed": 3, "source": "x"}
        assert (file.license, file.version) == ("CC0-1.0", 3)
    assert tasks[0].labels == ("negative", "positive")
    assert tasks[0].label_texts == (("a bad one",), ("a good one", "great"))
    assert tasks[1].labels == ("nature", "sky", "state")
    assert tasks[1].label_texts == (("nature",), ("sky",), ("state",))


def test_target_stage_keeps_the_shared_prompt_and_starts_from_a_task(
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
) -> None:
    source, _, target, (task,) = stages
    kept = SharedPrompt.load(target / "prompts/shared.safetensors")
    given = SharedPrompt.load(source / "prompts/shared.safetensors")
    assert kept.fingerprint == given.fingerprint
    assert task.prompt_sha256 == given.fingerprint
    assert (task.name, task.kind, task.training["stage"]) == ("match", "pair", "target")
    assert "test" not in task.metrics


def test_own_prompt_and_group(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    source = stages[0]
    shared = SharedPrompt.load(source / "prompts/shared.safetensors")
    plan = Plan([data[1]["match"], data[1]["field"]], data[0], tmp_path / "own", SETTINGS)
    own = train_target(tiny, plan, Origin(folder=source, shared=shared, trained=Trained.PROMPT), silent)
    for task in own:
        assert task.own_prompt is not None
        assert not task.two_vectors
        assert not np.array_equal(task.own_prompt, shared.values)
    assert not np.array_equal(own[0].own_prompt, own[1].own_prompt)
    # Their vectors scale their own copies, so they are no starts on the shared prompt that the copies came from.
    assert source_tasks(tmp_path / "own", shared) == {}
    with pytest.raises(MismatchError, match=r"'field' carries its own prompt, .*; start from a task on 'shared'"):
        train_target(
            tiny,
            replace(plan, output=tmp_path / "on"),
            Origin(folder=tmp_path / "own", shared=shared, start="field"),
            silent,
        )
    plan = replace(plan, output=tmp_path / "group")
    group = train_target(tiny, plan, Origin(folder=source, shared=shared, trained=Trained.GROUP, name="both"), silent)
    both = SharedPrompt.load(tmp_path / "group/prompts/both.safetensors")
    assert not np.array_equal(both.values, shared.values)
    assert both.training["from"] == shared.fingerprint
    assert {task.prompt_sha256 for task in group} == {both.fingerprint}
    assert all(task.two_vectors for task in group)
    export_bundle(ExportPlan(tiny, [source, tmp_path / "own"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    for task, read in zip(own, (tuple, str), strict=True):  # pairs, and single texts
        found = model.task(task.name)(read(task.reference_example["text"]))
        assert (found.label, found.score) == (
            task.reference_example["label"],
            pytest.approx(task.reference_example["score"], abs=1e-4),
        )


def test_training_the_prompt_needs_a_rate_for_it(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    shared = SharedPrompt.load(stages[0] / "prompts/shared.safetensors")
    plan = Plan([data[1]["match"]], data[0], tmp_path, replace(SETTINGS, prompt_lr=0.0))
    with pytest.raises(InputError, match=r"--train group changes the prompt; pass a --prompt-lr above 0"):
        train_target(tiny, plan, Origin(folder=stages[0], shared=shared, trained=Trained.GROUP), silent)


def test_few_shots_are_counted_and_recorded(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    shared = SharedPrompt.load(stages[0] / "prompts/shared.safetensors")
    plan = Plan([data[1]["match"]], data[0], tmp_path, SETTINGS, test=True, shots=3, subset_seed=7)
    (task,) = train_target(tiny, plan, Origin(folder=stages[0], shared=shared), silent)
    assert (task.training["rows"], task.training["shots"], task.training["subset_seed"]) == (6, 3, 7)
    assert (task.metrics["validation"]["rows"], task.metrics["test"]["rows"]) == (6, 6)
    with pytest.raises(InputError, match="fewer than 13; lower --shots"):
        train_target(tiny, replace(plan, shots=13), Origin(folder=stages[0], shared=shared), silent)


def test_teachers_are_trained_once_and_recorded(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    recipes = [data[1]["mood"], data[1]["field"]]
    teachers = TeacherPlan(folder=tmp_path / "teachers", epochs=2, rate=0.05)
    seen: list[Progress] = []
    plan = Plan(recipes, data[0], tmp_path / "one", SETTINGS)
    train_source(tiny, plan, NewPrompt(name="shared", length=LENGTH, entry="first_layer"), seen.append, teachers)
    assert list(dict.fromkeys(p.stage for p in seen)) == [
        "teacher mood (1/2)",
        "teacher field (2/2)",
        "student",
    ]
    assert all(p.loss["logits"] > 0 and p.loss["hidden"] > 0 for p in seen if p.stage == "student")
    for p in seen:
        weight = teachers.distillation.weight * (p.stage == "student")
        assert p.loss["total"] == pytest.approx(
            p.loss["task"] + weight * (p.loss["logits"] + p.loss["hidden"]), rel=1e-5
        )
    facts = SharedPrompt.load(tmp_path / "one/prompts/shared.safetensors").training["distillation"]
    assert (facts["weight"], facts["temperature"], facts["hidden"]) == (0.9, 2.0, True)
    assert set(facts["teachers"]) == {"mood", "field"}
    again: list[Progress] = []
    other = replace(plan, output=tmp_path / "two", settings=replace(SETTINGS, task_lr=0.01))
    train_source(tiny, other, NewPrompt(name="shared", length=LENGTH, entry="first_layer"), again.append, teachers)
    assert {p.stage for p in again} == {"student"}


def test_a_template_travels_to_the_device(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    recipe = replace(data[1]["match"], template="{text_pair} ball {text}")
    (task,) = train_source(
        tiny,
        Plan([recipe], data[0], tmp_path / "run", SETTINGS),
        NewPrompt(name="shared", length=LENGTH, entry="first_layer"),
        silent,
    )
    assert task.template == recipe.template
    export_bundle(ExportPlan(tiny, [tmp_path / "run"], tmp_path / "bundle"))
    found = mpt_edge.load(tmp_path / "bundle", threads=1).task("match")(tuple(task.reference_example["text"]))
    assert found.score == pytest.approx(task.reference_example["score"], abs=1e-4)


def test_golden_and_metrics_hold_in_an_exported_bundle(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    source, first, target, second = stages
    export_bundle(ExportPlan(tiny, [source, target], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == sorted(task.name for task in (*first, *second)) == ["field", "match", "mood"]
    for written in [*first, *second]:
        task = model.task(written.name)
        text = written.reference_example["text"]
        found = task(tuple(text) if isinstance(text, list) else text)
        assert found.label == written.reference_example["label"]
        assert found.score == pytest.approx(written.reference_example["score"], abs=1e-4)
        rows = load_task(data[1][written.name], data[0]).validation
        right = [task.labels[gold] == p.label for gold, p in zip(rows.labels, task(rows.texts), strict=True)]
        assert np.mean(right) == pytest.approx(written.metrics["validation"]["accuracy"], abs=1e-4)


def test_two_recipes_of_one_name(tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path) -> None:
    plan = Plan([data[1]["mood"], replace(data[1]["field"], name="mood")], data[0], tmp_path, SETTINGS)
    with pytest.raises(InputError, match="two recipes are named 'mood'"):
        train_source(tiny, plan, NewPrompt(name="shared", length=LENGTH, entry="first_layer"), silent)


@pytest.mark.parametrize("name", ["my prompt", "../up", "", ".hidden", "x" * 65])
def test_prompt_name_that_no_bundle_can_list(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], shared_prompt: SharedPrompt, tmp_path: Path, name: str
) -> None:
    plan = Plan([data[1]["mood"]], data[0], tmp_path / "run", SETTINGS)
    origins = [
        Origin(folder=tmp_path, shared=shared_prompt, start="ones", trained=Trained.GROUP, name=name),
        Origin(folder=tmp_path, shared=replace(shared_prompt, name=name), start="ones"),
    ]
    with pytest.raises(InputError, match="cannot name a prompt; use at most 64 letters"):
        train_source(tiny, plan, NewPrompt(name=name, length=LENGTH), silent)
    for origin in origins:
        with pytest.raises(InputError, match="cannot name a prompt; use at most 64 letters"):
            train_target(tiny, plan, origin, silent)
    assert list(tmp_path.iterdir()) == []


def test_prompt_without_rows(tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--length 1"):
        train_source(
            tiny, Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS), NewPrompt(name="shared", length=0), silent
        )


def test_a_prompt_too_large_for_its_file_is_not_trained(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    folder, recipes = data
    plan = Plan([recipes["mood"]], folder, tmp_path / "run", SETTINGS)
    with pytest.raises(InputError, match=r"takes 76,800,000 bytes, more than the .* train a shorter one \(--length\)"):
        train_source(tiny, plan, NewPrompt(name="shared", length=1_200_000, init="random", entry="first_layer"), silent)
    # The composed prompt of a task, as a shared one, is in float32.
    whole = SharedPrompt("whole", np.ones((600_000, 32), np.float32), "prefix", tiny.fingerprint)
    with pytest.raises(InputError, match="takes 76,800,000 bytes"):
        train_target(tiny, plan, Origin(folder=tmp_path, shared=whole, start="ones"), silent)
    assert not (tmp_path / "run").exists()


def test_label_examples_are_training_texts_of_their_label(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]]
) -> None:
    task = load_task(replace(data[1]["mood"], label_examples=2), data[0])
    texts = label_texts(tiny, task)
    assert [group[:-2] for group in texts] == [["a bad one"], ["a good one", "great"]]
    for label, group in enumerate(texts):
        own = {text for text, gold in zip(task.train.texts, task.train.labels, strict=True) if gold == label}
        assert set(group[-2:]) <= own
        assert len(set(group[-2:])) == 2


def test_long_texts_stand_for_a_label_only_behind_short_ones(tiny: EncoderBackbone) -> None:
    long = "a film that goes on and on " * 4
    rows = Rows([long, "a film", "awful", long + "still"], [0, 0, 1, 0])
    assert typical_examples(tiny, rows, 2, 2)[0][0] == "a film"
    assert set(typical_examples(tiny, rows, 2, 2)[0]) < {"a film", long, long + "still"}
    assert typical_examples(tiny, rows, 2, 9)[1] == ["awful"]


@pytest.mark.parametrize("entry", ["first_layer", "inputs_embeds"])
def test_joint_layout_is_trained_exported_and_run_alike(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path, entry: str
) -> None:
    """A prompt that sees the text: trained so, marked so, and answered so from the exported bundle."""
    folder, recipes = data
    plan = Plan([recipes["mood"]], folder, tmp_path / "source", SETTINGS)
    train_source(
        tiny, plan, NewPrompt(name="shared", length=LENGTH, layout="joint", entry=entry, init="a witty film"), silent
    )
    shared = SharedPrompt.load(tmp_path / "source/prompts/shared.safetensors")
    assert (shared.layout, shared.entry, shared.training["init"]) == ("joint", entry, "a witty film")
    train_target(
        tiny, replace(plan, recipes=[recipes["field"]]), Origin(folder=tmp_path / "source", shared=shared), silent
    )
    export_bundle(ExportPlan(tiny, [tmp_path / "source"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle")
    assert model.tasks == ["field", "mood"]
    for name in model.tasks:
        reference_example = TaskFile.load(tmp_path / f"source/tasks/{name}.safetensors").reference_example
        answer = model.task(name)(reference_example["text"])
        assert (answer.label, answer.score) == (
            reference_example["label"],
            pytest.approx(reference_example["score"], abs=1e-4),
        )


def test_text_without_room_behind_the_prompt(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    folder, recipes = data
    plan = Plan([replace(recipes["mood"], max_length=40)], folder, tmp_path / "source", SETTINGS)
    with pytest.raises(
        InputError, match="has 48 positions and the prompt takes 20 of them; lower max_length of 'mood' to 28"
    ):
        train_source(tiny, plan, NewPrompt(name="shared", length=20, layout="joint", entry="inputs_embeds"), silent)


def test_probe_of_a_task_without_labels(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    """It is refused before any other recipe is fitted."""
    recipes = [data[1]["mood"], replace(data[1]["field"], kind="generation", metric="f1")]
    seen: list[str] = []
    with pytest.raises(
        InputError, match="'field' generates text and a probe predicts labels; pass recipes with labels"
    ):
        add_probe(tiny, Plan(recipes, data[0], tmp_path, SETTINGS), seen.append)
    assert seen == []
