"""Exported adapters, loaded and run by PEFT itself."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from peft import PeftModel
from safetensors.torch import load_file

import mpt_edge
from mpt_edge.errors import InputError, MismatchError, UnknownTaskError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.linear_head import LinearHead
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, export_adapter, import_adapter, read_adapter
from mpt_edge_export.peft.task_types import TASK_TYPES
from tests.support import adapters
from tests.support.adapters import MODELS

TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom"]
PAIRS = [("law", "the vote in a party"), ("what film", "the witty one")]
TYPES = [name for name, task_type in TASK_TYPES.items() if task_type.family is Family.ENCODER]


@pytest.fixture(scope="module")
def root(bert: EncoderBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with PEFT's adapters, and the bundle that they were imported into."""
    root = tmp_path_factory.mktemp("root")
    for task_type in TYPES:
        ranks = {"num_ranks": 2} if task_type == "TOKEN_CLS" else {}
        adapters.make_adapter(bert.folder, task_type, root / task_type, **ranks)
        names = {f"{task_type}-{i}": i for i in range(3)}
        read = read_adapter(str(root / task_type))
        import_adapter(read, bert, ImportOptions(tasks=names, max_length=40, license="mit")).save(root / "vectors")
    export_bundle(ExportPlan(bert, [root / "vectors"], root / "bundle"))
    return root


@pytest.mark.parametrize("task_type", TYPES)
def test_tensors_come_back_bit_for_bit(root: Path, tmp_path: Path, task_type: str) -> None:
    names = [f"{task_type}-{i}" for i in range(3)]
    export_adapter(Bundle.open(root / "bundle"), names, tmp_path / "back")
    before = load_file(root / task_type / "adapter_model.safetensors")
    after = load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], value), name
    before = json.loads((root / task_type / "adapter_config.json").read_text())
    after = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert after.items() <= before.items()


def logits(model: PeftModel, bert: EncoderBackbone, texts: list, **inputs: torch.Tensor) -> list[np.ndarray]:
    rows = bert.texts.encode(texts, 40)
    batch = bert.texts.pad(rows)
    types = {"token_type_ids": torch.from_numpy(batch.token_type_ids)} if "QUESTION" not in type(model).__name__ else {}
    with torch.no_grad():
        output = model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask), **types, **inputs)
    if hasattr(output, "start_logits"):
        values = torch.stack([output.start_logits, output.end_logits], -1)
    else:
        values = output.logits if hasattr(output, "logits") else output.last_hidden_state
    values = values.numpy()
    return list(values) if values.ndim == 2 else [v[5 : 5 + len(row.ids)] for v, row in zip(values, rows, strict=True)]


def peft(bert: EncoderBackbone, task_type: str, folder: Path) -> PeftModel:
    labels = {"num_labels": adapters.LABELS} if task_type in ("SEQ_CLS", "TOKEN_CLS") else {}
    return PeftModel.from_pretrained(MODELS[task_type].from_pretrained(bert.folder, **labels), folder).eval()


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS"])
def test_peft_runs_a_multitask_adapter(root: Path, bert: EncoderBackbone, tmp_path: Path, task_type: str) -> None:
    """Two tasks in another order than they were imported in: ids are positions."""
    names = [f"{task_type}-2", f"{task_type}-0"]
    assert export_adapter(Bundle.open(root / "bundle"), names, tmp_path / "a") == []
    model = peft(bert, task_type, tmp_path / "a")
    ours = mpt_edge.load(root / "bundle", threads=1)
    for index, name in enumerate(names):
        theirs = logits(model, bert, TEXTS, task_ids=torch.full((len(TEXTS),), index))
        for one, other in zip(theirs, ours.task(name).scores(TEXTS), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-4, rtol=0)


@pytest.mark.parametrize("task_type", TYPES)
def test_peft_runs_folded_adapters(root: Path, bert: EncoderBackbone, tmp_path: Path, task_type: str) -> None:
    names = [f"{task_type}-1", f"{task_type}-2"]
    assert export_adapter(Bundle.open(root / "bundle"), names, tmp_path / "a", fold=True) == []
    texts = PAIRS if task_type == "QUESTION_ANS" else TEXTS
    ours = mpt_edge.load(root / "bundle", threads=1)
    for name in names:
        model = peft(bert, task_type, tmp_path / "a" / name)
        assert model.peft_config["default"].peft_type == "PROMPT_TUNING"
        for one, scores in zip(logits(model, bert, texts), ours.task(name).scores(texts), strict=True):
            expected = one.mean(0) / np.linalg.norm(one.mean(0)) if task_type == "FEATURE_EXTRACTION" else one
            np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("task_type", ["QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_limitations_of_peft_are_returned(root: Path, tmp_path: Path, task_type: str) -> None:
    warnings = export_adapter(Bundle.open(root / "bundle"), [f"{task_type}-0"], tmp_path / "a")
    assert warnings == [f"PEFT's {task_type} models lose task ids, so this adapter fails there; pass --fold instead."]


def test_card(root: Path, tmp_path: Path) -> None:
    export_adapter(Bundle.open(root / "bundle"), ["SEQ_CLS-1", "SEQ_CLS-0"], tmp_path / "mine", base_model="me/tiny")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("me/tiny", "peft", "mit")
    assert "| 0 | SEQ_CLS-1 | LABEL_0, LABEL_1, LABEL_2 |" in card.text
    assert 'AutoModelForSequenceClassification.from_pretrained("me/tiny", num_labels=3)' in card.text
    assert json.loads((tmp_path / "mine/adapter_config.json").read_text())["base_model_name_or_path"] == "me/tiny"


def test_hostile_names_in_a_card(root: Path, tmp_path: Path) -> None:
    base, folder = '"]\n---\n# owned <script>alert(1)</script>\x1b[31m\n```\n"""', "a```\n<b>"
    export_adapter(Bundle.open(root / "bundle"), ["SEQ_CLS-1"], tmp_path / folder, base_model=base)
    text = (tmp_path / folder / "README.md").read_text("utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == base
    page = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    assert set(re.findall(r"<(\w+)", page)) == {"h1", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "pre"}
    code = html.unescape(re.search(r"<pre><code[^>]*>(.*)</code>", page, re.DOTALL)[1])
    strings = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert {base, folder} < strings


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
        (lambda t: {"head_type": "tokens"}, "are of different kinds"),
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
    shared = bundle.prompt(task.prompt)
    assert shared.head is not None
    *layers, last = shared.head.layers
    head = LinearHead((*layers, replace(last, bias=last.bias + 1)))
    opened = beside(bundle, replace(task, name="other", own_prompt=replace(shared, head=head)))
    with pytest.raises(MismatchError, match="have different heads"):
        export_adapter(opened, ["SEQ_CLS-0", "other"], tmp_path / "a")
    assert export_adapter(opened, ["SEQ_CLS-0", "SEQ_CLS-1"], tmp_path / "a") == []


def test_our_own_placement_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'topic' was trained in the prefix layout .* answer differently"):
        export_adapter(Bundle.open(tiny_bundle), ["topic"], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_refused_task_among_folded_ones_writes_nothing(root: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(root / "bundle")
    placement = Placement(position=PEFT_PLACEMENT.position)
    task = bundle.task("SEQ_CLS-0")
    own = replace(bundle.prompt(task.prompt), placement=placement)
    opened = beside(bundle, replace(task, name="other", own_prompt=own))
    with pytest.raises(UnsupportedModelError, match="'other' was trained in the prefix layout"):
        export_adapter(opened, ["SEQ_CLS-0", "other"], tmp_path / "a", fold=True)
    assert not (tmp_path / "a").exists()


def test_head_type_that_peft_lacks_is_refused(root: Path, tmp_path: Path) -> None:
    """A task at a mask may have PEFT's placement, and still has no task type there."""
    bundle = Bundle.open(root / "bundle")
    words = {"head_type": "mask", "labels": ("a", "b"), "label_texts": (("a",), ("the",)), "template": "{text} [MASK]"}
    task = replace(bundle.task("FEATURE_EXTRACTION-0"), name="masked", training={}, **words)
    with pytest.raises(UnsupportedModelError, match="has the head type mask, which PEFT has no task type for"):
        export_adapter(beside(bundle, task), ["masked"], tmp_path / "a")
    assert not (tmp_path / "a").exists()
