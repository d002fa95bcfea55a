"""Files of finished values: what they record of the recipe, and a prompt that a task carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.initialization import sample_vocabulary
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.results import save_shared_prompt, write_tasks
from tests.support.runs import toy

PLACEMENT = Placement(position=PromptPosition.EMBEDDINGS)


@pytest.fixture
def objectives(tiny: EncoderBackbone) -> list[SimilarityObjective]:
    facts = [("mood", "MIT", "a source"), ("size", "CC0-1.0", None), ("other", None, None)]
    tasks = [toy(name, ("dull",), ("witty",)) for name, _, _ in facts]
    recipes = [
        replace(task.recipe, license=license, source=source)
        for task, (_, license, source) in zip(tasks, facts, strict=True)
    ]
    return [
        SimilarityObjective(tiny, replace(task, recipe=recipe), [["bad"], ["good"]], None, PLACEMENT)
        for task, recipe in zip(tasks, recipes, strict=True)
    ]


@pytest.mark.parametrize("own_prompt", [False, True])
def test_files(tiny: EncoderBackbone, objectives: list[SimilarityObjective], tmp_path: Path, own_prompt: bool) -> None:
    prompts = MultitaskPrompt(sample_vocabulary(tiny, 5, 0), len(objectives))
    prompts.finish()
    shared = save_shared_prompt(tmp_path, "mpt", prompts, objectives, {"stage": "source"})
    assert (shared.license, shared.placement, shared.training) == ("CC0-1.0; MIT", PLACEMENT, {"stage": "source"})
    assert VectorFolder(tmp_path).find_prompt().fingerprint == shared.fingerprint
    stages = [{"stage": name} for name in "abc"]
    tasks = write_tasks(objectives, prompts, shared, tmp_path, stages, own_prompt=own_prompt)
    assert [task.license for task in tasks] == ["MIT", "CC0-1.0", None]
    assert tasks[0].training == {"stage": "a", "examples": 24, "source": "a source"}
    assert tasks[1].training == {"stage": "b", "examples": 24}
    for task in tasks:
        file = TaskFile.load(VectorFolder(tmp_path).task_path(task.name))
        assert (file.head_type, file.prompt_sha256, file.metrics) == ("similarity", shared.fingerprint, task.metrics)
        assert (file.own_prompt is not None) is own_prompt
        if file.own_prompt is not None and task.own_prompt is not None:
            assert np.array_equal(file.own_prompt.values, shared.values)
            assert replace(file.own_prompt, values=shared.values) == replace(task.own_prompt, values=shared.values)
