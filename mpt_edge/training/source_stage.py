"""Source stage: a shared prompt trained together with the vectors of many tasks (paper section 3.2).

It leaves ``prompts/<name>.safetensors`` and ``tasks/<task>.safetensors``, which `mpt-edge export`
bakes into a bundle and `mpt-edge tasks install` adds to one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mpt_edge.errors import InputError
from mpt_edge.formats.limits import length_problem
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.initialization import VOCABULARY, default_init, initialize_shared
from mpt_edge.training.label_vectors import start_label_vectors
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.plan import NewPrompt, Plan, check_file_size, check_prompt_name, check_room, default_length
from mpt_edge.training.results import save_shared_prompt, write_tasks
from mpt_edge.training.settings import TeacherPlan
from mpt_edge.training.teachers import train_teachers
from mpt_edge.training.trainer import Observer, Trainer


def train_source(
    backbone: AnyBackbone, plan: Plan, prompt: NewPrompt, observe: Observer, teachers: TeacherPlan | None = None
) -> list[TaskFile]:
    """Train a shared prompt together with every task's vectors.

    Args:
        backbone: the frozen model.
        plan: the source tasks.
        prompt: name, length, placement and initialization of the shared prompt.
        observe: called after every step.
        teachers: how teachers are trained and distilled; None for plain multitask training.

    Returns:
        The tasks written, with their metrics.

    Raises:
        InputError: unusable recipes, data or options.
        TrainingError: the loss became NaN.
    """
    check_prompt_name(prompt.name)
    length = default_length(backbone) if prompt.length is None else prompt.length
    if length < 1:
        raise InputError("a prompt needs at least one virtual token; pass --prompt-length 1 or more.")
    for problem in length_problem(length):
        raise InputError(f"{problem}; pass a lower --prompt-length.")
    objectives = plan.objectives(backbone, prompt.placement)
    for objective in objectives:
        check_room(objective, length, prompt.placement)
    init = prompt.init or default_init(backbone)
    values = initialize_shared(objectives, length, plan.settings.seed, init)
    check_file_size(2 * values.numel())  # in float16
    facts: dict[str, Any] = {"stage": "source", "tasks": [r.name for r in plan.recipes], **asdict(plan.settings)}
    facts |= {"init": init} if init != VOCABULARY else {}
    if teachers is not None:
        trained = train_teachers(objectives, values, teachers, plan.settings, observe)
        pairs = list(zip(objectives, trained, strict=True))
        objectives = [objective.distilled(one.distillation) for objective, one in pairs]
        scores = {objective.recipe.name: round(one.score, 4) for objective, one in pairs}
        facts["distillation"] = {"epochs": teachers.epochs, "lr": teachers.lr, **asdict(teachers.distillation)}
        facts["distillation"] |= {"teachers": scores}
    prompts = MultitaskPrompt(values, len(objectives))
    start_label_vectors(objectives, prompts)
    stage = "student" if teachers else "training"
    Trainer(objectives, prompts, plan.settings, plan.output, stage=stage).train(observe)
    prompts.finish()
    shared = save_shared_prompt(plan.output, prompt.name, prompts, objectives, facts)
    return write_tasks(objectives, prompts, shared, plan.output, [plan.facts("source")] * len(objectives))
