"""Held-out losses of a bundle's tasks, as an export with ``--held-out`` records them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

import mpt_edge
from mpt_edge import Generation, Prediction
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.held_out import check_held_out, load_held_out, rise_warnings
from tests.support import commands
from tests.support.outcomes import refused

ROWS = {
    "sentiment": [("a witty film", "good"), ("a dull film", "bad"), ("great great", "good"), ("bad", "bad")],
    "story": [("The cat", " sat"), ("Tom had", " a red ball."), ("Once upon", " a time")],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with a recipe, and examples of it, for each task of `ROWS`."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in ROWS.items():
        column = "target" if name == "story" else "label"
        lines = [json.dumps({"text": text, column: answer}) for text, answer in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        head = 'head_type = "generation"\n' if name == "story" else ""
        splits = f'train = "{name}.jsonl"\nvalidation = "{name}.jsonl"\n'
        (folder / f"{name}.toml").write_text(f'name = "{name}"\nmax_length = 16\n{head}{splits}')
    return folder


@pytest.mark.usefixtures("quick")
def test_loss_of_an_encoders_task(tiny_folder: Path, vectors: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = commands.run_here(
        "export", tiny_folder, "--vectors", vectors, "--output", output, "--precision", "both",
        "--held-out", data / "sentiment.toml", "--data", data,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    losses = Bundle.open(output).manifest.parity["int8"]["held_out"]
    assert list(losses) == ["sentiment"]
    for precision, entry in (("float32", "float32_loss"), ("int8", "loss")):
        task = mpt_edge.load(output, precision=precision).task("sentiment", Prediction)
        scores = [task(text).scores[label] for text, label in ROWS["sentiment"]]
        assert losses["sentiment"][entry] == pytest.approx(-np.log(scores).mean(), abs=2e-3)


def test_loss_of_a_text(writer: GenerativeBackbone, writer_bundle: Path, data: Path, tmp_path: Path) -> None:
    """The float32 loss is that of PyTorch's logits; that graph itself is not kept."""
    held_out = load_held_out([data / "story.toml"], data)
    plan = ExportPlan(writer, [writer_bundle], tmp_path / "out", precisions=(Precision.INT8,), held_out=held_out)
    manifest = export_bundle(plan)
    assert not any("model.onnx" in name for name in manifest.files)
    assert Bundle.open(plan.output).manifest == manifest
    losses = manifest.parity["int8"]["held_out"]["story"]
    task = mpt_edge.load(plan.output).task("story", Generation)
    measured = [-task.log_likelihood(text, answer) for text, answer in ROWS["story"]]
    assert losses["loss"] == pytest.approx(np.mean(measured), abs=1e-3)
    expected = [_loss(writer, writer_bundle, *row) for row in ROWS["story"]]
    assert losses["float32_loss"] == pytest.approx(np.mean(expected), abs=1e-3)


@torch.no_grad()
def _loss(writer: GenerativeBackbone, bundle: Path, text: str, answer: str) -> float:
    """Return the loss of an answer with the prompt as the first embeddings of transformers' own model."""
    task = mpt_edge.load(bundle).task("story")
    ids = writer.texts.encode([text], task.max_length)[0].ids
    target = writer.texts.continuations([answer])[0]
    model = AutoModelForCausalLM.from_pretrained(writer.folder).eval()
    words = model.get_input_embeddings()(torch.tensor([*ids, *target]))
    logits = model(inputs_embeds=torch.cat([torch.from_numpy(task.prompt), words])[None]).logits[0]
    return float(functional.cross_entropy(logits[-len(target) - 1 : -1], torch.tensor(target)))


def test_a_recipe_of_no_task_is_refused(vectors: Path, data: Path) -> None:
    tasks = VectorFolder(vectors).tasks()
    with pytest.raises(InputError, match=r"no task 'story' to measure \(there are same, sentiment, topic\)"):
        check_held_out(load_held_out([data / "story.toml"], data), tasks)
    changed = (data / "sentiment.jsonl").read_text().replace("good", "fine")
    (data / "sentiment.jsonl").write_text(changed)
    with pytest.raises(InputError, match="the recipe of 'sentiment' has other labels than the task"):
        check_held_out(load_held_out([data / "sentiment.toml"], data), tasks)


def test_float32_alone_has_nothing_to_compare(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    places = ("--output", tmp_path / "out", "--held-out", data / "sentiment.toml", "--data", data)
    assert "--held-out compares quantized graphs" in refused(commands.run_here("export", tiny_folder, *places))
    assert not (tmp_path / "out").exists()


def test_a_task_that_loses_is_named() -> None:
    losses = {"fine": (1.06, 1.0), "worse": (1.2, 1.0), "small": (0.02, 0.001), "lost": (float("nan"), 1.0)}
    parity = {"held_out": {name: {"loss": a, "float32_loss": b} for name, (a, b) in losses.items()}}
    warnings = list(rise_warnings("int4", parity))
    assert [name for name in losses for line in warnings if f"'{name}'" in line] == ["worse", "lost"]
    assert warnings[0].startswith("warning: the int4 graph has a loss of 1.200 on held-out examples of 'worse', 1.000")
    assert list(rise_warnings("int8", {})) == []
