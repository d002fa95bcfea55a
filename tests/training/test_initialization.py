"""Initialization of prompts and vectors, against the model's own embeddings and PEFT's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.training import initialization
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.initialization import (
    default_init,
    initialize_prompt,
    initialize_shared,
    initialize_vectors,
    source_tasks,
)
from mpt_edge.training.objectives.generative_reading import open_texts
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.objectives.table import make_objectives
from mpt_edge_export.peft import import_adapter, read_adapter
from tests.support import adapters
from tests.support.runs import toy

ALL_LAYERS = Placement(position=PromptPosition.ALL_LAYERS)


@pytest.mark.parametrize("length", [3, 11])
def test_text_is_pefts(tiny: EncoderBackbone, length: int) -> None:
    """Word embeddings are those of PEFT's TEXT: repeated, or cut."""
    config = PromptTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=length,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="a witty film",
        tokenizer_name_or_path=str(tiny.folder),
    )
    model = get_peft_model(AutoModel.from_pretrained(tiny.folder), config)
    expected = model.prompt_encoder["default"].embedding.weight.detach()
    result = initialize_prompt(tiny, length, 0, "a witty film", PromptPosition.EMBEDDINGS)
    assert torch.equal(result, expected)


def test_text_behind_the_norm_is_the_first_layers_input(tiny: EncoderBackbone) -> None:
    result = initialize_prompt(tiny, 4, 0, "witty")
    ids = torch.tensor(tiny.texts.encode(["witty"], 48)[0].ids)[:, None]
    model = AutoModel.from_pretrained(tiny.folder).eval()
    with torch.no_grad():
        expected = model.embeddings(ids)[:, 0]
    assert torch.allclose(result, expected[torch.arange(4) % len(ids)], atol=1e-6)


@pytest.mark.parametrize("position", [PromptPosition.FIRST_LAYER, PromptPosition.EMBEDDINGS])
def test_sampled_virtual_tokens_are_tokens_and_none_twice(tiny: EncoderBackbone, position: PromptPosition) -> None:
    result = initialize_prompt(tiny, 20, 3, "vocabulary", position)
    model = AutoModel.from_pretrained(tiny.folder).eval()
    with torch.no_grad():
        words = model.embeddings.word_embeddings.weight
        table = words if position is PromptPosition.EMBEDDINGS else model.embeddings(torch.arange(100)[:, None])[:, 0]
    nearest = torch.cdist(result, table).argmin(1)
    assert torch.allclose(result, table[nearest], atol=1e-6)
    assert len(set(nearest.tolist())) == 20
    assert torch.equal(result, initialize_prompt(tiny, 20, 3, "vocabulary", position))
    assert not torch.equal(result, initialize_prompt(tiny, 20, 4, "vocabulary", position))


def test_random_is_standard_normal(tiny: EncoderBackbone) -> None:
    result = initialize_prompt(tiny, 400, 0, "random")
    assert (float(result.mean()), float(result.std())) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert torch.equal(result, initialize_prompt(tiny, 400, 0, "random"))


def test_empty_text(tiny: EncoderBackbone) -> None:
    with pytest.raises(InputError, match="cannot start from an empty text"):
        initialize_prompt(tiny, 4, 0, "  ")


@pytest.fixture
def sources(tiny: EncoderBackbone, tmp_path: Path) -> Path:
    """Three tasks of a PEFT adapter, and one with two ranks."""
    for name, ranks in (("one", 1), ("two", 2)):
        adapters.make_adapter(tiny.folder, "FEATURE_EXTRACTION", tmp_path / name, num_ranks=ranks)
        import_adapter(read_adapter(str(tmp_path / name)), tiny).save(tmp_path / "vectors")
    return tmp_path


def test_exact_and_shared_only(tiny: EncoderBackbone, sources: Path) -> None:
    """PEFT's EXACT_SOURCE_TASK is a task's name; its ONLY_SOURCE_SHARED is `ones`, not near zero as there."""
    shared = SharedPrompt.load(sources / "vectors/prompts/one.safetensors")
    objective = SimilarityObjective(tiny, toy("mood", ("dull",), ("witty",)), [["bad"], ["good"]])
    name, (u, v) = initialize_vectors("one-1", sources / "vectors", shared, objective)
    expected_u, expected_v = read_adapter(str(sources / "one")).vectors(1)
    assert name == "one-1"
    np.testing.assert_allclose(torch.outer(u, v), np.outer(expected_u, expected_v), rtol=1e-4, atol=1e-6)
    _, (u, v) = initialize_vectors("ones", sources / "vectors", shared, objective)
    assert torch.equal(torch.outer(u, v), torch.ones(5, 32))


def test_tasks_of_several_ranks_initialize_none(tiny: EncoderBackbone, sources: Path) -> None:
    shared = SharedPrompt.load(sources / "vectors/prompts/two.safetensors")
    assert source_tasks(sources / "vectors", shared) == {}
    objective = SimilarityObjective(tiny, toy("mood", ("dull",), ("witty",)), [["bad"], ["good"]])
    with pytest.raises(MismatchError, match="'two-1' has 2 pairs of vectors, and a new task one"):
        initialize_vectors("two-1", sources / "vectors", shared, objective)


def story(words: tuple[str, ...], name: str = "story") -> TaskData:
    examples = Examples([f"The {word}" for word in words], [], [(f"It was a {word}.",) for word in words])
    recipe = Recipe(
        name, "t", "v", head_type="generation", template="{text}:", max_length=16, max_target_length=12, metric="f1"
    )
    return TaskData(recipe, (), examples, examples, None)


def test_examples_are_the_models_own_reading_of_them(writer: GenerativeBackbone) -> None:
    """A prompt of examples gives each text the logits that it has after their tokens."""
    task = make_objectives(writer, [story(("cat", "dog", "ball"))], ALL_LAYERS)[0]
    length = 3 * len(task.example_tokens(0)) - 2
    prompt = initialize_shared([task], length, 0, "examples")
    assert prompt.shape == (length, 2, 32)
    assert torch.equal(prompt, initialize_shared([task], length, 0, "examples"))
    table = writer.model.model.get_input_embeddings().weight
    ids = torch.cdist(prompt[:, 0], table).argmin(1).tolist()
    whole = [task.example_tokens(row) for row in range(3)]
    assert any(ids[-len(tokens) :] == tokens for tokens in whole)  # the last one is whole
    (row,) = writer.texts.encode(["One day"], 16)
    with torch.no_grad():
        _, logits = open_texts(writer, prompt, ALL_LAYERS, [row])
        model = AutoModelForCausalLM.from_pretrained(writer.folder).eval()
        expected = model(torch.tensor([[*ids, *row.ids]])).logits[0, -1]
    np.testing.assert_allclose(logits[0], expected, atol=1e-4, rtol=1e-4)


def test_examples_alternate_between_tasks_and_the_best_draw_is_taken(
    writer: GenerativeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = make_objectives(writer, [story(("cat", "dog")), story(("sun", "sea"), "other")], ALL_LAYERS)
    losses: list[float] = []
    prompts: list[torch.Tensor] = []
    measure = initialization._loss

    def recorded(objective: TaskObjective, prompt: torch.Tensor, compared: int) -> float:
        losses.append(measure(objective, prompt, compared))
        prompts.append(prompt)
        return losses[-1]

    monkeypatch.setattr(initialization, "_loss", recorded)
    length = sum(len(task.example_tokens(0)) for task in tasks)
    result = initialize_shared(tasks, length, 1, "examples")
    means = np.mean(np.reshape(losses, (-1, 2)), axis=1)
    assert len(set(means)) > 1
    assert torch.equal(result, prompts[2 * int(means.argmin())])
    table = writer.model.model.get_input_embeddings().weight
    text = writer.texts.tokenizer.decode(torch.cdist(result[:, 0], table).argmin(1).tolist())
    assert any(word in text for word in ("cat", "dog"))
    assert any(word in text for word in ("sun", "sea"))


def test_prompts_start_from_examples_where_a_model_continues_text(
    writer: GenerativeBackbone, tiny: EncoderBackbone
) -> None:
    assert (default_init(writer), default_init(tiny)) == ("examples", "vocabulary")
    mood = toy("mood", ("dull",), ("witty",))
    task = SimilarityObjective(tiny, mood, [["bad"], ["good"]])
    assert initialize_shared([task], 9, 0, "examples").shape == (9, 32)
