"""Imported prompts of models that generate: the tokens are those of PEFT's own greedy `generate`."""

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
from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.bundle import MODEL, Bundle
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, export_adapter, import_adapter, read_adapter
from mpt_edge_export.peft.command import import_command
from tests.support import adapters
from tests.support.adapters import VIRTUAL

NEW = 9
TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom"]


@dataclass(frozen=True)
class Imports:
    """One base model with a multitask and a plain adapter, imported into one bundle."""

    backbone: GenerativeBackbone
    models: dict[str, PeftModel]
    root: Path

    @property
    def bundle(self) -> Bundle:
        return Bundle.open(self.root / "bundle")


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
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return Imports(backbone, models, root)


def peft_tokens(model: PeftModel, ids: list[int], **inputs: Any) -> list[int]:
    given = torch.tensor([ids])
    with torch.no_grad():
        found = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False, **inputs
        )
    return found[0, len(ids) :].tolist()


def our_tokens(bundle: Bundle, task: str, rows: list[list[int]]) -> list[list[int]]:
    """Search greedily over the exported graph, all rows in one batch under one cached prompt."""
    file = bundle.task(task)
    shared = bundle.prompt(file.prompt).values if file.own_prompt is None else file.own_prompt
    session = OnnxCausal(bundle.folder / MODEL, bundle.manifest, threads=1)
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows])
    mask = (np.arange(width) < np.array([len(row) for row in rows])[:, None]).astype(np.int64)
    state, logits = session.open(Batch(ids, mask, mask * 0), [session.encode_prompt(compose(shared, file.u, file.v))])
    found = [logits.argmax(-1)]
    while len(found) < NEW:
        found.append(state.extend(found[-1][:, None], np.ones((len(rows), 1), np.int64))[:, 0].argmax(-1))
    return np.stack(found, axis=1).tolist()


def test_tokens_are_pefts(imports: Imports) -> None:
    rows = [encoded.ids for encoded in imports.backbone.texts.encode(TEXTS, 30)]
    seen = set()
    for name, index in (("many-0", 0), ("many-2", 2), ("plain", None)):
        model = imports.models[name.partition("-")[0]]
        ids = {} if index is None else {"task_ids": torch.tensor([index])}
        expected = [peft_tokens(model, row, **ids) for row in rows]
        assert our_tokens(imports.bundle, name, rows) == expected
        assert peft_tokens(model, rows[0], use_cache=False, **ids) == expected[0]
        seen.add(str(expected))
    assert len(seen) == 3  # prompts that changed nothing would agree as well


def test_texts_are_pefts(imports: Imports) -> None:
    """What a user gets is PEFT's tokens as text."""
    task = mpt_edge.load(imports.root / "bundle", threads=1).task("many-2")
    tokenizer = AutoTokenizer.from_pretrained(imports.backbone.folder)
    for text, found in zip(TEXTS, task(TEXTS), strict=True):
        ids = imports.backbone.texts.encode([text], 30)[0].ids
        tokens = peft_tokens(imports.models["many"], ids, task_ids=torch.tensor([2]))
        assert found.label == tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_files(imports: Imports) -> None:
    bundle = imports.bundle
    kind = imports.backbone.model.model.config.model_type
    entry = "inputs_embeds" if kind.startswith("gpt") else "first_layer"
    assert (bundle.manifest.family, bundle.manifest.layout, bundle.manifest.entry) == ("causal", "prefix", entry)
    task = bundle.task("plain")
    assert (task.kind, task.readout, task.generation["max_new_tokens"], task.max_length) == (
        "generation",
        "generation",
        NEW,
        48 - VIRTUAL,
    )
    assert (task.layout, task.entry, task.two_vectors) == ("prefix", entry, False)
    adapter = read_adapter(str(imports.root / "many"))
    prompt = bundle.prompt("many")
    assert np.array_equal(prompt.values, adapter.shared())
    for index in range(3):
        for found, wanted in zip(
            (bundle.task(f"many-{index}").u, bundle.task(f"many-{index}").v), adapter.vectors(index), strict=True
        ):
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("fold", [False, True], ids=["multitask", "folded"])
def test_back_to_peft(imports: Imports, tmp_path: Path, fold: bool) -> None:
    """PEFT generates from our export what it generated before."""
    assert export_adapter(imports.bundle, ["many-2"], tmp_path / "back", fold=fold) == []
    base = adapters.MODELS["CAUSAL_LM"].from_pretrained(imports.backbone.folder)
    back = PeftModel.from_pretrained(base, tmp_path / "back").eval()
    row = imports.backbone.texts.encode(TEXTS[:1], 30)[0].ids
    found = peft_tokens(back, row, **({} if fold else {"task_ids": torch.tensor([0])}))
    assert found == peft_tokens(imports.models["many"], row, task_ids=torch.tensor([2]))


def test_choice_of_given_texts(imports: Imports) -> None:
    read = read_adapter(str(imports.root / "plain"))
    (task,) = import_adapter(read, imports.backbone, ImportOptions(tasks={"pick": 0}, labels=("yes", "no"))).tasks
    assert (task.name, task.readout, task.labels, task.label_texts) == (
        "pick",
        "choice",
        ("yes", "no"),
        (("yes",), ("no",)),
    )


def test_adapter_of_another_family(imports: Imports, tmp_path: Path) -> None:
    adapters.make_adapter(adapters.save_base("bert", tmp_path / "bert"), "SEQ_CLS", tmp_path / "a")
    with pytest.raises(
        UnsupportedModelError, match=r"is a SEQ_CLS adapter, which tiny-.*, a decoder-only model, cannot run"
    ):
        import_adapter(read_adapter(str(tmp_path / "a")), imports.backbone)


def test_prompt_that_caikit_folded(imports: Imports, tmp_path: Path) -> None:
    """A whole prompt, the template included, that writes what PEFT writes under the same prompt."""
    encoder = imports.models["many"].prompt_encoder["default"]
    with torch.no_grad():
        torch.save(encoder(torch.arange(VIRTUAL)[None], torch.tensor([1]))[0], tmp_path / "decoder.pt")
    config = f"base_model_name: {imports.backbone.folder}\nverbalizer: 'the film {{{{input}}}}'\n"
    (tmp_path / "config.yml").write_text(config)
    options = ImportOptions(tasks={"folded": 0}, max_length=30)
    imported = import_command(str(tmp_path), str(imports.backbone.folder), tmp_path / "vectors", options)
    assert imported.warnings == []
    (task,) = imported.tasks
    assert (task.template, task.two_vectors, imported.prompt) == ("the film {text}", False, None)
    export_bundle(ExportPlan(imports.backbone, [tmp_path / "vectors"], tmp_path / "bundle"))
    row = imports.backbone.texts.encode(TEXTS[:1], 30)[0].ids
    expected = peft_tokens(imports.models["many"], row, task_ids=torch.tensor([1]))
    assert our_tokens(Bundle.open(tmp_path / "bundle"), "folded", [row]) == [expected]


def test_our_own_tasks_where_positions_are_relative(imports: Imports, tmp_path: Path) -> None:
    """A prompt trained in our layout is PEFT's too, unless text counts its positions from zero here."""
    backbone = imports.backbone
    values = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float16)
    SharedPrompt("ours", values, "prefix", backbone.fingerprint).save(tmp_path / "v/prompts/ours.safetensors")
    shared = SharedPrompt.load(tmp_path / "v/prompts/ours.safetensors")
    task = import_adapter(read_adapter(str(imports.root / "plain")), backbone).tasks[0]
    ours = {"name": "ours", "u": np.ones(4, np.float16), "v": np.full(32, 0.5, np.float16), "own_prompt": None}
    ours |= {"prompt": "ours", "prompt_sha256": shared.fingerprint, "layout": "", "entry": "", "training": {}}
    replace(task, **ours).save(tmp_path / "v/tasks/ours.safetensors")
    export_bundle(ExportPlan(backbone, [tmp_path / "v"], tmp_path / "bundle"))
    bundle = Bundle.open(tmp_path / "bundle")
    if bundle.manifest.generation.positions_from_zero:
        with pytest.raises(UnsupportedModelError, match="would answer differently"):
            export_adapter(bundle, ["ours"], tmp_path / "back")
        return
    export_adapter(bundle, ["ours"], tmp_path / "back")
    model = PeftModel.from_pretrained(adapters.MODELS["CAUSAL_LM"].from_pretrained(backbone.folder), tmp_path / "back")
    row = backbone.texts.encode(TEXTS[:1], 30)[0].ids
    assert our_tokens(bundle, "ours", [row]) == [peft_tokens(model.eval(), row, task_ids=torch.tensor([0]))]
