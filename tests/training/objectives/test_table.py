"""Objectives by head type, and several of them on one backbone: using one changes nothing of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mpt_edge.errors import InputError
from mpt_edge.formats.head_types import find_head_type
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import AnyBackbone, open_backbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.objectives.generative import ChoiceObjective, GenerationObjective
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.objectives.table import OBJECTIVES, find_objective, make_objectives
from mpt_edge.training.schedule import TaskBatch
from tests.support import adapters

LABELS = {"film": ("film",), "game": ("game",)}
TEXTS = ["a witty film", "ball", "the great game vote", "dull movie"]


def task() -> TaskData:
    examples = Examples(TEXTS, [0, 1, 1, 0])
    return TaskData(Recipe("topic", "t", "v", labels=LABELS), tuple(LABELS), examples, examples, None)


def prompt(seed: int) -> torch.Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))


FIRST, EMBEDDINGS = PromptPosition.FIRST_LAYER, PromptPosition.EMBEDDINGS


def losses(
    backbone: AnyBackbone, position: PromptPosition, teacher: PromptPosition | None = None
) -> list[dict[str, float]]:
    """Return an objective's losses before and after one of the other position is made and used."""
    (first,) = make_objectives(backbone, [task()], Placement(position=position))
    if teacher:
        first = first.distilled(Distillation(Teacher(prompt(1), Placement(position=teacher))))
    batch = TaskBatch(0, np.arange(len(TEXTS)))

    def parts() -> dict[str, float]:
        with torch.no_grad():
            return first.loss(prompt(0), batch, np.random.default_rng(0)).parts()

    before = parts()
    other = EMBEDDINGS if position is FIRST else FIRST
    (second,) = make_objectives(backbone, [task()], Placement(position=other))
    made = parts()
    second.loss(prompt(0), batch, np.random.default_rng(0))
    second.evaluate(prompt(0))
    return [before, made, parts()]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "gpt_neo", "llama", "t5"])
def test_objectives_of_two_positions_on_one_backbone(kind: str, tmp_path: Path) -> None:
    backbone = open_backbone(str(adapters.save_base(kind, tmp_path / kind)))
    results = {position: losses(backbone, position) for position in (FIRST, EMBEDDINGS)}
    for before, made, used in results.values():
        assert before == made == used
    # The position makes a difference, except where positions of tokens are relative.
    apart = abs(results[FIRST][0]["task"] - results[EMBEDDINGS][0]["task"])
    assert (apart > 1e-3) == (kind in ("bert", "gpt2", "gpt_neo"))


def test_a_teacher_of_another_position_leaves_the_backbone_alone(tmp_path: Path) -> None:
    backbone = open_backbone(str(adapters.save_base("gpt2", tmp_path / "gpt2")))
    (before, made, used) = losses(backbone, FIRST, EMBEDDINGS)
    assert before == made == used
    assert before["logits"] > 1e-4
    assert before["task"] == losses(backbone, FIRST)[0]["task"]


def test_every_row_is_a_head_type_that_task_files_may_name() -> None:
    assert list(OBJECTIVES.values()) == [
        SimilarityObjective, LabelVectorObjective, MaskObjective, GenerationObjective, ChoiceObjective,
    ]  # fmt: skip
    assert all(find_head_type(name) is objective.head_type for name, objective in OBJECTIVES.items())


def test_defaults_of_each_family(tiny: EncoderBackbone, writer: GenerativeBackbone) -> None:
    recipe = Recipe("topic", "t", "v", labels=LABELS)
    assert find_objective(tiny, recipe) is SimilarityObjective
    assert find_objective(writer, recipe) is ChoiceObjective
    text = replace(recipe, labels={}, head_type="generation", metric="f1")
    assert find_objective(writer, text) is GenerationObjective
    vectors = replace(recipe, head_type="label_vectors")
    assert find_objective(tiny, vectors) is LabelVectorObjective
    masked = replace(recipe, head_type="mask", template="{text} {mask}")
    assert find_objective(tiny, masked) is MaskObjective


def test_head_types_that_the_backbone_lacks(tiny: EncoderBackbone, writer: GenerativeBackbone) -> None:
    recipe = Recipe("topic", "t", "v", labels=LABELS)
    with pytest.raises(InputError, match="'topic' needs a generative model and tiny-bert is an encoder; pass a deco"):
        find_objective(tiny, replace(recipe, head_type="choice"))
    with pytest.raises(InputError, match="'topic' states head_type = 'similarity', which is for encoders, and tiny-ll"):
        find_objective(writer, replace(recipe, head_type="similarity"))
    with pytest.raises(
        InputError, match="no training for head_type 'words'; use one of similarity, label_vectors, mask, "
    ):
        find_objective(tiny, replace(recipe, head_type="words"))


def test_recipes_are_checked_by_their_objective(tiny: EncoderBackbone) -> None:
    with pytest.raises(InputError, match="topic: stop ends generated text, and this task generates none; leave it out"):
        find_objective(tiny, Recipe("topic", "t", "v", labels=LABELS, stop=(".",)))
