"""Tasks that write and choose, exported, against transformers' generate: on a small model and on a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.prompts import compose
from mpt_edge.inference.answers import Generation
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from tests.support.places import SHARED
from tests.support.writers import LABELS, TEXTS, export_writer

LLAMA = SHARED / "weights" / "tinystories-656k-llama"


@pytest.fixture(scope="module", params=["tiny", "real"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model's folder and its bundle."""
    if request.param == "tiny":
        return request.getfixturevalue("writer").folder, request.getfixturevalue("writer_bundle")
    if not LLAMA.is_dir():
        pytest.skip("no ../shared/weights with the TinyStories models")
    backbone = open_backbone(str(LLAMA))
    assert isinstance(backbone, GenerativeBackbone)
    return LLAMA, export_writer(backbone, 12, tmp_path_factory.mktemp("writing"))


@pytest.fixture(scope="module")
def model(written: tuple[Path, Path]) -> Any:
    return mpt_edge.load(written[1], threads=1)


class Reference:
    """The unchanged model, fed prompt rows and words as one sequence of embeddings."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.bundle = Bundle.open(bundle)

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
def reference(written: tuple[Path, Path]) -> Reference:
    return Reference(*written)


def test_text_is_that_of_transformers(model: Any, reference: Reference) -> None:
    found = model.task("story")(TEXTS)
    for text, answer in zip(TEXTS, found, strict=True):
        tokens = reference.write(text, "story", 24)
        assert isinstance(answer, Generation)
        assert answer.tokens == len(tokens)
        assert answer.text == reference.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()
        assert answer.finish == ("length" if len(tokens) == 24 else "eos")
    assert max(len(answer.label) for answer in found) > 40
    assert model.task("story")(TEXTS[0]) == found[0]


def test_beams_are_those_of_transformers(model: Any, reference: Reference) -> None:
    for text, answer in zip(TEXTS, model.task("story")(TEXTS, num_beams=3, max_new_tokens=12), strict=True):
        tokens = reference.write(text, "story", 12, num_beams=3)
        assert answer.label == reference.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()


@pytest.mark.parametrize("stop", [[" was"], [".", "!"], ["ed to"], ["he"]], ids=str)
def test_beams_end_at_stop_texts_as_those_of_transformers(model: Any, reference: Reference, stop: list[str]) -> None:
    for text, answer in zip(TEXTS, model.task("story")(TEXTS, num_beams=3, max_new_tokens=20, stop=stop), strict=True):
        tokens = reference.write(text, "story", 20, num_beams=3, stop_strings=stop, tokenizer=reference.tokenizer)
        whole = reference.tokenizer.decode(tokens, skip_special_tokens=True)
        ended = [whole.find(one) for one in stop if one in whole]
        assert answer.label == (whole[: min(ended)] if ended else whole).lstrip()
        assert isinstance(answer, Generation)
        assert answer.finish == ("stop" if ended else "length" if len(tokens) == 20 else "eos")


def test_template_is_read_around_the_text(model: Any, reference: Reference) -> None:
    tokens = reference.write("Question: The cat\nAnswer:", "ask", 24)
    assert model.task("ask")("The cat").label == reference.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()


@torch.no_grad()
def test_choice_is_the_likeliest_label_text(model: Any, reference: Reference) -> None:
    means = []
    for text in LABELS.values():
        more = reference.tokenizer(text, add_special_tokens=False).input_ids
        logits = reference.model(inputs_embeds=reference.embedded(TEXTS[1], "mood", more)).logits[0].numpy()
        scores = log_softmax(logits, axis=-1)[-len(more) - 1 : -1]
        means.append(scores[np.arange(len(more)), more].mean())
    found = model.task("mood")(TEXTS[1])
    assert list(found.scores.values()) == pytest.approx(softmax(means), abs=1e-4)
    assert found.label == tuple(LABELS)[int(np.argmax(means))]
