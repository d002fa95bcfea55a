"""Tasks that write and choose, from an exported bundle of real weights, against transformers' generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import mpt_edge
from mpt_edge.answers import Generation
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.prompts import SharedPrompt, compose
from mpt_edge.taskfile import TaskFile
from mpt_edge.text_model import TextModel
from mpt_edge.training.generative import GenerativeBackbone, open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from tests.conftest import SHARED

LLAMA = SHARED / "weights" / "tinystories-656k-llama"
LENGTH = 12
TEXTS = ["Once upon a time", "Tom had a red ball. One day, he", "The cat"]

pytestmark = pytest.mark.skipif(not LLAMA.is_dir(), reason="no ../shared/weights with the TinyStories models")


def task_of(backbone: GenerativeBackbone, shared: SharedPrompt, name: str, **changes: object) -> TaskFile:
    rng = np.random.default_rng(len(name))
    values = {
        "name": name,
        "kind": "generation",
        "readout": "generation",
        "labels": (),
        "label_texts": (),
        "u": rng.normal(1, 0.3, LENGTH).astype(np.float16),
        "v": rng.normal(1, 0.3, 128).astype(np.float16),
        "prompt": shared.name,
        "prompt_sha256": shared.fingerprint,
        "backbone": backbone.fingerprint,
        "tokenizer": backbone.texts.fingerprint,
        "max_length": 64,
        "generation": {"max_new_tokens": 24},
    }
    return TaskFile(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writing")
    backbone = open_backbone(str(LLAMA))
    assert isinstance(backbone, GenerativeBackbone)
    table = backbone.model.model.get_input_embeddings().weight
    words = backbone.texts.continuations(["Lily was happy and sang in the park with her friend Max."])[0][:LENGTH]
    shared = SharedPrompt("mpt", table[words].detach().numpy().astype(np.float16), "prefix", backbone.fingerprint)
    shared.save(folder / "prompts/mpt.safetensors")
    tasks = [
        task_of(backbone, shared, "story"),
        task_of(backbone, shared, "other-story", generation={"max_new_tokens": 16, "stop": ["."], "cut": "left"}),
        task_of(backbone, shared, "ask", template="Question: {text}\nAnswer:"),
        task_of(
            backbone,
            shared,
            "mood",
            kind="classification",
            readout="choice",
            scale=1.0,
            labels=("good", "bad"),
            label_texts=(("He was very happy.",), ("He was sad.",)),
            generation={},
        ),
    ]
    for task in tasks:
        task.save(folder / "tasks" / f"{task.name}.safetensors")
    export_bundle(ExportPlan(backbone, [folder], folder / "bundle"))
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> TextModel:
    found = mpt_edge.load(bundle, threads=1)
    assert isinstance(found, TextModel)
    return found


class Reference:
    """The unchanged model, fed prompt rows and words as one sequence of embeddings."""

    def __init__(self, bundle: Path) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(LLAMA)
        self.bundle = mpt_edge.bundle.Bundle.open(bundle)

    def embedded(self, text: str, task: str, more: list[int] | None = None) -> torch.Tensor:
        file = self.bundle.task(task)
        prompt = torch.from_numpy(compose(self.bundle.prompt("mpt").values, file.u, file.v))
        ids = self.tokenizer(text).input_ids + (more or [])
        return torch.cat([prompt, self.model.get_input_embeddings()(torch.tensor(ids))])[None]

    @torch.no_grad()
    def write(self, text: str, task: str, count: int, **options: object) -> list[int]:
        rows = self.embedded(text, task)
        ones = torch.ones(rows.shape[:2], dtype=torch.long)
        found = self.model.generate(
            inputs_embeds=rows, attention_mask=ones, max_new_tokens=count, do_sample=False, pad_token_id=0, **options
        )[0].tolist()
        return found[: found.index(2)] if 2 in found else found


@pytest.fixture(scope="module")
def reference(bundle: Path) -> Reference:
    return Reference(bundle)


def test_text_is_that_of_transformers(model: TextModel, reference: Reference) -> None:
    found = model.task("story")(TEXTS)
    for text, answer in zip(TEXTS, found, strict=True):
        tokens = reference.write(text, "story", 24)
        assert isinstance(answer, Generation)
        assert answer.tokens == len(tokens)
        assert answer.text == reference.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()
        assert answer.finish == ("length" if len(tokens) == 24 else "eos")
    assert max(len(answer.label) for answer in found) > 40
    assert model.task("story")(TEXTS[0]) == found[0]


def test_beams_are_those_of_transformers(model: TextModel, reference: Reference) -> None:
    for text, answer in zip(TEXTS, model.task("story")(TEXTS, num_beams=3, max_new_tokens=12), strict=True):
        tokens = reference.write(text, "story", 12, num_beams=3)
        assert answer.label == reference.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()


@pytest.mark.parametrize("stop", [[" was"], [".", "!"], ["ed to"], ["he"]], ids=str)
def test_beams_end_at_stop_texts_as_those_of_transformers(
    model: TextModel, reference: Reference, stop: list[str]
) -> None:
    for text, answer in zip(TEXTS, model.task("story")(TEXTS, num_beams=3, max_new_tokens=20, stop=stop), strict=True):
        tokens = reference.write(text, "story", 20, num_beams=3, stop_strings=stop, tokenizer=reference.tokenizer)
        whole = reference.tokenizer.decode(tokens, skip_special_tokens=True)
        ended = [whole.find(one) for one in stop if one in whole]
        assert answer.label == (whole[: min(ended)] if ended else whole).lstrip()
        assert isinstance(answer, Generation)
        assert answer.finish == ("stop" if ended else "length" if len(tokens) == 20 else "eos")


def test_stream_gives_the_same_text_in_pieces(model: TextModel) -> None:
    for options in ({}, {"temperature": 0.9, "seed": 3}, {"stop": "he"}):
        pieces = list(model.task("story").stream(TEXTS[1], **options))
        assert "".join(pieces) == model.task("story")(TEXTS[1], **options).label
        assert len(pieces) > 3 or options.get("stop")


def test_stream_says_what_the_answer_says(model: TextModel) -> None:
    """That the input was cut is known before the first piece, the whole answer behind the last."""
    for text, truncated in (("The cat", False), ("The cat " * 300, True)):
        stream = model.task("story").stream(text, max_new_tokens=6)
        assert (stream.truncated, stream.answer) == (truncated, None)
        pieces = list(stream)
        assert stream.answer == model.task("story")(text, max_new_tokens=6)
        assert "".join(pieces) == stream.answer.label
        assert stream.answer.truncated == truncated


def test_choice_leaves_room_for_its_labels_alone(bundle: Path, tmp_path: Path) -> None:
    """A label's tokens stand behind the text; a limit of new tokens has no say, and labels past the context none."""
    found = mpt_edge.load(bundle, threads=1)
    assert isinstance(found, TextModel)
    mood = found.bundle.task("mood")
    longest = max(len(tokens) for tokens in found._select("mood").choices)
    replace(mood, max_length=500).save(tmp_path / "mood.safetensors")
    task = found.add_task(tmp_path / "mood.safetensors")
    assert task.max_length == 512 - LENGTH - longest
    answer = task("word " * 2000)
    assert answer.truncated
    assert answer == task("word " * 2000, max_new_tokens=500)
    replace(mood, label_texts=(("word " * 600,), ("other",))).save(tmp_path / "mood.safetensors")
    with pytest.raises(InputError, match=r"tokens of the longest label .* train the task with shorter label texts"):
        found.add_task(tmp_path / "mood.safetensors")("The cat")


@pytest.mark.parametrize("readout", ["similarity", "embedding"])
def test_tasks_of_encoders_are_refused(bundle: Path, model: TextModel, readout: str, tmp_path: Path) -> None:
    """A model that writes has no pooled vector, and must not write where one is asked for."""
    replace(model.bundle.task("mood"), readout=readout).save(tmp_path / "mood.safetensors")
    for call in (model.add_task, mpt_edge.bundle.Bundle.open(bundle).install):
        with pytest.raises(MismatchError, match="another kind of model than this causal one"):
            call(tmp_path / "mood.safetensors")


def test_template_and_mixed_batch(model: TextModel, reference: Reference) -> None:
    tasks = ["story", "ask", "mood", "other-story"]
    together = model.run(["The cat"] * 4, tasks=tasks)
    assert together == [model.task(name)("The cat") for name in tasks]
    tokens = reference.write("Question: The cat\nAnswer:", "ask", 24)
    assert together[1].label == reference.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()
    assert "." not in together[3].label
    assert isinstance(together[3], Generation)
    assert together[3].finish == "stop"


@torch.no_grad()
def test_choice_is_the_likeliest_label_text(model: TextModel, reference: Reference) -> None:
    means = []
    for text in ("He was very happy.", "He was sad."):
        more = reference.tokenizer(text, add_special_tokens=False).input_ids
        logits = reference.model(inputs_embeds=reference.embedded(TEXTS[1], "mood", more)).logits[0].numpy()
        scores = log_softmax(logits, axis=-1)[-len(more) - 1 : -1]
        means.append(scores[np.arange(len(more)), more].mean())
    found = model.task("mood")(TEXTS[1])
    assert list(found.scores.values()) == pytest.approx(softmax(means), abs=1e-4)
    assert found.label == ("good", "bad")[int(np.argmax(means))]


def test_long_text_loses_the_side_that_the_task_names(model: TextModel) -> None:
    """The template stays whole, and what is left is what was asked for."""
    words = [f"w{i}" for i in range(400)]
    selected = [model._select(name) for name in ("ask", "other-story")]
    right, left = [model._encode(" ".join(words), task, model._options(task, {})) for task in selected]
    shown = [model._texts.tokenizer.decode(row.ids) for row in (right, left)]
    assert right.truncated
    assert left.truncated
    assert "Question: w0 w1" in shown[0]
    assert shown[0].endswith("\nAnswer:")
    assert shown[1].endswith("w398 w399")
    assert max(len(right.ids), len(left.ids)) <= 64
    assert min(len(right.ids), len(left.ids)) > 55
    assert model.task("ask")(" ".join(words)).truncated


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda model: model.task("story")(""), "the text is empty"),
        (lambda model: model.task("story")(("a", "b")), "single texts"),
        (lambda model: model.task("story")("a", max_new_tokens=0), "limit of 0 new tokens"),
        (lambda model: model.task("story")("a", max_new_tokens=600), "leave no room"),
        (lambda model: model.task("story")("a", beams=3), "no option 'beams'"),
        (lambda model: model.task("story")("a", max_new_tokens="5"), "must be a whole number, not '5'"),
        (lambda model: model.task("story")("a", stop=5), "stop must be a text or a list of texts"),
        (lambda model: model.task("story").stream("a", num_beams=2), "stream with one beam"),
        (lambda model: model.task("mood").stream("a"), "chooses a label"),
        (lambda model: model.run(["a"], ["story", "ask"]), "1 texts but 2 tasks"),
    ],
)
def test_bad_requests(model: TextModel, call: Callable[[TextModel], object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        call(model)


def test_stop_text_that_never_comes(model: TextModel) -> None:
    found = model.task("story")("The cat", stop="zebra crossing")
    assert found == model.task("story")("The cat")
