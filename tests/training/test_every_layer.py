"""A prompt that enters every layer, from training to the device: two vectors scale the rows of all layers."""

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
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.settings import Settings, TeacherPlan, Trained
from mpt_edge.training.stages import NewPrompt, Origin, Plan, train_source, train_target
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft.exporting import export_adapter
from tests.support.prompted import overwritten
from tests.support.stages import silent

LENGTH = 3
SETTINGS = Settings(epochs=2, batch_size=8, max_tasks=0, examples_per_epoch=24, prompt_lr=0.02, task_lr=0.05, seed=3)
NEW = NewPrompt(name="deep", length=LENGTH, entry="every_layer")


@pytest.fixture(scope="module")
def folder(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train a source task with a teacher, a target of two vectors, and one that carries its own prompt; export all."""
    output = tmp_path_factory.mktemp("every-layer")
    source, recipes = data
    plan = Plan([recipes["mood"]], source, output / "run", SETTINGS)
    train_source(tiny, plan, NEW, silent, TeacherPlan(folder=output / "teachers", epochs=1))
    shared = SharedPrompt.load(output / "run/prompts/deep.safetensors")
    train_target(
        tiny,
        replace(plan, recipes=[recipes["match"]]),
        Origin(folder=output / "run", shared=shared, start="nearest"),
        silent,
    )
    own = Origin(folder=output / "run", shared=shared, trained=Trained.PROMPT)
    train_target(tiny, replace(plan, recipes=[recipes["field"]]), own, silent)
    export_bundle(ExportPlan(tiny, [output / "run"], output / "bundle"))
    return output


def test_what_is_written(folder: Path, tiny: EncoderBackbone) -> None:
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors")
    assert (shared.values.shape, shared.entry, shared.layout) == ((LENGTH, 2, 32), "every_layer", "prefix")
    for name, two in (("mood", True), ("match", True), ("field", False)):
        task = TaskFile.load(folder / f"run/tasks/{name}.safetensors")
        assert (task.u.shape, task.v.shape, task.two_vectors) == ((LENGTH,), (32,), two)
    assert task.own_prompt is not None
    assert (task.own_prompt.shape, task.entry) == ((LENGTH, 2, 32), "every_layer")
    manifest = Bundle.open(folder / "bundle").manifest
    assert (manifest.entry, manifest.prompt_shape(4)) == ("every_layer", (4, 2, 32))
    assert manifest.parity["max_abs_difference"] < 1e-4


def test_a_new_prompt_enters_every_layer_where_its_layout_lets_it() -> None:
    assert [NewPrompt(layout=layout).place for layout in ("prefix", "joint")] == ["every_layer", "first_layer"]


@pytest.mark.parametrize("name", ["mood", "match", "field"])
def test_the_device_answers_as_training_did(folder: Path, name: str) -> None:
    reference_example = TaskFile.load(folder / f"run/tasks/{name}.safetensors").reference_example
    text = reference_example["text"]
    found = mpt_edge.load(folder / "bundle", threads=1).task(name)(tuple(text) if isinstance(text, list) else text)
    assert (found.label, found.score) == (
        reference_example["label"],
        pytest.approx(reference_example["score"], abs=1e-4),
    )


def test_the_device_computes_what_an_unchanged_model_does(folder: Path, tiny: EncoderBackbone) -> None:
    """`states` against transformers' BERT whose prompt rows are overwritten before each layer."""
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
        np.testing.assert_allclose(task.states([text])[0], pooled.numpy(), atol=1e-4)


def test_mixed_batches_and_other_lengths(folder: Path) -> None:
    model = mpt_edge.load(folder / "bundle", threads=1)
    texts = ["a witty film", "atom and cell", "a dull text"]
    together = model.run(texts, ["mood", "field", "mood"])
    for text, name, found in zip(texts, ["mood", "field", "mood"], together, strict=True):
        assert found.score == pytest.approx(model.task(name)(text).score, abs=1e-5)


@pytest.mark.parametrize(("shared", "ok"), [((4, 2, 3), True), ((4, 2, 5), False), ((5, 2, 3), False)])
def test_compose(shared: tuple[int, ...], ok: bool) -> None:
    rng = np.random.default_rng(0)
    values, u, v = (rng.standard_normal(shape).astype(np.float32) for shape in (shared, 4, 3))
    if not ok:
        with pytest.raises(MismatchError, match="do not fit a shared prompt"):
            compose(values, u, v)
        return
    found = compose(values, u, v)
    for layer in range(2):
        np.testing.assert_allclose(found[:, layer], np.diag(u) @ values[:, layer] @ np.diag(v), rtol=1e-5)


def test_one_layout(tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], folder: Path, tmp_path: Path) -> None:
    plan = Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS)
    with pytest.raises(InputError, match="it has the prefix layout alone; leave out --layout"):
        train_source(tiny, plan, replace(NEW, layout="joint"), silent)
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors")
    with pytest.raises(InputError, match="it has the prefix layout alone"):
        Origin(folder=folder / "run", shared=shared).placed("joint")
    replace(shared, layout="joint").save(tmp_path / "joint.safetensors")
    with pytest.raises(CorruptFileError, match="is not a prompt file"):
        SharedPrompt.load(tmp_path / "joint.safetensors")


@pytest.mark.parametrize("shape", [(LENGTH, 32), (LENGTH, 0, 32), (0, 2, 32)])
def test_rows_that_are_not_there(folder: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    shared = SharedPrompt.load(folder / "run/prompts/deep.safetensors")
    replace(shared, values=np.ones(shape, np.float16)).save(tmp_path / "other.safetensors")
    with pytest.raises(CorruptFileError, match="is not a prompt file"):
        SharedPrompt.load(tmp_path / "other.safetensors")


def test_a_prompt_for_another_number_of_layers(folder: Path, tmp_path: Path) -> None:
    task = TaskFile.load(folder / "run/tasks/field.safetensors")
    replace(task, own_prompt=np.ones((LENGTH, 5, 32), np.float16), layout="prefix", entry="every_layer").save(
        tmp_path / "field.safetensors"
    )
    model = mpt_edge.load(folder / "bundle", threads=1)
    with pytest.raises(MismatchError, match="made for another number of layers than 2"):
        model.add_task(tmp_path / "field.safetensors")


def test_two_places_are_two_bundles(folder: Path, tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="enters at every_layer and that of 'mpt' at first_layer"):
        export_bundle(ExportPlan(tiny, [folder / "run", tiny_vectors], tmp_path / "bundle"))


def test_peft_has_no_such_prompts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="its prompt entering at every_layer; PEFT feeds prompts as word"):
        export_adapter(Bundle.open(folder / "bundle"), ["mood"], tmp_path / "adapter")
