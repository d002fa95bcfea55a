"""A prompt that enters all layers, from training to the device: two vectors scale it in every layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.plan import NewPrompt, Origin, Plan
from mpt_edge.training.settings import Settings, TeacherPlan, Trained
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft.exporting import export_adapter
from tests.support.prompted import overwritten
from tests.support.stages import answers_as_trained, silent

LENGTH = 3
SETTINGS = Settings(epochs=2, batch_size=8, max_tasks=0, examples_per_epoch=24, prompt_lr=0.02, task_lr=0.05, seed=3)
NEW = NewPrompt(name="deep", length=LENGTH)
ALL_LAYERS = Placement(position=PromptPosition.ALL_LAYERS)


@pytest.fixture(scope="module")
def folder(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train a source task with a teacher, a target of two vectors, and one that carries its own prompt; export all."""
    output = tmp_path_factory.mktemp("all-layers")
    source, recipes = data
    plan = Plan([recipes["mood"]], source, output / "run", SETTINGS)
    train_source(tiny, plan, NEW, silent, TeacherPlan(folder=output / "teachers", epochs=1))
    shared = SharedPrompt.load(output / "run/prompts/deep.safetensors")
    train_target(
        tiny,
        replace(plan, recipes=[recipes["match"]]),
        Origin(folder=output / "run", shared=shared, init="nearest"),
        silent,
    )
    own = Origin(folder=output / "run", shared=shared, trained=Trained.PROMPT)
    train_target(tiny, replace(plan, recipes=[recipes["field"]]), own, silent)
    export_bundle(ExportPlan(tiny, [output / "run"], output / "bundle"))
    return output


def test_files(folder: Path, tiny: EncoderBackbone) -> None:
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors")
    assert (shared.values.shape, shared.placement) == ((LENGTH, 2, 32), ALL_LAYERS)
    for name, two in (("mood", True), ("match", True), ("field", False)):
        task = TaskFile.load(folder / f"run/tasks/{name}.safetensors")
        assert (task.u.shape, task.v.shape, task.is_two_vectors) == ((LENGTH,), (32,), two)
    assert task.own_prompt is not None
    assert (task.own_prompt.values.shape, task.own_prompt.placement) == ((LENGTH, 2, 32), ALL_LAYERS)
    manifest = Bundle.open(folder / "bundle").manifest
    assert (manifest.placement, manifest.prompt_shape(4)) == (ALL_LAYERS, (4, 2, 32))
    assert manifest.parity["max_abs_difference"] < 1e-4


@pytest.mark.parametrize("name", ["mood", "match", "field"])
def test_the_device_answers_as_training_did(folder: Path, name: str) -> None:
    task = TaskFile.load(folder / f"run/tasks/{name}.safetensors")
    assert answers_as_trained(mpt_edge.load(folder / "bundle", threads=1), task)


def test_the_device_computes_as_an_unchanged_model_does(folder: Path, tiny: EncoderBackbone) -> None:
    """Embeddings against transformers' BERT whose virtual tokens are overwritten before each layer."""
    bundle = mpt_edge.load(folder / "bundle", threads=1)
    assert isinstance(bundle, EncoderModel)
    task = bundle.task("mood")
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors").values.astype(np.float32)
    prompt = torch.from_numpy(np.einsum("l,lnd,d->lnd", task.file.u, shared, task.file.v).astype(np.float32))
    np.testing.assert_allclose(task.prompt, prompt.numpy(), rtol=1e-5, atol=1e-6)
    model = AutoModel.from_pretrained(tiny.folder).eval()
    for text in ("a witty film", "a dull ball game of the law party"):
        ids = torch.tensor([tiny.texts.encode([text], 16)[0].ids])
        rows = torch.cat([prompt[None, :, 0], model.embeddings(ids)], dim=1)
        with torch.no_grad(), overwritten(list(model.encoder.layer), prompt):
            hidden = model.encoder(rows, attention_mask=torch.zeros(1, 1, 1, rows.shape[1])).last_hidden_state
        pooled = torch.nn.functional.normalize(hidden[0, LENGTH:].mean(0), dim=0)
        np.testing.assert_allclose(task.embed([text])[0], pooled.numpy(), atol=1e-4)


def test_mixed_batches_and_other_lengths(folder: Path) -> None:
    model = mpt_edge.load(folder / "bundle", threads=1)
    texts = ["a witty film", "atom and cell", "a dull text"]
    together = model.run(texts, ["mood", "field", "mood"])
    for text, name, answer in zip(texts, ["mood", "field", "mood"], together, strict=True):
        assert answer.score == pytest.approx(model.task(name)(text).score, abs=1e-5)


@pytest.mark.parametrize(("shared", "ok"), [((4, 2, 3), True), ((4, 2, 5), False), ((5, 2, 3), False)])
def test_compose(shared: tuple[int, ...], ok: bool) -> None:
    rng = np.random.default_rng(0)
    values, u, v = (rng.standard_normal(shape).astype(np.float32) for shape in (shared, 4, 3))
    if not ok:
        with pytest.raises(MismatchError, match="do not fit a shared prompt"):
            compose(values, u, v)
        return
    prompt = compose(values, u, v)
    for layer in range(2):
        np.testing.assert_allclose(prompt[:, layer], np.diag(u) @ values[:, layer] @ np.diag(v), rtol=1e-5)


def test_one_layout(tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], folder: Path, tmp_path: Path) -> None:
    plan = Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS)
    with pytest.raises(InputError, match="it has the prefix layout alone; leave out --layout"):
        train_source(tiny, plan, replace(NEW, layout=Layout.JOINT, position=PromptPosition.ALL_LAYERS), silent)
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors")
    with pytest.raises(InputError, match="it has the prefix layout alone"):
        Origin(folder=folder / "run", shared=shared).placed(Layout.JOINT)
    replace(shared, placement=Placement(Layout.JOINT)).save(tmp_path / "joint.safetensors")
    with pytest.raises(CorruptFileError, match="is not a prompt file"):
        SharedPrompt.load(tmp_path / "joint.safetensors")


@pytest.mark.parametrize("shape", [(LENGTH, 32), (LENGTH, 0, 32), (0, 2, 32)])
def test_values_of_another_shape(folder: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors")
    replace(shared, values=np.ones(shape, np.float16)).save(tmp_path / "other.safetensors")
    with pytest.raises(CorruptFileError, match="is not a prompt file"):
        SharedPrompt.load(tmp_path / "other.safetensors")


def test_a_prompt_for_another_number_of_layers(folder: Path, tmp_path: Path) -> None:
    task = TaskFile.load(folder / "run/tasks/field.safetensors")
    assert task.own_prompt is not None
    own = replace(task.own_prompt, values=np.ones((LENGTH, 5, 32), np.float16))
    replace(task, own_prompt=own).save(tmp_path / "field.safetensors")
    model = mpt_edge.load(folder / "bundle", threads=1)
    with pytest.raises(MismatchError, match="made for another number of layers than 2"):
        model.add_task(tmp_path / "field.safetensors")


def test_two_positions_are_two_bundles(folder: Path, tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="enters at all_layers and that of 'mpt' at first_layer"):
        export_bundle(ExportPlan(tiny, [folder / "run", tiny_vectors], tmp_path / "bundle"))


def test_peft_has_no_such_prompts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="its prompt entering at all_layers; PEFT feeds prompts as word"):
        export_adapter(Bundle.open(folder / "bundle"), ["mood"], tmp_path / "adapter")
