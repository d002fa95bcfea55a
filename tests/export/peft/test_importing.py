"""Imported tasks in ONNX Runtime against PEFT's own forward on the same model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, BertForMaskedLM, ElectraConfig

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.inference.text import Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, import_adapter, read_adapter
from tests.support import adapters
from tests.support.adapters import VIRTUAL
from tests.support.encoders import save_tokenizer

TOLERANCE = 1e-4
TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom", "good bad great cell star law"]
PAIRS = [("a witty film", "dull"), ("law", "the vote in a party of stars"), ("bad", "good great atom cell")]
READOUTS = {"SEQ_CLS": "classifier", "TOKEN_CLS": "tokens", "QUESTION_ANS": "span", "FEATURE_EXTRACTION": "embedding"}


@dataclass(frozen=True)
class Case:
    """A PEFT model to hold an imported task against."""

    task_type: str
    multitask: bool
    peft: PeftModel
    backbone: EncoderBackbone

    def reference(self, texts: list[Text], task: int) -> tuple[np.ndarray, list[int]]:
        """Return what PEFT computes, prompt rows included, and each text's number of tokens.

        PEFT's question answering and feature extraction take ``task_ids`` and lose them, so a multitask
        adapter fails there. It is then held against the base model, fed as PEFT's other forwards do. Both
        drop segment ids too.
        """
        rows = self.backbone.texts.encode(texts, 40)
        batch = self.backbone.texts.pad(rows)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        inputs = {"attention_mask": mask}
        if self.backbone.model.token_types and self.task_type in ("SEQ_CLS", "TOKEN_CLS"):
            inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids)
        with torch.no_grad():
            if not self.multitask:
                found = self.peft(ids, **inputs)
            elif self.task_type in ("SEQ_CLS", "TOKEN_CLS"):
                found = self.peft(ids, task_ids=torch.full((len(rows),), task), **inputs)
            else:
                with pytest.raises(ValueError, match="task_ids cannot be None"):
                    self.peft(ids, task_ids=torch.full((len(rows),), task), **inputs)
                prompt = self.peft.get_prompt(len(rows), torch.full((len(rows),), task))
                embeds = torch.cat([prompt, self.peft.word_embeddings(ids)], 1)
                keys = torch.nn.functional.pad(mask, (VIRTUAL, 0), value=1)
                found = self.peft.base_model(inputs_embeds=embeds, attention_mask=keys)
        if self.task_type == "QUESTION_ANS":
            logits = torch.stack([found.start_logits, found.end_logits], -1)
        elif self.task_type == "FEATURE_EXTRACTION":
            logits = found.last_hidden_state
        else:
            logits = found.logits
        return logits.numpy(), [len(row.ids) for row in rows]


@dataclass(frozen=True)
class Imports:
    """One base model with adapters of every task type, imported into one bundle."""

    backbone: EncoderBackbone
    models: dict[str, PeftModel]
    adapters: dict[str, Path]
    bundle: Path

    def case(self, name: str) -> Case:
        return Case(name.rpartition("-")[0], name.endswith("multitask"), self.models[name], self.backbone)


NAMES = [f"{task_type}-multitask" for task_type in READOUTS] + [f"{task_type}-plain" for task_type in READOUTS]

OF_PAIRS = {"QUESTION_ANS-multitask", "QUESTION_ANS-plain", "SEQ_CLS-plain"}


def tasks_of(name: str) -> dict[str, int]:
    return {f"{name}-0": 0, f"{name}-2": 2} if name.endswith("multitask") else {f"{name}-0": 0}


@pytest.fixture(scope="module", params=("bert", "distilbert", "electra", "roberta"))
def imports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imports:
    root = tmp_path_factory.mktemp("imports")
    base = adapters.save_base(request.param, root / f"tiny-{request.param}")
    backbone = load_encoder(str(base))
    models, places = {}, {}
    for name in NAMES:
        task_type, _, method = name.rpartition("-")
        places[name] = root / name
        ranks = {"num_ranks": 2} if name == "SEQ_CLS-multitask" and request.param == "roberta" else {}
        models[name] = adapters.make_adapter(base, task_type, places[name], multitask=method == "multitask", **ranks)
        kind = "pair" if name in OF_PAIRS else "classification"
        options = ImportOptions(tasks=tasks_of(name), kind=kind, max_length=40)
        imported = import_adapter(read_adapter(str(places[name])), backbone, options)
        assert imported.warnings == []
        imported.save(root / "vectors")
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return Imports(backbone, models, places, root / "bundle")


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_pefts(imports: Imports, name: str) -> None:
    case = imports.case(name)
    texts = PAIRS if name in OF_PAIRS else TEXTS
    model = mpt_edge.load(imports.bundle, threads=1)
    for task_name, index in tasks_of(name).items():
        expected, lengths = case.reference(texts, index)
        task = model.task(task_name)
        assert task.file.readout == READOUTS[case.task_type]
        for found, logits, length in zip(task.states(texts), expected, lengths, strict=True):
            wanted = logits if case.task_type == "SEQ_CLS" else logits[VIRTUAL : VIRTUAL + length]
            if case.task_type == "FEATURE_EXTRACTION":
                wanted = wanted.mean(0) / np.linalg.norm(wanted.mean(0))
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_adapters_bit_for_bit(imports: Imports, name: str) -> None:
    adapter = read_adapter(str(imports.adapters[name]))
    opened = mpt_edge.load(imports.bundle, threads=1).bundle
    for task_name, index in tasks_of(name).items():
        task = opened.task(task_name)
        u, v = adapter.vectors(index)
        assert task.two_vectors == name.endswith("multitask")
        shared = task.whole_prompt() or opened.prompt(task.prompt)
        assert task.head is None or not task.two_vectors  # one head for all tasks of an adapter lies with its prompt
        pairs = [(task.u, u), (task.v, v), (shared.values, adapter.shared())]
        last = None if shared.head is None else shared.head.layers[-1]
        assert (last is None) == (not adapter.modules)
        if last is not None:
            saved = next(
                key
                for key in adapter.modules
                if key.endswith(("classifier.weight", "out_proj.weight", "qa_outputs.weight")) and "pre_" not in key
            )
            pairs += [
                (last.weight, adapter.modules[saved]),
                (last.bias, adapter.modules[saved.replace("weight", "bias")]),
            ]
        for found, wanted in pairs:
            assert found.dtype == np.float32
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["camembert", "xlm-roberta"])
@torch.no_grad()
def test_heads_of_robertas_kin(tmp_path: Path, kind: str) -> None:
    """Their code is RoBERTa's, so no graph is exported: the head on our PyTorch states gives PEFT's logits."""
    base = adapters.save_base(kind, tmp_path / f"tiny-{kind}")
    backbone = load_encoder(str(base))
    peft = adapters.make_adapter(base, "SEQ_CLS", tmp_path / "adapter")
    imported = import_adapter(read_adapter(str(tmp_path / "adapter")), backbone, ImportOptions(tasks={"x": 2}))
    shared, task = imported.prompt, imported.tasks[0]
    assert shared is not None
    assert shared.head is not None
    prompt = torch.from_numpy(compose(shared.values, task.u, task.v))[None]
    for row in backbone.texts.encode(TEXTS, 40):
        ids = torch.tensor([row.ids])
        keys = torch.ones(1, VIRTUAL + ids.shape[1], dtype=torch.long)
        hidden, _ = backbone.model(ids, keys, None, prompt=prompt, entry=shared.entry)
        logits = peft(ids, torch.ones_like(ids), task_ids=torch.tensor([2])).logits[0].numpy()
        np.testing.assert_allclose(shared.head(hidden[0, 0].numpy()), logits, atol=TOLERANCE, rtol=0)


def test_tasks_of_all_kinds_share_a_batch(imports: Imports) -> None:
    model = mpt_edge.load(imports.bundle, threads=1)
    names = [f"{name}-0" for name in NAMES if name not in OF_PAIRS]
    found = model.run(["a witty film"] * len(names), names)
    for name, one in zip(names, found, strict=True):
        alone = model.task(name)("a witty film")
        assert (one.label, type(one)) == (alone.label, type(alone))
        assert one.score == pytest.approx(alone.score, abs=1e-5)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> EncoderBackbone:
    return load_encoder(str(adapters.save_base("bert", tmp_path_factory.mktemp("bert") / "tiny-bert")))


@pytest.fixture
def adapter(bert: EncoderBackbone, tmp_path: Path) -> Path:
    adapters.make_adapter(bert.folder, "SEQ_CLS", tmp_path / "my adapter!")
    return tmp_path / "my adapter!"


def test_names_without_any_given(bert: EncoderBackbone, adapter: Path) -> None:
    imported = import_adapter(read_adapter(str(adapter)), bert)
    assert [task.name for task in imported.tasks] == ["my-adapter-0", "my-adapter-1", "my-adapter-2"]
    assert imported.prompt is not None
    assert (imported.prompt.name, imported.prompt.layout, imported.prompt.entry) == (
        "my-adapter",
        "joint",
        "inputs_embeds",
    )
    task = imported.tasks[1]
    assert task.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert task.max_length == 48 - VIRTUAL
    assert task.training["task_id"] == 1
    assert (task.training["method"], task.training["task_type"]) == ("MULTITASK_PROMPT_TUNING", "SEQ_CLS")


def test_labels(bert: EncoderBackbone, adapter: Path) -> None:
    read = read_adapter(str(adapter))
    assert import_adapter(read, bert, ImportOptions(labels=("a", "b", "c"))).tasks[0].labels == ("a", "b", "c")
    for wrong in (("a", "b"), ("a", "b", "b")):
        with pytest.raises(InputError, match="labels were given and the head has 3"):
            import_adapter(read, bert, ImportOptions(labels=wrong))


@pytest.mark.parametrize(
    ("known", "labels"),
    [
        (["bad", "fair", "good"], ("bad", "fair", "good")),
        (["bad", "bad", "good"], ("LABEL_0", "LABEL_1", "LABEL_2")),
        (["bad", "fair", "good", "best"], ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_labels_of_the_base_model(
    bert: EncoderBackbone, adapter: Path, tmp_path: Path, known: list[str], labels: tuple[str, ...]
) -> None:
    folder = Path(shutil.copytree(bert.folder, tmp_path / "named"))
    config = json.loads((folder / "config.json").read_text()) | {"id2label": dict(enumerate(known))}
    (folder / "config.json").write_text(json.dumps(config))
    assert import_adapter(read_adapter(str(adapter)), replace(bert, folder=folder)).tasks[0].labels == labels


def test_name_of_an_adapter_leaves_room_for_the_task_id(bert: EncoderBackbone, adapter: Path) -> None:
    read = replace(read_adapter(str(adapter)), source="x" * 80)
    assert import_adapter(read, bert).tasks[2].name == "x" * 56 + "-2"


def test_name_that_is_no_file_name(bert: EncoderBackbone, adapter: Path) -> None:
    with pytest.raises(InputError, match=r"'\.\./x' cannot name a task"):
        import_adapter(read_adapter(str(adapter)), bert, ImportOptions(tasks={"../x": 0}))
    with pytest.raises(InputError, match="'my prompt' cannot name a prompt"):
        import_adapter(read_adapter(str(adapter)), bert, ImportOptions(tasks={"x": 0}, name="my prompt"))


def test_another_base_model_is_warned_of(bert: EncoderBackbone, adapter: Path) -> None:
    read = replace(read_adapter(str(adapter)), base_model="someone/else")
    assert import_adapter(read, bert).warnings == [
        f"{adapter} names someone/else as its base model; tiny-bert was passed."
    ]


def test_another_width(bert: EncoderBackbone, adapter: Path) -> None:
    read = read_adapter(str(adapter))
    read = replace(read, prompt=read.prompt[:, :16])
    with pytest.raises(MismatchError, match=r"trained on a model of width 16 .* tiny-bert has 32; pass its base model"):
        import_adapter(read, bert)


def test_more_virtual_tokens_than_positions(bert: EncoderBackbone, adapter: Path) -> None:
    read = replace(read_adapter(str(adapter)), length=46)
    with pytest.raises(MismatchError, match="46 virtual tokens, too many for tiny-bert"):
        import_adapter(read, bert)
    assert import_adapter(replace(read, length=45), bert).tasks[0].max_length == 3


def test_head_that_was_not_saved(bert: EncoderBackbone, adapter: Path) -> None:
    with pytest.raises(CorruptFileError, match="lacks the trained 'classifier' of its SEQ_CLS head"):
        import_adapter(replace(read_adapter(str(adapter)), modules={}), bert)
    read = read_adapter(str(adapter))
    cut = {**read.modules, "classifier.bias": read.modules["classifier.bias"][:2]}
    with pytest.raises(CorruptFileError, match="lacks the trained 'classifier' of its SEQ_CLS head"):
        import_adapter(replace(read, modules=cut), bert)


def test_other_modules_that_were_trained(bert: EncoderBackbone, adapter: Path) -> None:
    read = read_adapter(str(adapter))
    more = {**read.modules, "bert.encoder.layer.0.output.dense.weight": np.ones((2, 2), np.float32)}
    with pytest.raises(UnsupportedModelError, match=r"also changes 'bert\.encoder.* which stays frozen here"):
        import_adapter(replace(read, modules=more), bert)


def test_base_model_without_a_pooler(adapter: Path, tmp_path: Path) -> None:
    """PEFT then classifies through a random pooler that it does not save."""
    folder = adapters.save_base("bert", tmp_path / "tiny-bert")
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(UnsupportedModelError, match="has no pooler, so PEFT gave the classifier a random one"):
        import_adapter(read_adapter(str(adapter)), load_encoder(str(folder)))


def test_regression(bert: EncoderBackbone, tmp_path: Path) -> None:
    adapters.make_adapter(bert.folder, "SEQ_CLS", tmp_path / "a")
    read = read_adapter(str(tmp_path / "a"))
    one = {name: value[:1] for name, value in read.modules.items()}
    with pytest.raises(UnsupportedModelError, match="a head of 1 output, a regression"):
        import_adapter(replace(read, modules=one), bert)


def test_narrow_embeddings(tmp_path: Path) -> None:
    folder = tmp_path / "electra"
    AutoModel.from_config(
        ElectraConfig(**adapters.CONFIGS["electra"].to_diff_dict() | {"embedding_size": 16})
    ).save_pretrained(folder)
    save_tokenizer(folder)
    base = adapters.save_base("electra", tmp_path / "wide")
    adapters.make_adapter(base, "TOKEN_CLS", tmp_path / "a")
    with pytest.raises(UnsupportedModelError, match="narrower embeddings than layers"):
        import_adapter(read_adapter(str(tmp_path / "a")), load_encoder(str(folder)))


def test_two_places_in_one_bundle_are_refused(bert: EncoderBackbone, adapter: Path, tmp_path: Path) -> None:
    import_adapter(read_adapter(str(adapter)), bert).save(tmp_path / "vectors")
    values = np.ones((3, 32), np.float16)
    SharedPrompt("ours", values, "prefix", bert.fingerprint).save(tmp_path / "vectors/prompts/ours.safetensors")
    with pytest.raises(MismatchError, match="'my-adapter' enters at inputs_embeds and that of 'ours' at first_layer"):
        export_bundle(ExportPlan(bert, [tmp_path / "vectors"], tmp_path / "bundle"))
