"""The steps of docs/bundle.md, "From text to label", with ONNX Runtime, tokenizers and safetensors alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import mpt_edge

TEXTS = ["a good film", "the plot was bad and the film dull, and so on and on and on and on"]


class OtherRuntime:
    """A runtime written from the page alone, without the code."""

    def __init__(self, folder: Path, task: str) -> None:
        self.manifest = json.loads((folder / "bundle.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
        self.past = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]
        file = folder / "tasks" / f"{task}.safetensors"
        vectors = load_file(file)
        with safe_open(file, "numpy") as opened:
            self.said = opened.metadata()
        shared = load_file(folder / "prompts" / f"{self.said['prompt']}.safetensors")["prompt"].astype(np.float32)
        u, v = (vectors[name].astype(np.float32) for name in ("u", "v"))
        self.prompt = np.einsum("l...d,l,d->l...d", shared, u, v)  # step 1
        self.cache = self.read([], self.prompt)[1]  # step 2
        self.labels = []  # step 3
        for texts in json.loads(self.said["label_texts"]):
            mean = np.mean([self.vector(text) for text in texts], 0)
            self.labels.append(mean / np.linalg.norm(mean))

    def read(self, ids: list[int], prompt: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rows = self.prompt.shape[0]
        feeds = {
            "input_ids": np.array([ids], np.int64).reshape(1, -1),
            "attention_mask": np.ones((1, rows + len(ids)), np.int64),
            "token_type_ids": np.zeros((1, len(ids)), np.int64),
            "prompt": np.zeros((1, 0, *self.prompt.shape[1:]), np.float32) if prompt is None else prompt[None],
        }
        for value in self.past:
            _, heads, _, size = value.shape
            feeds[value.name] = (
                np.zeros((1, heads, 0, size), np.float32) if prompt is not None else self.cache[value.name]
            )
        given = {value.name for value in self.session.get_inputs()}
        names = [value.name for value in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(names, {k: v for k, v in feeds.items() if k in given}), strict=True))
        return found["last_hidden_state"], {
            v.name: found[v.name.replace("past_key_values", "present")] for v in self.past
        }

    def vector(self, text: str) -> np.ndarray:
        self.tokenizer.enable_truncation(int(self.said["max_length"]))
        states = self.read(self.tokenizer.encode(text).ids)[0][0]  # steps 4 and 5
        pooled = {"mean": states.mean(0), "max": states.max(0), "cls": states[0]}[self.manifest["pooling"]]  # step 6
        return pooled / np.linalg.norm(pooled)

    def scores(self, text: str) -> np.ndarray:
        template = self.said.get("template")
        rendered = template.replace("{text}", text) if template else text
        logits = float(self.said["scale"]) * np.array([self.vector(rendered) @ label for label in self.labels])
        return np.exp(logits) / np.exp(logits).sum()  # step 7


def test_another_runtime_gives_the_same_scores(tiny_bundle: Path) -> None:
    model = mpt_edge.load(tiny_bundle)
    checked = 0
    for name in model.tasks:
        task = model.task(name)
        if task.file.inputs != "text" or task.file.head_type != "similarity" or task.file.own_prompt is not None:
            continue
        other = OtherRuntime(tiny_bundle, name)
        for text in TEXTS:
            assert other.scores(text) == pytest.approx(list(task(text).scores.values()), abs=1e-5)
            checked += 1
    assert checked
