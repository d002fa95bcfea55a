"""Teachers: a prompt of its own for each task, by plain prompt tuning (paper section 3.2), or one that was imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.head_types import READOUTS
from mpt_edge.formats.prompts import Entry, Layout, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.masking import PLACEHOLDER
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.rows import TaskData
from mpt_edge.training.initialization import task_prompt
from mpt_edge.training.multitask import PlainPrompts
from mpt_edge.training.objectives.families import new_objective
from mpt_edge.training.objectives.objective import Distillation, Teacher
from mpt_edge.training.settings import DistillationSettings, Settings, TeacherPlan
from mpt_edge.training.trainer import Progress, Trainer

#: Readouts of teachers that answer as the student of their family does, or by a head of their own.
_TEACHING = ("similarity", "mask", "classifier", "generation", "choice")


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """Finished tasks as teachers, whatever layout they were trained in.

    Attributes:
        folder: a bundle, or a folder of vectors, that holds a task of each target's name.
        distillation: what the teachers count for.
    """

    folder: Path
    distillation: DistillationSettings = field(default_factory=DistillationSettings)

    def of(self, backbone: AnyBackbone, tasks: Sequence[TaskData]) -> Distillation:
        """Read the tasks' teachers.

        Raises:
            InputError: there is none for a task, or it knows other labels or another template.
            MismatchError: it was made for another backbone.
        """
        teachers = [_read_teacher(self.folder, backbone, task) for task in tasks]
        return Distillation(teachers, **asdict(self.distillation))


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher that was trained here, and its validation score."""

    teacher: Teacher
    score: float


def train_teachers(
    backbone: AnyBackbone,
    tasks: Sequence[TaskData],
    label_texts: Sequence[Sequence[Sequence[str]]],
    start: Tensor,
    plan: TeacherPlan,
    settings: Settings,
    observe: Callable[[Progress], None],
    layout: Layout = Layout.PREFIX,
    entry: Entry = Entry.FIRST_LAYER,
) -> list[TrainedTeacher]:
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
    settings = replace(settings, epochs=plan.epochs, prompt_lr=plan.rate, task_lr=0.0, tasks_per_step=1, max_tasks=0)
    found = []
    for number, (task, texts) in enumerate(zip(tasks, label_texts, strict=True), start=1):
        stage = f"teacher {task.recipe.name} ({number}/{len(tasks)})"
        prompts = PlainPrompts([start])
        objective = new_objective(backbone, [task], [texts], None, layout, entry)
        run = Trainer(objective, prompts, settings, plan.folder / task.recipe.name, stage=stage)
        run.train(observe)
        found.append(TrainedTeacher(Teacher(prompts(0).detach().clone(), layout, entry), run.best_score))
    return found


def taught_by(trained: Sequence[TrainedTeacher], settings: DistillationSettings) -> Distillation:
    """Return what the student's objective needs of its teachers."""
    return Distillation([one.teacher for one in trained], **asdict(settings))


def _read_teacher(folder: Path, backbone: AnyBackbone, task: TaskData) -> Teacher:
    """Return the teacher that a task file is."""
    name, recipe = task.recipe.name, task.recipe
    path = VectorFolder(folder).task_path(name)
    if not path.is_file():
        raise InputError(
            f"{folder} holds no task {name!r} to teach the recipe of that name; import it under this name "
            f"(--task {name}=ID), or rename the recipe."
        )
    file = TaskFile.load(path)
    if file.backbone != backbone.fingerprint:
        raise MismatchError(f"the teacher {path} was made for another backbone than {backbone.id}; pass its own.")
    if file.readout not in _TEACHING:
        raise InputError(f"the teacher {name!r} answers by {file.readout!r}, which cannot teach a task with labels.")
    mask = backbone.mask if isinstance(backbone, EncoderBackbone) else None
    template = recipe.template.replace(PLACEHOLDER, mask.token) if mask else recipe.template
    if file.template != template:
        raise InputError(
            f"the teacher {name!r} reads texts as {file.template or '{text}'!r} and the recipe writes "
            f"{template or '{text}'!r}; give the recipe the teacher's template."
        )
    if file.labels and set(file.labels) != set(task.labels):
        raise InputError(
            f"the teacher {name!r} knows the labels {', '.join(file.labels)}, and the recipe has "
            f"{', '.join(task.labels)}; import it with the recipe's labels, in the order of its outputs (--label)."
        )
    shared = task_prompt(folder, file)
    head = (file.head or shared.head) if READOUTS[file.readout].head else None
    outputs = [file.labels.index(label) for label in task.labels] if head else []
    prompt = torch.from_numpy(compose(shared.values, file.u, file.v))
    return Teacher(prompt, shared.layout, shared.entry, head, outputs)
