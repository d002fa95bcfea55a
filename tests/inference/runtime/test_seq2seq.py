"""T5 from training to the device: random weights, with transformers' generate as the reference.

The tokenizer is T5's where ../shared/weights has it, and a similar one elsewhere.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.inference.answers import Generation
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.plan import NewPrompt, Plan
from mpt_edge.training.settings import Settings, TeacherPlan
from mpt_edge.training.source_stage import train_source
from mpt_edge_export import ExportPlan, export_bundle
from tests.support import commands
from tests.support.places import SHARED
from tests.support.stages import answers_as_trained, silent

TOKENIZER = SHARED / "weights" / "tokenizers" / "t5"
TEXTS = ["The house is wonderful.", "Two plus two", "A cat sat on the mat and looked at the moon"]


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of pieces of words, which ends each text with a token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "say: good", "no", "yes, surely"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a small random T5 with its tokenizer."""
    place = tmp_path_factory.mktemp("t5") / "tiny-t5"
    size = 32128 if TOKENIZER.is_dir() else 128  # more than pieces, as in T5
    if TOKENIZER.is_dir():
        shutil.copytree(TOKENIZER, place)
    else:
        save_tokenizer(place)
    torch.manual_seed(0)
    config = T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module", params=Layout)
def trained(folder: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two tasks with teachers, and export them."""
    data = tmp_path_factory.mktemp("data")
    rows = [{"text": text, "target": "good"} for text in TEXTS]
    (data / "say.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"text": f"{text} {i}", "label": ("no", "yes")[i % 2]} for i, text in enumerate(TEXTS * 2)]
    (data / "choose.jsonl").write_text("\n".join(map(json.dumps, rows)))
    say = Recipe(
        "say",
        "say.jsonl",
        "say.jsonl",
        head_type="generation",
        template="say: {text}",
        max_length=24,
        max_target_length=6,
        metric="f1",
    )
    choose = Recipe(
        "choose", "choose.jsonl", "choose.jsonl", labels={"no": ("no",), "yes": ("yes, surely",)}, max_length=24
    )
    backbone = open_backbone(str(folder))
    assert isinstance(backbone, GenerativeBackbone)
    assert backbone.family is Family.SEQ2SEQ
    settings = Settings(epochs=2, batch_size=3, max_tasks=0, prompt_lr=0.3, task_lr=0.3)
    plan = Plan([say, choose], data, data / "run", settings)
    teachers = TeacherPlan(folder=data / "teachers", epochs=1, lr=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(data / "cache"))
        prompt = NewPrompt(name="mpt", length=9, layout=request.param, position=PromptPosition.FIRST_LAYER)
        train_source(backbone, plan, prompt, silent, teachers)
    export_bundle(ExportPlan(backbone, [data / "run"], data / "bundle"))
    return data / "bundle"


@torch.no_grad()
def test_text_is_that_of_transformers(folder: Path, trained: Path) -> None:
    """Both layouts, with the encoder's layers run one by one."""
    model = mpt_edge.load(trained, threads=1)
    plain = T5ForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer, bundle = AutoTokenizer.from_pretrained(folder), Bundle.open(trained)
    shared, file = bundle.prompt("mpt"), bundle.task("say")
    prompt = torch.from_numpy(compose(shared.values, file.u, file.v))
    options = {"max_new_tokens": 12, "repetition_penalty": 1.6, "num_beams": 1}
    for beams in (1, 3):
        options["num_beams"] = beams
        answers = model.task("say")(TEXTS, **options)
        for text, answer in zip(TEXTS, answers, strict=True):
            ids = tokenizer(f"say: {text}", return_tensors="pt").input_ids
            rows = torch.cat([prompt, plain.get_input_embeddings()(ids[0])])[None]
            mask = torch.zeros(1, 1, rows.shape[1], rows.shape[1])
            if shared.placement.layout is Layout.PREFIX:
                mask[..., :9, 9:] = -1e9
            hidden, bias = rows, None
            for block in plain.encoder.block:
                hidden, bias, _ = block(hidden, attention_mask=mask, position_bias=bias)
            hidden = plain.encoder.final_layer_norm(hidden)
            ones = torch.ones(hidden.shape[:2], dtype=torch.long)
            result = plain.generate(
                input_ids=ids, encoder_outputs=BaseModelOutput(hidden), attention_mask=ones, do_sample=False, **options
            )
            expected = tokenizer.decode(result[0], skip_special_tokens=True)
            assert isinstance(answer, Generation)
            assert answer.text == expected.lstrip()
    assert model.run(TEXTS, "say") == [model.task("say")(text) for text in TEXTS]


def test_a_batch_of_both_layouts_and_of_prompts_of_two_lengths(trained: Path, tmp_path: Path) -> None:
    model = mpt_edge.load(trained, threads=1)
    bundle = Bundle.open(trained)
    values = bundle.prompt("mpt").values
    names = ["say"]
    for name in ("say", "choose"):
        for layout, length in ((Layout.JOINT, 9), (Layout.JOINT, 5), (Layout.PREFIX, 4)):
            file, placement = bundle.task(name), Placement(layout, bundle.manifest.placement.position)
            own = SharedPrompt("own", values[:length], placement, file.backbone)
            changed = replace(file, name=f"{name}-{layout}-{length}", u=file.u[:length], own_prompt=own)
            changed.save(tmp_path / "task.safetensors")
            names.append(model.add_task(tmp_path / "task.safetensors").name)
    together = model.run([TEXTS[2]] * len(names), names, max_new_tokens=5)
    for name, answer in zip(names, together, strict=True):
        alone = model.task(name)(TEXTS[2], max_new_tokens=5)
        assert (answer.task, answer.summary) == (name, alone.summary)
        assert answer.confidence == pytest.approx(alone.confidence, abs=1e-5)


def test_reference_examples_and_the_command(trained: Path) -> None:
    model = mpt_edge.load(trained, threads=1)
    say = model.bundle.task("say").reference_example
    assert model.task("say")(say["text"]).text == say["label"]
    assert answers_as_trained(model, model.bundle.task("choose"))
    assert np.isclose(sum(model.task("choose")("Two plus two").scores.values()), 1)
    done = commands.run("run", "--task", "say", TEXTS[0], "--bundle", trained, "--max-new-tokens", 5)
    assert done.stdout == model.task("say")(TEXTS[0], max_new_tokens=5).text + "\n"
    done = commands.run("bench", "--bundle", trained, "--repeats", 3, "--new-tokens", 3, "--json")
    assert json.loads(done.stdout)["tokens_per_second_prefix"] > 0
    assert "2 tasks are as they were made" in commands.run("tasks", "verify", "--bundle", trained).stdout
    assert len(list((trained / "onnx").iterdir())) == 3
