"""Teachers: one prompt for each task, trained by plain prompt tuning (paper section 3.2) or taken from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.prompts import compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.heads import Classifier
from mpt_edge.training.multitask import PlainPrompts
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.table import OBJECTIVES
from mpt_edge.training.settings import DistillationSettings, Settings, TeacherPlan
from mpt_edge.training.trainer import Observer, Trainer


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """Finished tasks as teachers, in any layout."""

    folder: Path
    """A bundle or a folder of vectors, with a task of each target's name."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)

    def of(self, objective: TaskObjective) -> Distillation:
        """Read the teacher of a task.

        Raises:
            InputError: there is none, or it has other labels or another template.
            MismatchError: it was made for another backbone.
        """
        return Distillation(_read_teacher(self.folder, objective), **asdict(self.distillation))


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher that was trained here, and its validation score."""

    distillation: Distillation
    score: float


def train_teachers(
    objectives: Sequence[TaskObjective], values: Tensor, plan: TeacherPlan, settings: Settings, observe: Observer
) -> list[TrainedTeacher]:
    """Train a teacher for each task, or load one that an earlier run has left.

    Args:
        objectives: the source tasks.
        values: first values of every teacher's prompt, ``(l, d)`` or ``(l, layers, d)``.
        plan: epochs, learning rate, folder, and weight of the teachers.
        settings: the student's settings, whose batch size, number of examples and seed are the teachers' too.
        observe: called after every step.

    Raises:
        InputError: a folder holds a teacher made with other data or settings.
        TrainingError: a loss became NaN.
    """
    # Settings of the student alone must not change the identity of a finished teacher.
    settings = replace(settings, epochs=plan.epochs, prompt_lr=plan.lr, task_lr=0.0, tasks_per_step=1, max_tasks=0)
    result = []
    for number, objective in enumerate(objectives, start=1):
        name = objective.recipe.name
        prompts = PlainPrompts([values])
        stage = f"teacher {name} ({number}/{len(objectives)})"
        trainer = Trainer([objective.as_teacher()], prompts, settings, plan.folder / name, stage=stage)
        trainer.train(observe)
        teacher = Teacher(prompts(0).detach().clone(), objective.placement)
        result.append(TrainedTeacher(Distillation(teacher, **asdict(plan.distillation)), trainer.best_score))
    return result


def _read_teacher(folder: Path, objective: TaskObjective) -> Teacher:
    """Return the finished task of the objective's name as its teacher."""
    name, labels, backbone = objective.recipe.name, objective.data.labels, objective.backbone
    vectors = VectorFolder(folder)
    path = vectors.task_path(name)
    if not path.is_file():
        raise InputError(
            f"{folder} holds no task {name!r} to teach the recipe of that name; import it under this name "
            f"(--task {name}=ID), or rename the recipe."
        )
    file = TaskFile.load(path)
    if file.backbone != backbone.fingerprint:
        raise MismatchError(f"the teacher {path} was made for another backbone than {backbone.id}; pass its own.")
    has_head = issubclass(file.head_class, Classifier)
    if file.head_type not in OBJECTIVES and not has_head:
        raise InputError(f"the teacher {name!r} answers by {file.head_type!r}, which cannot teach a task with labels.")
    if file.chat != objective.chat:
        raise InputError(f"the teacher {name!r} reads another chat than the recipe; give the recipe its template.")
    if file.template != objective.template:
        raise InputError(
            f"the teacher {name!r} reads texts as {file.template or '{text}'!r} and the recipe has "
            f"{objective.template or '{text}'!r}; give the recipe the teacher's template."
        )
    if file.labels and set(file.labels) != set(labels):
        raise InputError(
            f"the teacher {name!r} knows the labels {', '.join(file.labels)}, and the recipe has "
            f"{', '.join(labels)}; import it with the recipe's labels, in the order of its outputs (--label)."
        )
    shared = vectors.prompt_of(file)
    prompt = torch.from_numpy(compose(shared.values, file.u, file.v))
    head = shared.head if has_head else None
    return Teacher(prompt, shared.placement, head, [file.labels.index(label) for label in labels] if head else [])
