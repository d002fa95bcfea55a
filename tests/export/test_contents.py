"""Prompts and tasks of a bundle, which must belong to the backbone and to each other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.contents import Contents, collect
from tests.support.writers import CONTEXT


def test_contents(tiny: EncoderBackbone, vectors: Path, long_prompt_task: Path, shared_prompt: SharedPrompt) -> None:
    contents = collect([vectors], tiny)
    assert (list(contents.prompts), list(contents.tasks)) == (["mpt"], ["same", "sentiment", "topic"])
    assert (contents.placement, contents.head_type) == (shared_prompt.placement, "similarity")
    assert (contents.shared_length, contents.max_length) == (6, 6)
    shutil.copy(long_prompt_task, vectors / "tasks" / "longer.safetensors")
    contents = collect([vectors], tiny)
    assert (contents.shared_length, contents.max_length) == (6, 11)


def test_composed_prompts(
    tiny: EncoderBackbone, tiny_vectors: Path, tiny_bundle: Path, shared_prompt: SharedPrompt
) -> None:
    contents, manifest = collect([tiny_vectors], tiny), Bundle.open(tiny_bundle).manifest
    for prompt, task in zip(contents.composed(manifest), contents.tasks.values(), strict=True):
        assert np.array_equal(prompt, compose(shared_prompt.values, task.u, task.v))


def test_nothing(tiny_bundle: Path) -> None:
    contents = Contents({}, {})
    assert (contents.placement, contents.head_type, contents.shared_length) == (Placement(), None, 0)
    assert contents.max_length == 0
    (prompt,) = contents.composed(Bundle.open(tiny_bundle).manifest)
    assert prompt.shape == (10, 32)


@pytest.mark.parametrize("kind", ["prompt", "task"])
def test_vectors_of_another_backbone_are_refused(
    tiny: EncoderBackbone, vectors: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "prompt":
        path = vectors / "prompts/mpt.safetensors"
        replace(SharedPrompt.load(path), backbone="0" * 64).save(path)
    else:
        path = vectors / "tasks/topic.safetensors"
        replace(TaskFile.load(path), backbone="0" * 64).save(path)
    with pytest.raises(MismatchError) as caught:
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))
    assert f"the {kind} {path.stem!r} was made for another backbone than tiny-bert" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["prompts", "tasks"])
@pytest.mark.parametrize("stem", ["other", "with space"])
def test_file_of_another_name_than_its_content_is_refused(
    tiny: EncoderBackbone, vectors: Path, tmp_path: Path, kind: str, stem: str
) -> None:
    name = {"prompts": "mpt", "tasks": "topic"}[kind]
    shutil.copyfile(vectors / kind / f"{name}.safetensors", vectors / kind / f"{stem}.safetensors")
    with pytest.raises(
        InputError, match=rf"{stem}\.safetensors holds '{name}'; rename the file to {name}\.safetensors"
    ):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))
    assert not (tmp_path / "out").exists()


def test_prompt_of_a_name_that_no_bundle_can_list_is_refused(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    replace(shared_prompt, name="my prompt").save(tmp_path / "v" / "prompts" / "my prompt.safetensors")
    with pytest.raises(InputError, match="holds 'my prompt', a name that no bundle can list"):
        export_bundle(ExportPlan(tiny, [tmp_path / "v"], tmp_path / "out" / "b"))
    assert not (tmp_path / "out").exists()


def test_task_without_its_shared_prompt_is_refused(tiny: EncoderBackbone, vectors: Path, tmp_path: Path) -> None:
    prompt = SharedPrompt.load(vectors / "prompts/mpt.safetensors")
    shutil.rmtree(vectors / "prompts")
    with pytest.raises(MismatchError, match=r"scales a shared prompt 'mpt' that is not here"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b"))
    replace(prompt, values=prompt.values + np.float16(1)).save(vectors / "prompts/mpt.safetensors")
    with pytest.raises(MismatchError, match="'mpt'"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b"))


def test_task_of_another_tokenizer_is_refused(tiny: EncoderBackbone, vectors: Path, tmp_path: Path) -> None:
    path = vectors / "tasks/topic.safetensors"
    replace(TaskFile.load(path), tokenizer="0" * 64).save(path)
    with pytest.raises(MismatchError, match="tokenizer"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))


@pytest.mark.parametrize("own", [False, True])
def test_two_prompt_positions_in_one_bundle_are_refused(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, vectors: Path, tmp_path: Path, own: bool
) -> None:
    """A task's own prompt counts too."""
    other = replace(shared_prompt, name="other", placement=Placement(position=PromptPosition.EMBEDDINGS))
    if own:
        task = TaskFile.load(vectors / "tasks/topic.safetensors")
        replace(task, name="other", own_prompt=other).save(vectors / "tasks/other.safetensors")
    else:
        other.save(vectors / "prompts/other.safetensors")
    with pytest.raises(MismatchError, match="'mpt' enters at first_layer and that of 'other' at embeddings, and a gra"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b"))


@pytest.mark.parametrize("length", [CONTEXT - 2, CONTEXT, CONTEXT + 40])
def test_prompt_that_leaves_no_text_any_room_is_refused(
    writer: GenerativeBackbone, tmp_path: Path, length: int
) -> None:
    values = np.zeros((length, writer.model.hidden_size), np.float16)
    SharedPrompt("mpt", values, Placement(), writer.fingerprint).save(tmp_path / "v/prompts/mpt.safetensors")
    with pytest.raises(
        InputError, match=f"a prompt takes {length} of them, .*; train it again with a lower --prompt-length"
    ):
        export_bundle(ExportPlan(writer, [tmp_path / "v"], tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_prompt_of_an_encoder_takes_positions_in_place_of_embeddings(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    values = np.zeros((46, tiny.model.hidden_size), np.float16)
    long = replace(shared_prompt, values=values, placement=Placement(position=PromptPosition.EMBEDDINGS))
    long.save(tmp_path / "v/prompts/mpt.safetensors")
    with pytest.raises(InputError, match="has 48 positions and a prompt takes 46 of them"):
        export_bundle(ExportPlan(tiny, [tmp_path / "v"], tmp_path / "b"))


def test_task_whose_labels_are_alike_is_refused(tiny: EncoderBackbone, vectors: Path, tmp_path: Path) -> None:
    path = vectors / "tasks/topic.safetensors"
    replace(TaskFile.load(path), label_texts=(("ball",), ("BALL",), ("law",))).save(path)
    with pytest.raises(MismatchError) as caught:
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))
    assert str(caught.value) == (
        "'topic' cannot be used: the labels 'sport' and 'law' have the same tokens; train the task again with other "
        "label texts."
    )
    assert not (tmp_path / "out").exists()
