"""Imported prompts of decoder-only models: the tokens of PEFT's own greedy `generate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

import mpt_edge
from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import Imported, ImportOptions, export_adapter, import_adapter, read_adapter
from mpt_edge_export.peft.command import import_command
from tests.support import adapters
from tests.support.adapters import VIRTUAL

NEW = 9
TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom"]


@dataclass(frozen=True)
class Imports:
    """One base model with a multitask, a plain and a folded adapter, imported into one bundle."""

    backbone: GenerativeBackbone
    models: dict[str, PeftModel]
    folded: Imported
    root: Path

    @property
    def bundle(self) -> Bundle:
        return Bundle.open(self.root / "bundle")

    @property
    def first_row(self) -> list[int]:
        return self.backbone.texts.encode(TEXTS[:1], 30)[0].ids


@pytest.fixture(scope="module", params=adapters.CAUSAL)
def imports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imports:
    root = tmp_path_factory.mktemp("imports")
    base = adapters.save_base(request.param, root / f"tiny-{request.param}")
    backbone = open_backbone(str(base))
    assert isinstance(backbone, GenerativeBackbone)
    models = {}
    for name, multitask in (("many", True), ("plain", False)):
        ranks = {"num_ranks": 2} if multitask and request.param == "gpt2" else {}
        models[name] = adapters.make_adapter(base, "CAUSAL_LM", root / name, multitask=multitask, **ranks)
        imported = import_adapter(read_adapter(str(root / name)), backbone, ImportOptions(max_new_tokens=NEW))
        assert imported.warnings == []
        imported.save(root / "vectors")
    folded = import_folded(root, base, models["many"])
    if not backbone.model.positions_from_zero(PromptPosition.FIRST_LAYER):
        save_ours(backbone, root, root / "vectors")
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return Imports(backbone, models, folded, root)


def import_folded(root: Path, base: Path, model: PeftModel) -> Imported:
    """Import task 1 of an adapter as caikit folds it, with a template."""
    (root / "caikit").mkdir()
    with torch.no_grad():
        prompt = model.prompt_encoder["default"](torch.arange(VIRTUAL)[None], torch.tensor([1]))[0]
    torch.save(prompt, root / "caikit" / "decoder.pt")
    config = f"base_model_name: {base}\nverbalizer: 'the film {{{{input}}}}'\n"
    (root / "caikit" / "config.yml").write_text(config)
    options = ImportOptions(tasks={"folded": 0}, max_length=30)
    return import_command(str(root / "caikit"), str(base), root / "vectors", options)


def save_ours(backbone: GenerativeBackbone, root: Path, vectors: Path) -> None:
    """Save a shared prompt with our own default placement, and a task that scales it."""
    values = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float16)
    shared = SharedPrompt("ours", values, Placement(), backbone.fingerprint)
    task = replace(
        import_adapter(read_adapter(str(root / "plain")), backbone).tasks[0],
        name="ours",
        u=np.ones(4, np.float16),
        v=np.full(32, 0.5, np.float16),
        prompt="ours",
        prompt_sha256=shared.fingerprint,
        own_prompt=None,
        training={},
    )
    VectorFolder(vectors).save(shared)
    VectorFolder(vectors).save(task)


def peft_tokens(model: PeftModel, ids: list[int], **inputs: Any) -> list[int]:
    given = torch.tensor([ids])
    with torch.no_grad():
        result = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False, **inputs
        )
    return result[0, len(ids) :].tolist()


def our_tokens(bundle: Bundle, task: str, rows: list[list[int]]) -> list[list[int]]:
    """Search greedily over the exported graph, all rows in one batch under one cached prompt."""
    file = bundle.task(task)
    prompt = compose((file.own_prompt or bundle.prompt(file.prompt)).values, file.u, file.v)
    session = OnnxCausal(*bundle.graphs(), bundle.manifest, SessionOptions(threads=1))
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows])
    mask = (np.arange(width) < np.array([len(row) for row in rows])[:, None]).astype(np.int64)
    state, logits = session.open(Batch(ids, mask, mask * 0), [session.encode_prompt(prompt)])
    result = [logits.argmax(-1)]
    while len(result) < NEW:
        result.append(state.extend(result[-1][:, None], np.ones((len(rows), 1), np.int64))[:, 0].argmax(-1))
    return np.stack(result, axis=1).tolist()


def test_tokens_are_pefts(imports: Imports) -> None:
    rows = [encoded.ids for encoded in imports.backbone.texts.encode(TEXTS, 30)]
    results = set()
    for name, index in (("many-0", 0), ("many-2", 2), ("plain", None)):
        model = imports.models[name.partition("-")[0]]
        ids = {} if index is None else {"task_ids": torch.tensor([index])}
        expected = [peft_tokens(model, row, **ids) for row in rows]
        assert our_tokens(imports.bundle, name, rows) == expected
        assert peft_tokens(model, rows[0], use_cache=False, **ids) == expected[0]
        results.add(str(expected))
    assert len(results) == 3  # prompts without any effect would agree as well


def test_texts_are_pefts(imports: Imports) -> None:
    """A user gets PEFT's tokens as text."""
    task = mpt_edge.load(imports.root / "bundle", threads=1).task("many-2")
    tokenizer = AutoTokenizer.from_pretrained(imports.backbone.folder)
    for text, answer in zip(TEXTS, task(TEXTS), strict=True):
        ids = imports.backbone.texts.encode([text], 30)[0].ids
        tokens = peft_tokens(imports.models["many"], ids, task_ids=torch.tensor([2]))
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_files(imports: Imports) -> None:
    bundle = imports.bundle
    is_gpt = imports.backbone.model.model.config.model_type.startswith("gpt")
    placement = Placement(Layout.PREFIX, PromptPosition.EMBEDDINGS if is_gpt else PromptPosition.FIRST_LAYER)
    assert (bundle.manifest.family, bundle.manifest.placement) == (Family.CAUSAL, placement)
    task = bundle.task("plain")
    assert (task.head_type, task.generation["max_new_tokens"], task.max_length) == ("generation", NEW, 64 - VIRTUAL)
    assert task.own_prompt is not None
    assert (task.own_prompt.placement, task.is_two_vectors) == (placement, False)
    adapter = read_adapter(str(imports.root / "many"))
    assert np.array_equal(bundle.prompt("many").values, adapter.shared())
    for index in range(3):
        task = bundle.task(f"many-{index}")
        for result, expected in zip((task.u, task.v), adapter.vectors(index), strict=True):
            assert np.array_equal(result, expected)


@pytest.mark.parametrize("fold", [False, True], ids=["multitask", "folded"])
def test_back_to_peft(imports: Imports, tmp_path: Path, fold: bool) -> None:
    """PEFT generates from our export what it generated before."""
    assert export_adapter(imports.bundle, ["many-2"], tmp_path / "back", fold=fold) == []
    base = adapters.MODELS["CAUSAL_LM"].from_pretrained(imports.backbone.folder)
    back = PeftModel.from_pretrained(base, tmp_path / "back").eval()
    tokens = peft_tokens(back, imports.first_row, **({} if fold else {"task_ids": torch.tensor([0])}))
    assert tokens == peft_tokens(imports.models["many"], imports.first_row, task_ids=torch.tensor([2]))


def test_choice_of_given_texts(imports: Imports) -> None:
    read = read_adapter(str(imports.root / "plain"))
    (task,) = import_adapter(read, imports.backbone, ImportOptions(tasks={"pick": 0}, labels=("yes", "no"))).tasks
    assert (task.name, task.head_type, task.labels) == ("pick", "choice", ("yes", "no"))
    assert task.label_texts == (("yes",), ("no",))


def test_adapter_of_another_family(imports: Imports, adapter: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"is a SEQ_CLS adapter, which tiny-.*, a decoder-only model, cannot run"
    ):
        import_adapter(read_adapter(str(adapter)), imports.backbone)


def test_prompt_that_caikit_folded(imports: Imports) -> None:
    """A composed prompt generates what PEFT generates under it; its template is kept."""
    assert imports.folded.warnings == []
    (task,) = imports.folded.tasks
    assert (task.template, task.is_two_vectors, imports.folded.prompt) == ("the film {text}", False, None)
    expected = peft_tokens(imports.models["many"], imports.first_row, task_ids=torch.tensor([1]))
    assert our_tokens(imports.bundle, "folded", [imports.first_row]) == [expected]


def test_our_own_tasks_where_positions_are_relative(imports: Imports, tmp_path: Path) -> None:
    """A prompt of our default placement is then PEFT's too."""
    backbone, bundle = imports.backbone, imports.bundle
    if backbone.model.positions_from_zero(PromptPosition.FIRST_LAYER):
        assert "ours" not in bundle.task_names  # the next test
        return
    export_adapter(bundle, ["ours"], tmp_path / "back")
    model = PeftModel.from_pretrained(adapters.MODELS["CAUSAL_LM"].from_pretrained(backbone.folder), tmp_path / "back")
    expected = peft_tokens(model.eval(), imports.first_row, task_ids=torch.tensor([0]))
    assert our_tokens(bundle, "ours", [imports.first_row]) == [expected]


def test_our_own_tasks_where_positions_count_from_zero(tmp_path: Path) -> None:
    backbone = open_backbone(str(adapters.save_base("gpt2", tmp_path / "tiny-gpt2")))
    assert isinstance(backbone, GenerativeBackbone)
    adapters.make_adapter(backbone.folder, "CAUSAL_LM", tmp_path / "plain", multitask=False)
    save_ours(backbone, tmp_path, tmp_path / "v")
    export_bundle(ExportPlan(backbone, [tmp_path / "v"], tmp_path / "bundle"))
    with pytest.raises(UnsupportedModelError, match="would answer differently"):
        export_adapter(Bundle.open(tmp_path / "bundle"), ["ours"], tmp_path / "back")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (("yes", "yes "), "the labels 'yes' and 'yes ' differ only in spaces"),
        (("yes", "yes"), "the label 'yes' is there twice; name each label once"),
        (("yes", ""), "the text of the label '' has no tokens for this model; pass other words with --label"),
    ],
)
def test_choice_of_texts_that_are_alike(imports: Imports, labels: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        import_adapter(read_adapter(str(imports.root / "plain")), imports.backbone, ImportOptions(labels=labels))
