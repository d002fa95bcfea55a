"""Answers at a mask, from training to the device, against the masked language models of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import onnx_ir
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
)

import mpt_edge
from mpt_edge.errors import MismatchError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement, PromptPosition
from mpt_edge.formats.prompts import compose
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.plan import NewPrompt, Plan
from mpt_edge.training.settings import Settings, TeacherPlan
from mpt_edge.training.source_stage import train_source
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.adapters import shake
from tests.support.commands import run_here
from tests.support.counting import count_texts
from tests.support.encoders import save_tokenizer
from tests.support.stages import answers_as_trained, silent

_SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_SIZES |= {"intermediate_size": 48, "max_position_embeddings": 48, "initializer_range": 0.3, "pad_token_id": 0}
CONFIGS = {
    "bert": BertConfig(**_SIZES),
    "modernbert": ModernBertConfig(
        **_SIZES, local_attention=8, global_attn_every_n_layers=2, bos_token_id=2, eos_token_id=3, sep_token_id=3
    ),
    "roberta": RobertaConfig(**_SIZES, type_vocab_size=1),
    "distilbert": DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=48, initializer_range=0.3
    ),
}
TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom"]
LABELS = {"bad": ("bad", "dull"), "good": ("good", "great", "witty")}


def make_base(kind: str, folder: Path) -> Path:
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(CONFIGS[kind])
    shake(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def make_recipe(folder: Path, name: str, template: str) -> Recipe:
    rows = [{"text": f"{text} {word}", "label": label} for text in TEXTS for label in LABELS for word in ("a", "the")]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = f"{name}.jsonl"
    return Recipe(name, path, path, template=template, head_type="mask", labels=LABELS, max_length=16)


@pytest.fixture(scope="module", params=CONFIGS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(request.param, tmp_path_factory.mktemp("base") / f"tiny-{request.param}")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderBackbone, Path]:
    """Train two tasks with teachers in the placement of PEFT, as transformers computes it; return a bundle too."""
    folder = tmp_path_factory.mktemp("run")
    backbone = load_encoder(str(base))
    recipes = [make_recipe(folder, "after", "{text} was {mask}"), make_recipe(folder, "before", "{mask}: {text}")]
    plan = Plan(recipes, folder, folder / "run", Settings(epochs=3, max_tasks=0, prompt_lr=0.05, task_lr=0.05))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        prompt = NewPrompt(name="mpt", length=5, layout=PEFT_PLACEMENT.layout, position=PEFT_PLACEMENT.position)
        train_source(backbone, plan, prompt, silent, TeacherPlan(folder=folder / "teachers", epochs=1))
    export_bundle(ExportPlan(backbone, [folder / "run"], folder / "bundle"))
    return backbone, folder / "bundle"


@torch.no_grad()
def reference(base: Path, text: str, prompt: np.ndarray, index: int = 0) -> np.ndarray:
    """Return the mean logit of each label's words at one of the text's masks, from the unchanged model."""
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text, return_tensors="pt").input_ids
    rows = torch.cat([torch.from_numpy(prompt), model.get_input_embeddings()(ids[0])])[None]
    logits = model(inputs_embeds=rows, attention_mask=torch.ones(rows.shape[:2])).logits[0, len(prompt) :]
    position = (ids[0] == tokenizer.mask_token_id).nonzero()[index, 0].item()
    words = [tokenizer.convert_tokens_to_ids(list(group)) for group in LABELS.values()]
    return np.array([logits[position, group].mean() for group in words])


def test_device_answers_are_those_of_transformers(base: Path, trained: tuple[EncoderBackbone, Path]) -> None:
    bundle = Bundle.open(trained[1])
    model = mpt_edge.load(trained[1], threads=1)
    for name, template in (("after", "{} was [MASK]"), ("before", "[MASK]: {}")):
        file = bundle.task(name)
        assert (file.head_type, file.template) == ("mask", template.format("{text}"))
        prompt = compose(bundle.prompt("mpt").values, file.u, file.v)
        for text, answer in zip(TEXTS, model.task(name)(TEXTS), strict=True):
            logits = file.scale * reference(base, template.format(text), prompt)
            probs = np.exp(logits - logits.max())
            probs /= probs.sum()
            assert list(answer.scores) == list(LABELS)
            np.testing.assert_allclose(list(answer.scores.values()), probs, atol=1e-4)


def test_reference_examples_of_training_hold(trained: tuple[EncoderBackbone, Path]) -> None:
    model = mpt_edge.load(trained[1], threads=1)
    for name in model.tasks:
        assert answers_as_trained(model, model.bundle.task(name))


def test_prefix_layout_and_mixed_batches(trained: tuple[EncoderBackbone, Path], tmp_path: Path) -> None:
    """The reference is the training objective. Tasks of other head types share a batch and change nothing."""
    backbone, bundle = trained
    opened = Bundle.open(bundle)
    file = opened.task("after")
    shared = opened.prompt("mpt")
    placement = Placement(position=PromptPosition.EMBEDDINGS)
    own = {"own_prompt": replace(shared, placement=placement), "prompt": None, "prompt_sha256": None}
    replace(file, name="fast", **own).save(tmp_path / "fast.safetensors")
    like = replace(file, name="like", head_type="similarity", template=None, **own)
    like.save(tmp_path / "like.safetensors")
    model = mpt_edge.load(bundle, threads=1)
    assert isinstance(model, EncoderModel)
    for name in ("fast", "like"):
        model.add_task(tmp_path / f"{name}.safetensors")
    recipe = make_recipe(tmp_path, "after", "{text} was {mask}")
    objective = MaskObjective(backbone, load_task(recipe, tmp_path), list(LABELS.values()), None, placement)
    expected = objective.label_scores(torch.from_numpy(compose(shared.values, file.u, file.v)), TEXTS)
    np.testing.assert_allclose(model.task("fast").scores(TEXTS), expected, atol=1e-4)
    names = ["fast", "like", "after", "before", "like", "fast"]
    mixed = model.run(["a witty film", "atom"] * 3, names)
    for answer, name, text in zip(mixed, names, ["a witty film", "atom"] * 3, strict=True):
        assert list(answer.scores.values()) == pytest.approx(list(model.task(name)(text).scores.values()), abs=1e-5)


def test_long_texts_lose_their_end_and_not_the_mask(trained: tuple[EncoderBackbone, Path]) -> None:
    task = mpt_edge.load(trained[1], threads=1).task("after")
    long = task("atom " * 60)
    assert long.truncated
    assert long.scores == pytest.approx(task(" ".join(["atom"] * 12)).scores, abs=1e-6)
    assert not task("a [MASK] film").truncated  # masks of the text do not count


def test_texts_are_tokenized_once(
    trained: tuple[EncoderBackbone, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model, and by the command with bad rows."""
    task = mpt_edge.load(trained[1], threads=1).task("after")
    seen = count_texts(monkeypatch)
    task(TEXTS)
    assert seen == [f"{text} was [MASK]" for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("", *TEXTS)))
    seen.clear()
    options = ["--bundle", trained[1], "--threads", 1, "--json", "--on-error", "skip"]
    result = run_here("run", "--task", "after", "--input", tmp_path / "rows.jsonl", *options)
    assert len(result.stdout.splitlines()) == len(TEXTS)
    assert [text for text in seen if "[MASK]" in text] == [f"{text} was [MASK]" for text in TEXTS]


def test_the_mask_between_the_texts_of_a_pair(
    base: Path, trained: tuple[EncoderBackbone, Path], tmp_path: Path
) -> None:
    """Masks in either text do not count. transformers answers at the mask of the given index."""
    bundle = Bundle.open(trained[1])
    changes = {"inputs": Inputs.PAIR, "template": "{text} [MASK] {text_pair}", "reference_example": {}}
    file = replace(bundle.task("after"), name="nli", **changes)
    file.save(tmp_path / "nli.safetensors")
    task = mpt_edge.load(trained[1], threads=1).add_task(tmp_path / "nli.safetensors")
    assert isinstance(task.prompt, np.ndarray)
    for text, pair, position in (
        ("a film", "the atom", 0),
        ("a film", "the [MASK] atom", 0),
        ("a [MASK] film", "the atom [MASK]", 1),
    ):
        logits = reference(base, f"{text} [MASK] {pair}", task.prompt, position)
        np.testing.assert_allclose(task.scores([(text, pair)])[0], logits, atol=1e-4)


def test_embeddings_are_stored_once(trained: tuple[EncoderBackbone, Path]) -> None:
    graph = onnx_ir.load(trained[1] / MODEL).graph
    tables = [value for value in graph.initializers.values() if value.shape == (100, 32)]
    assert len(tables) == 1


def test_bundle_without_the_head(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    replace(bundle.task("topic"), head_type="mask", template="{text} [MASK]").save(tmp_path / "topic.safetensors")
    with pytest.raises(MismatchError, match="this one, which has no masked-LM head"):
        bundle.check_fit(TaskFile.load(tmp_path / "topic.safetensors"))


def test_same_weights_with_and_without_head_are_one_backbone(tmp_path: Path) -> None:
    """Vectors trained on the plain encoder fit a bundle that also has the head."""
    folder = make_base("bert", tmp_path / "a")
    whole = load_encoder(str(folder))
    AutoModelForMaskedLM.from_pretrained(folder).bert.save_pretrained(tmp_path / "b")
    save_tokenizer(tmp_path / "b")
    plain = open_backbone(str(tmp_path / "b"))
    assert isinstance(plain, EncoderBackbone)
    assert (plain.mask, whole.mask is None) == (None, False)
    assert plain.fingerprint == whole.fingerprint
