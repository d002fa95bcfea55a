"""Plans are refused before training: names, sizes, recipes, and texts without room beside the prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import mpt_edge
from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.inference.answers import Generation
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.plan import NewPrompt, Origin, Plan, default_length
from mpt_edge.training.settings import Settings, Trained
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.causal import CONFIGS
from tests.support.encoders import save_tokenizer
from tests.support.stages import LENGTH, SETTINGS, SHARED, Stages, silent, write_text_tasks


def test_a_new_prompt_enters_all_layers_where_its_layout_has_them() -> None:
    assert NewPrompt().placement == Placement(Layout.PREFIX, PromptPosition.ALL_LAYERS)
    assert NewPrompt(layout=Layout.JOINT).placement == Placement(Layout.JOINT, PromptPosition.FIRST_LAYER)
    embeddings = NewPrompt(layout=Layout.JOINT, position=PromptPosition.EMBEDDINGS)
    assert embeddings.placement == Placement(Layout.JOINT, PromptPosition.EMBEDDINGS)


def test_another_layout_has_another_name(stages: Stages) -> None:
    origin = Origin(folder=stages.source, shared=stages.shared)
    assert origin.placed(None) is origin
    assert origin.placed(Layout.PREFIX) is origin
    joint = origin.placed(Layout.JOINT).shared
    assert (joint.name, joint.placement) == ("shared-joint", Placement(Layout.JOINT, PromptPosition.FIRST_LAYER))
    assert np.array_equal(joint.values, stages.shared.values)


def test_two_recipes_of_one_name(tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path) -> None:
    plan = Plan([data[1]["mood"], replace(data[1]["field"], name="mood")], data[0], tmp_path, SETTINGS)
    with pytest.raises(InputError, match="two recipes are named 'mood'"):
        train_source(tiny, plan, SHARED, silent)


def test_recipes_are_checked_before_data_is_read(tiny: EncoderBackbone, tmp_path: Path) -> None:
    recipes = [Recipe("mood", "none.jsonl", "none.jsonl"), Recipe("x", "none.jsonl", "none.jsonl", stop=(".",))]
    with pytest.raises(InputError, match="x: stop ends generated text, and this task generates none"):
        train_source(tiny, Plan(recipes, tmp_path, tmp_path, SETTINGS), SHARED, silent)


@pytest.mark.parametrize("name", ["my prompt", "../up", "", ".hidden", "x" * 65])
def test_prompt_name_that_no_bundle_can_list(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], shared_prompt: SharedPrompt, tmp_path: Path, name: str
) -> None:
    plan = Plan([data[1]["mood"]], data[0], tmp_path / "run", SETTINGS)
    origins = [
        Origin(folder=tmp_path, shared=shared_prompt, init="ones", trained=Trained.GROUP, name=name),
        Origin(folder=tmp_path, shared=replace(shared_prompt, name=name), init="ones"),
    ]
    with pytest.raises(InputError, match="cannot name a prompt; use at most 64 letters"):
        train_source(tiny, plan, NewPrompt(name=name, length=LENGTH), silent)
    for origin in origins:
        with pytest.raises(InputError, match="cannot name a prompt; use at most 64 letters"):
            train_target(tiny, plan, origin, silent)
    assert list(tmp_path.iterdir()) == []


def test_prompt_without_virtual_tokens(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    plan = Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS)
    with pytest.raises(InputError, match="--prompt-length 1"):
        train_source(tiny, plan, NewPrompt(name="shared", length=0), silent)


def test_a_prompt_too_large_for_its_file_is_not_trained(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a prompt of 512 virtual tokens in all layers of a large model is."""
    monkeypatch.setattr("mpt_edge.training.plan.MAX_PROMPT_BYTES", (64 << 10) + 1000)
    folder, recipes = data
    plan = Plan([recipes["mood"]], folder, tmp_path / "run", SETTINGS)
    with pytest.raises(InputError, match="its prompt has 513 virtual tokens, more than 512"):
        train_source(tiny, plan, replace(SHARED, length=513, init="random"), silent)
    says = r"bytes, more than the 1,000 .* train a shorter one \(--prompt-length\)"
    with pytest.raises(InputError, match=says):
        train_source(tiny, plan, replace(SHARED, length=512, init="random"), silent)
    # The composed prompt of a task, as a shared one, is in float32.
    whole = SharedPrompt("whole", np.ones((512, 32), np.float32), Placement(), tiny.fingerprint)
    with pytest.raises(InputError, match=f"takes 65,536 {says}"):
        train_target(tiny, plan, Origin(folder=tmp_path, shared=whole, init="ones"), silent)
    assert not (tmp_path / "run").exists()


def test_text_without_room_beside_the_prompt(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    folder, recipes = data
    plan = Plan([replace(recipes["mood"], max_length=40)], folder, tmp_path / "source", SETTINGS)
    says = "has 48 positions and the prompt takes 20 of them; lower max_length of 'mood' to 28"
    prompt = NewPrompt(name="shared", length=20, layout=Layout.JOINT, position=PromptPosition.EMBEDDINGS)
    with pytest.raises(InputError, match=says):
        train_source(tiny, plan, prompt, silent)


@pytest.mark.parametrize(
    ("length", "changes", "says"),
    [
        (158, {}, "has 160 positions and the prompt takes 158 of them, which leaves no room for text; .* lower --prom"),
        (200, {}, "the prompt takes 200 of them, which leaves no room for text; train a prompt of a lower --prompt-l"),
        (513, {}, "its prompt has 513 virtual tokens, more than 512; pass a lower --prompt-length"),
        (
            7,
            {"max_target_length": 150},
            "the output of 'happy' 151, which leaves no room for its text; lower its max_target_length, or train",
        ),
        (7, {"max_length": 145}, "takes 7 of them, the output of 'happy' 9; lower max_length of 'happy' to 144 or"),
    ],
)
def test_lengths_that_the_model_cannot_hold(
    writer: GenerativeBackbone, tmp_path: Path, length: int, changes: dict[str, int], says: str
) -> None:
    """They are refused before training, whose tasks no bundle could run."""
    happy, _ = write_text_tasks(tmp_path)
    plan = Plan([replace(happy, **changes)], tmp_path, tmp_path / "run", Settings(epochs=1))
    with pytest.raises(InputError, match=says):
        train_source(writer, plan, NewPrompt(length=length), silent)
    assert not (tmp_path / "run").exists()


def test_label_texts_that_the_model_cannot_hold(writer: GenerativeBackbone, tmp_path: Path) -> None:
    _, who = write_text_tasks(tmp_path)
    wordy = replace(who, labels={"Tom": ("He was Tom. " * 30,), "Lily": ("She was Lily.",)})
    with pytest.raises(InputError, match="leaves no room for its text; shorten its label texts, or train a prompt"):
        train_source(writer, Plan([wordy], tmp_path, tmp_path, Settings()), NewPrompt(length=7), silent)


@pytest.mark.parametrize("position", list(PromptPosition))
def test_lengths_that_the_model_just_holds(tmp_path: Path, position: PromptPosition) -> None:
    """Learned positions are a table, which one more token would read beyond."""
    folder = tmp_path / "tiny-gpt2"
    AutoModelForCausalLM.from_config(CONFIGS["gpt2"]).save_pretrained(folder)
    save_tokenizer(folder)
    backbone = open_backbone(str(folder))
    assert isinstance(backbone, GenerativeBackbone)
    rows = [{"text": "a b " * 30, "target": "c d " * 30}] * 4
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(
        "long",
        "long.jsonl",
        "long.jsonl",
        head_type="generation",
        metric="f1",
        max_length=23,
        max_target_length=20,
    )
    plan = Plan([recipe], tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    (task,) = train_source(backbone, plan, NewPrompt(length=20, position=position), silent)
    manifest = export_bundle(ExportPlan(backbone, [tmp_path / "run"], tmp_path / "bundle"))
    assert (manifest.max_length, task.max_length) == (44, 23)
    answer = mpt_edge.load(tmp_path / "bundle", threads=1).task("long")(task.reference_example["text"])
    assert isinstance(answer, Generation)
    assert answer.text == task.reference_example["label"]


def test_short_prompts_are_the_default_of_encoders(tiny: EncoderBackbone, writer: GenerativeBackbone) -> None:
    assert (default_length(tiny), default_length(writer)) == (8, 100)
