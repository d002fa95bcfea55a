"""Teachers: a prompt of its own for each source task, by plain prompt tuning (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mpt_edge.training.data import TaskData
from mpt_edge.training.families import AnyBackbone, new_objective
from mpt_edge.training.multitask import PlainPrompts
from mpt_edge.training.objectives import Distillation
from mpt_edge.training.settings import Settings
from mpt_edge.training.trainer import Progress, Trainer


@dataclass(frozen=True)
class TeacherPlan:
    """How teachers are trained, and how the student listens to them.

    Attributes:
        folder: where each task's teacher is kept; one that is finished is used again.
        epochs: passes over a task's capped rows.
        rate: learning rate of a teacher's prompt.
        weight: λ of equation 5.
        temperature: T of equation 3.
        hidden: whether hidden states are distilled too (equation 4).
    """

    folder: Path
    epochs: int = 3
    rate: float = 0.02
    weight: float = 0.9
    temperature: float = 2.0
    hidden: bool = True


@dataclass(frozen=True)
class Teacher:
    """One task's teacher: its prompt ``(l, d)`` and its validation score."""

    prompt: Tensor
    score: float


def train_teachers(
    backbone: AnyBackbone,
    tasks: Sequence[TaskData],
    label_texts: Sequence[Sequence[Sequence[str]]],
    start: Tensor,
    plan: TeacherPlan,
    settings: Settings,
    observe: Callable[[Progress], None],
    layout: str = "prefix",
    entry: str = "first_layer",
) -> list[Teacher]:
    """Train a teacher for each task, or take up one that an earlier run has left.

    Args:
        backbone: the frozen encoder.
        tasks: the source tasks.
        label_texts: for each task, each label's texts.
        start: the prompt that every teacher starts from, ``(l, d)``.
        plan: epochs, rate and folder.
        settings: the student's settings; batch, row cap and seed are the teachers' too.
        observe: called after every step.
        layout: attention layout of the student, and so of its teachers.
        entry: where the student's prompt enters, and so its teachers'.

    Raises:
        InputError: a folder holds a teacher made with other data or settings.
        TrainingError: a loss became NaN.
    """
    # What only concerns the student must not make a finished teacher another one.
    settings = replace(
        settings, epochs=plan.epochs, prompt_rate=plan.rate, task_rate=0.0, tasks_per_step=1, most_tasks=0
    )
    found = []
    for number, (task, texts) in enumerate(zip(tasks, label_texts, strict=True), start=1):
        stage = f"teacher {task.recipe.name} ({number}/{len(tasks)})"
        prompts = PlainPrompts([start])
        objective = new_objective(backbone, [task], [texts], None, layout, entry)
        run = Trainer(objective, prompts, settings, plan.folder / task.recipe.name, stage=stage)
        run.train(observe)
        found.append(Teacher(prompts(0).detach().clone(), run.best_score))
    return found


def distillation(teachers: Sequence[Teacher], plan: TeacherPlan) -> Distillation:
    """Return what the student's objective needs of its teachers."""
    return Distillation([teacher.prompt for teacher in teachers], plan.weight, plan.temperature, plan.hidden)
