"""Answers at a mask, from training to the device; transformers' masked language models are the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import onnx_ir
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
)

import mpt_edge
from mpt_edge.errors import InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.formats.prompts import compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.masking import Verbalizer
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.recipes import Recipe, load_recipe
from mpt_edge.training.data.rows import load_task
from mpt_edge.training.objectives.families import new_objective
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.settings import Settings, TeacherPlan
from mpt_edge.training.stages import NewPrompt, Plan, train_source
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.adapters import shake
from tests.support.encoders import save_tokenizer
from tests.support.stages import silent

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
    return Recipe(name, path, path, template=template, readout="mask", labels=LABELS, max_length=16)


@pytest.fixture(scope="module", params=CONFIGS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(request.param, tmp_path_factory.mktemp("base") / f"tiny-{request.param}")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderBackbone, Path]:
    """Two tasks with teachers in the layout of PEFT, so that transformers itself can read the prompt, and a bundle."""
    folder = tmp_path_factory.mktemp("run")
    backbone = load_encoder(str(base))
    behind, before = make_recipe(folder, "behind", "{text} was {mask}"), make_recipe(folder, "before", "{mask}: {text}")
    plan = Plan([behind, before], folder, folder / "run", Settings(epochs=3, max_tasks=0, prompt_lr=0.05, task_lr=0.05))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        prompt = NewPrompt(name="mpt", length=5, layout="joint", entry="inputs_embeds")
        train_source(backbone, plan, prompt, silent, TeacherPlan(folder=folder / "teachers", epochs=1))
    export_bundle(ExportPlan(backbone, [folder / "run"], folder / "bundle"))
    return backbone, folder / "bundle"


@torch.no_grad()
def reference(base: Path, text: str, prompt: np.ndarray, which: int = 0) -> np.ndarray:
    """Return the mean logit of each label's words at one of the text's masks, from the unchanged model."""
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text, return_tensors="pt").input_ids
    rows = torch.cat([torch.from_numpy(prompt), model.get_input_embeddings()(ids[0])])[None]
    logits = model(inputs_embeds=rows, attention_mask=torch.ones(rows.shape[:2])).logits[0, len(prompt) :]
    place = (ids[0] == tokenizer.mask_token_id).nonzero()[which, 0].item()
    words = [tokenizer.convert_tokens_to_ids(list(group)) for group in LABELS.values()]
    return np.array([logits[place, group].mean() for group in words])


def test_device_answers_are_those_of_transformers(base: Path, trained: tuple[EncoderBackbone, Path]) -> None:
    bundle = Bundle.open(trained[1])
    model = mpt_edge.load(trained[1], threads=1)
    for name, template in (("behind", "{} was [MASK]"), ("before", "[MASK]: {}")):
        file = bundle.task(name)
        assert (file.readout, file.template) == ("mask", template.format("{text}"))
        prompt = compose(bundle.prompt("mpt").values, file.u, file.v)
        for text, found in zip(TEXTS, model.task(name)(TEXTS), strict=True):
            logits = file.scale * reference(base, template.format(text), prompt)
            chances = np.exp(logits - logits.max())
            chances /= chances.sum()
            assert list(found.scores) == list(LABELS)
            np.testing.assert_allclose(list(found.scores.values()), chances, atol=1e-4)


def test_golden_examples_of_training_hold(trained: tuple[EncoderBackbone, Path]) -> None:
    model = mpt_edge.load(trained[1], threads=1)
    for name in model.tasks:
        reference_example = model.bundle.task(name).reference_example
        answer = model.task(name)(reference_example["text"])
        assert (answer.label, answer.score) == (
            reference_example["label"],
            pytest.approx(reference_example["score"], abs=1e-4),
        )


def test_prefix_layout_and_mixed_batches(trained: tuple[EncoderBackbone, Path], tmp_path: Path) -> None:
    """The objective that trains is PyTorch's; tasks of other readouts share a request and change nothing."""
    backbone, bundle = trained
    opened = Bundle.open(bundle)
    file = opened.task("behind")
    shared = opened.prompt("mpt")
    own = {"own_prompt": shared.values, "layout": "prefix", "entry": "inputs_embeds", "prompt": "", "prompt_sha256": ""}
    replace(file, name="fast", **own).save(tmp_path / "fast.safetensors")
    like = replace(file, name="like", readout="similarity", template="", **own)
    like.save(tmp_path / "like.safetensors")
    model = mpt_edge.load(bundle, threads=1)
    assert isinstance(model, EncoderModel)
    for name in ("fast", "like"):
        model.add_task(tmp_path / f"{name}.safetensors")
    recipe = make_recipe(tmp_path, "behind", "{text} was {mask}")
    objective = new_objective(
        backbone, [load_task(recipe, tmp_path)], [list(LABELS.values())], None, "prefix", "inputs_embeds"
    )
    assert isinstance(objective, MaskObjective)
    wanted = objective.label_scores(0, torch.from_numpy(compose(shared.values, file.u, file.v)), TEXTS)
    np.testing.assert_allclose(model.task("fast").states(TEXTS), wanted, atol=1e-4)
    names = ["fast", "like", "behind", "before", "like", "fast"]
    mixed = model.run(["a witty film", "atom"] * 3, names)
    for found, name, text in zip(mixed, names, ["a witty film", "atom"] * 3, strict=True):
        assert list(found.scores.values()) == pytest.approx(list(model.task(name)(text).scores.values()), abs=1e-5)


def test_long_texts_lose_their_end_and_not_the_mask(trained: tuple[EncoderBackbone, Path]) -> None:
    task = mpt_edge.load(trained[1], threads=1).task("behind")
    long = task("atom " * 60)
    assert long.truncated
    assert long.scores == pytest.approx(task(" ".join(["atom"] * 12)).scores, abs=1e-6)
    assert not task("a [MASK] film").truncated  # the template's mask is the last one, whatever the text holds


def test_the_mask_of_a_pair_stands_between_its_texts(
    base: Path, trained: tuple[EncoderBackbone, Path], tmp_path: Path
) -> None:
    """Masks in either text do not hide it from what transformers is asked for: a certain one of the masks."""
    bundle = Bundle.open(trained[1])
    file = replace(
        bundle.task("behind"), name="nli", kind="pair", template="{text} [MASK] {text_pair}", reference_example={}
    )
    file.save(tmp_path / "nli.safetensors")
    task = mpt_edge.load(trained[1], threads=1).add_task(tmp_path / "nli.safetensors")
    assert isinstance(task.prompt, np.ndarray)
    for text, pair, place in (
        ("a film", "the atom", 0),
        ("a film", "the [MASK] atom", 0),
        ("a [MASK] film", "the atom [MASK]", 1),
    ):
        logits = reference(base, f"{text} [MASK] {pair}", task.prompt, place)
        np.testing.assert_allclose(task.states([(text, pair)])[0], logits, atol=1e-4)


def test_a_word_is_the_token_that_stands_where_the_mask_does() -> None:
    """Tokenizers in RoBERTa's manner have two tokens of a word: behind a space, and at a text's beginning."""
    vocabulary = {"<unk>": 0, "no": 1, " no": 2, "yes": 3, " yes": 4}
    texts = TextEncoder(Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")).to_str().encode())
    for template, tokens in (("{text} <mask>", [2, 4]), ("<mask> {text}", [1, 3])):
        assert Verbalizer.encode(texts, template, "<mask>", [["no"], ["yes"]]).tokens.tolist() == tokens
    with pytest.raises(InputError, match="must have the mask <mask> once"):
        Verbalizer.encode(texts, "<mask> {text} <mask>", "<mask>", [["no"], ["yes"]])


def test_embeddings_are_stored_once(trained: tuple[EncoderBackbone, Path]) -> None:
    graph = onnx_ir.load(trained[1] / MODEL).graph
    tables = [value for value in graph.initializers.values() if value.shape == (100, 32)]
    assert len(tables) == 1


def test_recipes_and_models_that_do_not_fit(
    tiny: EncoderBackbone, trained: tuple[EncoderBackbone, Path], tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, "x", "{text} was {mask}")
    task = load_task(recipe, tmp_path)
    texts = [list(LABELS.values())]
    with pytest.raises(UnsupportedModelError, match="tiny-bert has no masked-LM head"):
        new_objective(tiny, [task], texts)
    with pytest.raises(InputError, match="x: 'good film' is 2 tokens to this model"):
        new_objective(trained[0], [task], [[["bad"], ["good film"]]])
    plain = replace(task, recipe=replace(recipe, readout="", template=""))
    with pytest.raises(InputError, match="some recipes have readout = 'mask' and some not"):
        new_objective(trained[0], [task, plain], texts * 2)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ('readout = "mask"\ntemplate = "{text}"', "needs the template to have {mask} once"),
        ('readout = "words"', "readout 'words' is unknown; use similarity or mask"),
        ('readout = "mask"\ntemplate = "{text} {mask}"\nlabel_examples = 2', "leave label_examples out"),
    ],
)
def test_recipe_files(tmp_path: Path, entries: str, says: str) -> None:
    (tmp_path / "x.toml").write_text(f'name = "x"\ntrain = "a"\nvalidation = "b"\n{entries}\n')
    with pytest.raises(InputError) as error:
        load_recipe(tmp_path / "x.toml")
    assert says in str(error.value)


def test_bundle_without_the_head(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    replace(bundle.task("topic"), readout="mask", template="{text} [MASK]").save(tmp_path / "topic.safetensors")
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
