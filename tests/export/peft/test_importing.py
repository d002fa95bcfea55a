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
from transformers import AutoModel, ElectraConfig

import mpt_edge
from mpt_edge.errors import InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.heads import Classifier, Embedding, Span, Tokens
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
HEAD_TYPES = {"SEQ_CLS": Classifier, "TOKEN_CLS": Tokens, "QUESTION_ANS": Span, "FEATURE_EXTRACTION": Embedding}


@dataclass(frozen=True)
class Case:
    """A PEFT model to compare an imported task with."""

    task_type: str
    multitask: bool
    peft: PeftModel
    backbone: EncoderBackbone

    def reference(self, texts: list[Text], task: int) -> tuple[np.ndarray, list[int]]:
        """Return PEFT's output, virtual tokens included, and each text's number of tokens.

        PEFT's question answering and feature extraction take ``task_ids`` and lose them, so a multitask
        adapter fails there. Its reference is the base model, fed as PEFT's other forwards do. Both drop
        segment ids too.
        """
        rows = self.backbone.texts.encode(texts, 40)
        batch = self.backbone.texts.pad(rows)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        inputs = {"attention_mask": mask}
        if self.backbone.model.token_types and self.task_type in ("SEQ_CLS", "TOKEN_CLS"):
            inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids)
        with torch.no_grad():
            if not self.multitask:
                output = self.peft(ids, **inputs)
            elif self.task_type in ("SEQ_CLS", "TOKEN_CLS"):
                output = self.peft(ids, task_ids=torch.full((len(rows),), task), **inputs)
            else:
                with pytest.raises(ValueError, match="task_ids cannot be None"):
                    self.peft(ids, task_ids=torch.full((len(rows),), task), **inputs)
                prompt = self.peft.get_prompt(len(rows), torch.full((len(rows),), task))
                embeds = torch.cat([prompt, self.peft.word_embeddings(ids)], 1)
                keys = torch.nn.functional.pad(mask, (VIRTUAL, 0), value=1)
                output = self.peft.base_model(inputs_embeds=embeds, attention_mask=keys)
        if self.task_type == "QUESTION_ANS":
            logits = torch.stack([output.start_logits, output.end_logits], -1)
        elif self.task_type == "FEATURE_EXTRACTION":
            logits = output.last_hidden_state
        else:
            logits = output.logits
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


NAMES = [f"{task_type}-multitask" for task_type in HEAD_TYPES] + [f"{task_type}-plain" for task_type in HEAD_TYPES]

OF_PAIRS = {"QUESTION_ANS-multitask", "QUESTION_ANS-plain", "SEQ_CLS-plain"}


def tasks_of(name: str) -> dict[str, int]:
    return {f"{name}-0": 0, f"{name}-2": 2} if name.endswith("multitask") else {f"{name}-0": 0}


@pytest.fixture(scope="module", params=("bert", "distilbert", "electra", "roberta"))
def imports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imports:
    root = tmp_path_factory.mktemp("imports")
    base = adapters.save_base(request.param, root / f"tiny-{request.param}")
    backbone = load_encoder(str(base))
    models, folders = {}, {}
    for name in NAMES:
        task_type, _, method = name.rpartition("-")
        folders[name] = root / name
        ranks = {"num_ranks": 2} if name == "SEQ_CLS-multitask" and request.param == "roberta" else {}
        models[name] = adapters.make_adapter(base, task_type, folders[name], multitask=method == "multitask", **ranks)
        inputs = Inputs.PAIR if name in OF_PAIRS else Inputs.TEXT
        options = ImportOptions(tasks=tasks_of(name), inputs=inputs, max_length=40)
        imported = import_adapter(read_adapter(str(folders[name])), backbone, options)
        assert imported.warnings == []
        imported.save(root / "vectors")
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return Imports(backbone, models, folders, root / "bundle")


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_pefts(imports: Imports, name: str) -> None:
    case = imports.case(name)
    texts = PAIRS if name in OF_PAIRS else TEXTS
    model = mpt_edge.load(imports.bundle, threads=1)
    for task_name, index in tasks_of(name).items():
        expected, lengths = case.reference(texts, index)
        task = model.task(task_name)
        assert isinstance(task.head, HEAD_TYPES[case.task_type])
        for scores, logits, length in zip(task.scores(texts), expected, lengths, strict=True):
            target = logits if case.task_type == "SEQ_CLS" else logits[VIRTUAL : VIRTUAL + length]
            if case.task_type == "FEATURE_EXTRACTION":
                target = target.mean(0) / np.linalg.norm(target.mean(0))
            assert scores.shape == target.shape
            np.testing.assert_allclose(scores, target, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_adapters_bit_for_bit(imports: Imports, name: str) -> None:
    adapter = read_adapter(str(imports.adapters[name]))
    opened = mpt_edge.load(imports.bundle, threads=1).bundle
    for task_name, index in tasks_of(name).items():
        task = opened.task(task_name)
        u, v = adapter.vectors(index)
        assert task.is_two_vectors == name.endswith("multitask")
        shared = task.own_prompt or opened.prompt(task.prompt)
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
        for value, expected in pairs:
            assert value.dtype == np.float32
            assert np.array_equal(value, expected)


def test_tasks_of_all_head_types_share_a_batch(imports: Imports) -> None:
    model = mpt_edge.load(imports.bundle, threads=1)
    names = [f"{name}-0" for name in NAMES if name not in OF_PAIRS]
    answers = model.run(["a witty film"] * len(names), names)
    for name, one in zip(names, answers, strict=True):
        alone = model.task(name)("a witty film")
        assert type(one) is type(alone)
        if isinstance(one, mpt_edge.Embedding):
            np.testing.assert_allclose(one.vector, alone.vector, atol=1e-5)
        else:
            assert (one.summary, one.confidence) == (alone.summary, pytest.approx(alone.confidence, abs=1e-5))


def test_names_without_any_given(bert: EncoderBackbone, adapter: Path) -> None:
    imported = import_adapter(read_adapter(str(adapter)), bert)
    assert [task.name for task in imported.tasks] == ["my-adapter-0", "my-adapter-1", "my-adapter-2"]
    assert imported.prompt is not None
    assert (imported.prompt.name, imported.prompt.placement) == ("my-adapter", PEFT_PLACEMENT)
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


def test_impossible_names(bert: EncoderBackbone, adapter: Path) -> None:
    with pytest.raises(InputError, match=r"'\.\./x' cannot name a task"):
        import_adapter(read_adapter(str(adapter)), bert, ImportOptions(tasks={"../x": 0}))
    with pytest.raises(InputError, match="'my prompt' cannot name a prompt"):
        import_adapter(read_adapter(str(adapter)), bert, ImportOptions(tasks={"x": 0}, name="my prompt"))


def test_warning_about_another_base_model(bert: EncoderBackbone, adapter: Path) -> None:
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


def test_beside_our_own_prompts_in_one_bundle_is_refused(bert: EncoderBackbone, adapter: Path, tmp_path: Path) -> None:
    import_adapter(read_adapter(str(adapter)), bert).save(tmp_path / "vectors")
    values = np.ones((3, 32), np.float16)
    ours = SharedPrompt("ours", values, Placement(), bert.fingerprint)
    ours.save(tmp_path / "vectors/prompts/ours.safetensors")
    with pytest.raises(MismatchError, match="'my-adapter' enters at embeddings and that of 'ours' at first_layer"):
        export_bundle(ExportPlan(bert, [tmp_path / "vectors"], tmp_path / "bundle"))


def test_labels_that_look_the_same(bert: EncoderBackbone, adapter: Path) -> None:
    with pytest.raises(InputError, match="the labels 'a' and 'a ' differ only in spaces or in the encoding of accents"):
        import_adapter(read_adapter(str(adapter)), bert, ImportOptions(labels=("a", "b", "a ")))
