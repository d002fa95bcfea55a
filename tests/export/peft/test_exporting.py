"""Adapters that we write, loaded and run by PEFT itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file

import mpt_edge
from mpt_edge.errors import InputError, MismatchError, UnknownTaskError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Mask
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, export_adapter, import_adapter, read_adapter
from tests.support import adapters
from tests.support.adapters import MODELS

TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom"]
PAIRS = [("law", "the vote in a party"), ("what film", "the witty one")]
TYPES = [task_type for task_type in MODELS if task_type not in ("CAUSAL_LM", "SEQ_2_SEQ_LM")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> EncoderBackbone:
    return load_encoder(str(adapters.save_base("bert", tmp_path_factory.mktemp("base") / "tiny-bert")))


@pytest.fixture(scope="module")
def root(backbone: EncoderBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with PEFT's adapters, and the bundle that they were imported into."""
    root = tmp_path_factory.mktemp("root")
    for task_type in TYPES:
        ranks = {"num_ranks": 2} if task_type == "TOKEN_CLS" else {}
        adapters.make_adapter(backbone.folder, task_type, root / task_type, **ranks)
        names = {f"{task_type}-{i}": i for i in range(3)}
        read = read_adapter(str(root / task_type))
        import_adapter(read, backbone, ImportOptions(tasks=names, max_length=40, license="mit")).save(root / "vectors")
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return root


@pytest.mark.parametrize("task_type", TYPES)
def test_tensors_come_back_bit_for_bit(root: Path, tmp_path: Path, task_type: str) -> None:
    names = [f"{task_type}-{i}" for i in range(3)]
    export_adapter(Bundle.open(root / "bundle"), names, tmp_path / "back")
    given = load_file(root / task_type / "adapter_model.safetensors")
    found = load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value), name
    before = json.loads((root / task_type / "adapter_config.json").read_text())
    after = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert after.items() <= before.items()


def logits(model: PeftModel, backbone: EncoderBackbone, texts: list, **inputs: torch.Tensor) -> list[np.ndarray]:
    rows = backbone.texts.encode(texts, 40)
    batch = backbone.texts.pad(rows)
    types = {"token_type_ids": torch.from_numpy(batch.token_type_ids)} if "QUESTION" not in type(model).__name__ else {}
    with torch.no_grad():
        found = model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask), **types, **inputs)
    if hasattr(found, "start_logits"):
        values = torch.stack([found.start_logits, found.end_logits], -1)
    else:
        values = found.logits if hasattr(found, "logits") else found.last_hidden_state
    values = values.numpy()
    return list(values) if values.ndim == 2 else [v[5 : 5 + len(row.ids)] for v, row in zip(values, rows, strict=True)]


def peft(backbone: EncoderBackbone, task_type: str, folder: Path) -> PeftModel:
    labels = {"num_labels": adapters.LABELS} if task_type in ("SEQ_CLS", "TOKEN_CLS") else {}
    return PeftModel.from_pretrained(MODELS[task_type].from_pretrained(backbone.folder, **labels), folder).eval()


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS"])
def test_peft_runs_a_multitask_adapter(root: Path, backbone: EncoderBackbone, tmp_path: Path, task_type: str) -> None:
    """Two tasks in another order than they were imported in: ids are positions."""
    names = [f"{task_type}-2", f"{task_type}-0"]
    assert export_adapter(Bundle.open(root / "bundle"), names, tmp_path / "a") == []
    model = peft(backbone, task_type, tmp_path / "a")
    ours = mpt_edge.load(root / "bundle", threads=1)
    for index, name in enumerate(names):
        found = logits(model, backbone, TEXTS, task_ids=torch.full((len(TEXTS),), index))
        for one, other in zip(found, ours.task(name).states(TEXTS), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("task_type", TYPES)
def test_peft_runs_folded_adapters(root: Path, backbone: EncoderBackbone, tmp_path: Path, task_type: str) -> None:
    names = [f"{task_type}-1", f"{task_type}-2"]
    assert export_adapter(Bundle.open(root / "bundle"), names, tmp_path / "a", fold=True) == []
    texts = PAIRS if task_type == "QUESTION_ANS" else TEXTS
    ours = mpt_edge.load(root / "bundle", threads=1)
    for name in names:
        model = peft(backbone, task_type, tmp_path / "a" / name)
        assert model.peft_config["default"].peft_type == "PROMPT_TUNING"
        for one, state in zip(logits(model, backbone, texts), ours.task(name).states(texts), strict=True):
            found = one.mean(0) / np.linalg.norm(one.mean(0)) if task_type == "FEATURE_EXTRACTION" else one
            np.testing.assert_allclose(found, state, atol=1e-4, rtol=0)


@pytest.mark.parametrize("task_type", ["QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_what_peft_cannot_run_is_said(root: Path, tmp_path: Path, task_type: str) -> None:
    found = export_adapter(Bundle.open(root / "bundle"), [f"{task_type}-0"], tmp_path / "a")
    assert found == [f"PEFT's {task_type} models lose task ids, so this adapter fails there; pass --fold instead."]


def test_card(root: Path, tmp_path: Path) -> None:
    export_adapter(Bundle.open(root / "bundle"), ["SEQ_CLS-1", "SEQ_CLS-0"], tmp_path / "mine", base_model="me/tiny")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("me/tiny", "peft", "mit")
    assert "| 0 | SEQ_CLS-1 | LABEL_0, LABEL_1, LABEL_2 |" in card.text
    assert 'AutoModelForSequenceClassification.from_pretrained("me/tiny", num_labels=3)' in card.text
    assert json.loads((tmp_path / "mine/adapter_config.json").read_text())["base_model_name_or_path"] == "me/tiny"


def test_no_task(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task is named"):
        export_adapter(Bundle.open(root / "bundle"), [], tmp_path / "a")


def test_unknown_task(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownTaskError):
        export_adapter(Bundle.open(root / "bundle"), ["nothing"], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_folder_in_use(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="is in use; pass a new or empty folder"):
        export_adapter(Bundle.open(root / "bundle"), ["SEQ_CLS-0"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_tasks_of_different_prompts(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"SEQ_CLS-0, TOKEN_CLS-0 .* export them one by one"):
        export_adapter(Bundle.open(root / "bundle"), ["SEQ_CLS-0", "TOKEN_CLS-0"], tmp_path / "a")


def beside(bundle: Bundle, other: TaskFile) -> Bundle:
    """Return a bundle that also holds another task."""

    class Opened(Bundle):
        def task(self, name: str) -> TaskFile:
            return other if name == other.name else super().task(name)

    return Opened(bundle.folder, bundle.manifest)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda t: {"readout": "tokens", "training": {**t.training, "task_type": "TOKEN_CLS"}},
            "are of different kinds",
        ),
        (lambda t: {"u": np.stack([t.u] * 2, 1), "v": np.stack([t.v] * 2)}, "have different numbers of vectors"),
    ],
)
def test_tasks_of_one_prompt_that_one_adapter_cannot_hold(
    root: Path, tmp_path: Path, change: Callable[[TaskFile], dict[str, object]], problem: str
) -> None:
    bundle = Bundle.open(root / "bundle")
    task = bundle.task("SEQ_CLS-0")
    with pytest.raises(MismatchError, match=problem):
        export_adapter(
            beside(bundle, replace(task, name="other", **change(task))), ["SEQ_CLS-0", "other"], tmp_path / "a"
        )


def test_different_heads(root: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(root / "bundle")
    task = bundle.task("SEQ_CLS-0")
    head = bundle.prompt(task.prompt).head
    assert head is not None
    last = replace(head.layers[-1], bias=head.layers[-1].bias + 1)
    other = replace(task, name="other", head=replace(head, layers=(*head.layers[:-1], last)))

    opened = beside(bundle, other)
    with pytest.raises(MismatchError, match="have different heads"):
        export_adapter(opened, ["SEQ_CLS-0", "other"], tmp_path / "a")
    assert export_adapter(opened, ["SEQ_CLS-0", "SEQ_CLS-1"], tmp_path / "a") == []


def test_our_own_layout_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'topic' was trained in the prefix layout .* answer differently"):
        export_adapter(Bundle.open(tiny_bundle), ["topic"], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_readout_that_peft_lacks_is_refused(root: Path, tmp_path: Path) -> None:
    """A task at a mask may have the layout of PEFT, and still has no task type there."""
    bundle = Bundle.open(shutil.copytree(root / "bundle", tmp_path / "bundle"))
    bundle.manifest = replace(bundle.manifest, mask=Mask(4, "[MASK]"))
    name = "FEATURE_EXTRACTION-0"
    words = {"readout": "mask", "labels": ("a", "b"), "label_texts": (("a",), ("the",)), "template": "{text} [MASK]"}
    replace(bundle.task(name), kind="classification", training={}, **words).save(tmp_path / "t")
    bundle._put({f"tasks/{name}.safetensors": (tmp_path / "t").read_bytes()})
    with pytest.raises(UnsupportedModelError, match="answers by its mask, which PEFT has no task type for"):
        export_adapter(bundle, [name], tmp_path / "a")
    assert not (tmp_path / "a").exists()
