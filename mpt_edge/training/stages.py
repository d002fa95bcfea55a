"""The stages that users run: a shared prompt over many tasks, then further tasks on it.

All leave the same folder behind: ``prompts/<name>.safetensors`` and ``tasks/<task>.safetensors``,
which `mpt-edge export` bakes into a bundle and `mpt-edge tasks install` adds to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.prompts import Entry, Layout, SharedPrompt
from mpt_edge.formats.taskfile import NAME, TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.recipes import MIN_LENGTH, Recipe
from mpt_edge.training.data.rows import TaskData, few_shot, load_task
from mpt_edge.training.initialization import AVERAGE, VOCABULARY, initial_prompt, start_vectors
from mpt_edge.training.linear_probe import probe
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.encoder_reading import typical_examples
from mpt_edge.training.objectives.families import new_objective
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.results import check_size, shared_prompt, write_tasks
from mpt_edge.training.settings import Settings, TeacherPlan, Trained
from mpt_edge.training.teachers import Teaching, taught_by, train_teachers
from mpt_edge.training.trainer import Progress, Trainer

Observer = Callable[[Progress], None]

_ONE_LAYOUT = (
    "a prompt that enters every layer is never changed by a text, so it has the prefix layout alone; leave out "
    "--layout, or pass --entry first_layer."
)


@dataclass(frozen=True)
class Plan:
    """What a stage works on.

    Attributes:
        recipes: the tasks.
        data: folder that the recipes' paths start from.
        output: folder for vectors, checkpoint and log.
        settings: rates, sizes, seed.
        test: whether to measure the test split, once, at the end.
        shots: training and validation rows a label; 0 for all rows.
        subset_seed: which rows these are.
    """

    recipes: Sequence[Recipe]
    data: Path
    output: Path
    settings: Settings
    _: KW_ONLY
    test: bool = False
    shots: int = 0
    subset_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class NewPrompt:
    """The shared prompt that a source stage makes.

    Attributes:
        name: what to call it.
        length: its rows l.
        layout: how it is read with text, here and on the device.
        entry: where it is to enter, or None; see `place`.
        init: where it starts: ``"vocabulary"``, ``"random"``, or a text.
    """

    name: str = "mpt"
    length: int = 100
    layout: Layout = Layout.PREFIX
    entry: Entry | None = None
    init: str = VOCABULARY

    @property
    def place(self) -> Entry:
        """Where it enters: unless stated every layer, or the first one in the joint layout, which has no other."""
        return self.entry or (Entry.EVERY_LAYER if self.layout == Layout.PREFIX else Entry.FIRST_LAYER)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a target task comes from.

    Attributes:
        folder: a bundle, or the folder of a source run, whose tasks are possible starts.
        shared: its shared prompt.
        start: ``"average"``, ``"nearest"``, ``"ones"`` or a task of the folder.
        trained: what is trained.
        name: name of a group's new shared prompt.
        teaching: finished tasks that teach the targets, or None.
    """

    folder: Path
    shared: SharedPrompt
    start: str = AVERAGE
    trained: Trained = Trained.VECTORS
    name: str = "group"
    teaching: Teaching | None = None

    def placed(self, layout: Layout | None) -> Origin:
        """Read the same prompt in another layout, where one is named, from here on; it gets a name of its own."""
        if layout is None or layout == self.shared.layout:
            return self
        if self.shared.entry == Entry.EVERY_LAYER:
            raise InputError(_ONE_LAYOUT)
        return replace(self, shared=replace(self.shared, layout=layout, name=f"{self.shared.name}-{layout}"))


def train_source(
    backbone: AnyBackbone, plan: Plan, prompt: NewPrompt, observe: Observer, teachers: TeacherPlan | None = None
) -> list[TaskFile]:
    """Learn a shared prompt together with every task's vectors (paper section 3.2).

    Args:
        backbone: the frozen model.
        plan: the source tasks.
        prompt: name, length, layout and start of the shared prompt.
        observe: called after every step.
        teachers: how teachers are trained and distilled, or None for plain multitask training.

    Returns:
        The tasks written, with their figures.

    Raises:
        InputError: unusable recipes, data or options.
        TrainingError: the loss became NaN.
    """
    _check_name(prompt.name)
    if prompt.length < 1:
        raise InputError("a prompt needs at least one row; pass --length 1 or more.")
    if prompt.layout == Layout.JOINT and prompt.place == Entry.EVERY_LAYER:
        raise InputError(_ONE_LAYOUT)
    tasks = _load(plan)
    texts = [label_texts(backbone, data) for data in tasks]
    _check_room(backbone, tasks, prompt.length, prompt.place)
    start = initial_prompt(backbone, prompt.length, plan.settings.seed, prompt.init, prompt.place)
    check_size(2 * start.numel())  # in float16
    facts: dict[str, Any] = {"stage": "source", "tasks": [r.name for r in plan.recipes], **asdict(plan.settings)}
    facts |= {"init": prompt.init} if prompt.init != VOCABULARY else {}
    taught = None
    if teachers is not None:
        trained = train_teachers(
            backbone, tasks, texts, start, teachers, plan.settings, observe, prompt.layout, prompt.place
        )
        taught = taught_by(trained, teachers.distillation)
        scores = {r.name: round(one.score, 4) for r, one in zip(plan.recipes, trained, strict=True)}
        how = {"epochs": teachers.epochs, "rate": teachers.rate, **asdict(teachers.distillation)}
        facts["distillation"] = {**how, "teachers": scores}
    objective = new_objective(backbone, tasks, texts, taught, prompt.layout, prompt.place)
    prompts = MultitaskPrompt(start, len(tasks))
    Trainer(objective, prompts, plan.settings, plan.output, stage="student" if taught else "training").train(observe)
    prompts.balance()
    prompts.round_to_half()
    shared = shared_prompt(prompt.name, prompts, objective, facts)
    VectorFolder(plan.output).save(shared)
    return write_tasks(objective, prompts, shared, plan.output, [_facts(plan, "source")] * len(tasks))


def train_target(backbone: AnyBackbone, plan: Plan, origin: Origin, observe: Observer) -> list[TaskFile]:
    """Learn further tasks on a shared prompt.

    Args:
        backbone: the model that the shared prompt was trained on.
        plan: the tasks; its prompt rate is that of a task's or group's own copy.
        origin: the shared prompt, the start, and what is trained.
        observe: called after every step.

    Raises:
        InputError: unusable recipes, data or options.
        MismatchError: the shared prompt was trained on another backbone.
        TrainingError: the loss became NaN.
    """
    shared = origin.shared
    _check_name(origin.name if origin.trained is Trained.GROUP else shared.name)
    if shared.backbone != backbone.fingerprint:
        raise MismatchError(
            f"the shared prompt {shared.name!r} was trained on another backbone than {backbone.id}; "
            "pass the backbone it was made for with --backbone."
        )
    if origin.trained is Trained.VECTORS:
        plan = replace(plan, settings=replace(plan.settings, prompt_lr=0.0))
    elif not plan.settings.prompt_lr:
        raise InputError(f"--train {origin.trained.value} changes the prompt; pass a --prompt-lr above 0.")
    tasks = _load(plan)
    _check_room(backbone, tasks, len(shared.values), shared.entry)
    check_size(shared.values.nbytes)
    if origin.trained is Trained.GROUP:
        return _train_group(backbone, plan, origin, tasks, observe)
    found = []
    for task in tasks:
        found += _train_alone(backbone, plan, origin, task, observe)
    VectorFolder(plan.output).save(shared)
    return found


def add_probe(backbone: EncoderBackbone, plan: Plan, observe: Callable[[str], None] = lambda _: None) -> list[TaskFile]:
    """Fit the probe for tasks that a stage has written, and record its figures in their files.

    Args:
        backbone: the frozen model whose embeddings it reads.
        plan: recipes, data and the stage's output folder.
        observe: told each task's name as its turn comes.

    Raises:
        InputError: a recipe generates text, so a probe has no labels to predict.
        CorruptFileError: a task is not in the output folder yet.
    """
    for recipe in plan.recipes:
        if recipe.kind == "generation":
            raise InputError(f"{recipe.name!r} generates text and a probe predicts labels; pass recipes with labels.")
    found, vectors = [], VectorFolder(plan.output)
    for recipe in plan.recipes:
        observe(recipe.name)
        task = TaskFile.load(vectors.task_path(recipe.name))
        figures = probe(backbone, load_task(recipe, plan.data, test=plan.test))
        task = replace(task, metrics={**task.metrics, "probe": figures})
        vectors.save(task)
        found.append(task)
    return found


def label_texts(backbone: AnyBackbone, data: TaskData) -> list[list[str]]:
    """Return each label's texts: the recipe's (or the label itself) and its typical examples."""
    texts = [list(data.recipe.labels.get(label, (label.replace("_", " "),))) for label in data.labels]
    count = data.recipe.label_examples
    if count and isinstance(backbone, EncoderBackbone):
        examples = typical_examples(backbone, data.train, len(data.labels), count)
        texts = [own + [t for t in more if isinstance(t, str)] for own, more in zip(texts, examples, strict=True)]
    return texts


def _train_alone(
    backbone: AnyBackbone, plan: Plan, origin: Origin, task: TaskData, observe: Observer
) -> list[TaskFile]:
    """Train one target: its vectors, and its copy of the prompt where that is asked for."""
    objective = _target_objective(backbone, [task], origin)
    prompts, starts = _started(objective, origin, plan)
    name = task.recipe.name
    Trainer(objective, prompts, plan.settings, plan.output / "runs" / name, stage=name).train(observe)
    prompts.balance()
    prompts.round_to_half()
    own = origin.trained is Trained.PROMPT
    facts = _facts(plan, "target") | {"start": starts[0]} | _teaching_facts(origin)
    return write_tasks(objective, prompts, origin.shared, plan.output, [facts], own_prompt=own)


def _train_group(
    backbone: AnyBackbone, plan: Plan, origin: Origin, tasks: list[TaskData], observe: Observer
) -> list[TaskFile]:
    """Train several targets on one new shared prompt."""
    objective = _target_objective(backbone, tasks, origin)
    prompts, starts = _started(objective, origin, plan)
    folder = plan.output / "runs" / origin.name
    Trainer(objective, prompts, plan.settings, folder, stage=origin.name).train(observe)
    prompts.balance()
    prompts.round_to_half()
    facts = {"stage": "group", "tasks": [r.name for r in plan.recipes], "from": origin.shared.fingerprint}
    shared = shared_prompt(origin.name, prompts, objective, facts | asdict(plan.settings))
    VectorFolder(plan.output).save(shared)
    training = [_facts(plan, "group") | {"start": start} | _teaching_facts(origin) for start in starts]
    return write_tasks(objective, prompts, shared, plan.output, training)


def _target_objective(backbone: AnyBackbone, tasks: Sequence[TaskData], origin: Origin) -> TaskObjective:
    """Return the objective of targets, with their teachers where there are some."""
    texts = [label_texts(backbone, task) for task in tasks]
    taught = None if origin.teaching is None else origin.teaching.of(backbone, tasks)
    for teacher in taught.teachers if taught else ():
        _check_room(backbone, tasks, len(teacher.prompt), teacher.entry)
    return new_objective(backbone, tasks, texts, taught, origin.shared.layout, origin.shared.entry)


def _started(objective: TaskObjective, origin: Origin, plan: Plan) -> tuple[MultitaskPrompt, list[str]]:
    """Return prompts that start where the origin says, and what each start is called."""
    prompts = MultitaskPrompt(torch.from_numpy(origin.shared.values.astype(np.float32)), len(objective.tasks))
    names, own = [], {recipe.name for recipe in plan.recipes}
    for index in range(len(objective.tasks)):
        name, vectors = start_vectors(origin.start, origin.folder, origin.shared, objective, index, own)
        prompts.start(index, *vectors)
        names.append(name)
    return prompts, names


def _check_name(name: str) -> None:
    """Refuse a prompt's name that is no file name of a bundle, before training takes hours. Raises InputError."""
    if NAME.fullmatch(name) is None:
        raise InputError(
            f"{name!r} cannot name a prompt; use at most 64 letters, digits, dots, dashes and underscores, a letter "
            "or digit first."
        )


def _load(plan: Plan) -> list[TaskData]:
    names = [recipe.name for recipe in plan.recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two recipes are named {twice!r}; give each task its own name.")
    tasks = [load_task(recipe, plan.data, test=plan.test) for recipe in plan.recipes]
    return [few_shot(task, plan.shots, plan.subset_seed) for task in tasks] if plan.shots else tasks


def _check_room(backbone: AnyBackbone, tasks: Sequence[TaskData], length: int, entry: Entry) -> None:
    """Refuse texts that do not fit behind a prompt which takes room of theirs. Raises InputError.

    A model that writes counts every prompt, wherever it enters, since its bundle does.
    """
    writes, context = isinstance(backbone, GenerativeBackbone), backbone.model.max_positions
    if not writes and entry != Entry.INPUTS_EMBEDS:
        return
    free, taken = context - length, f"{backbone.id} has {context} positions and the prompt takes {length} of them"
    if free < MIN_LENGTH:
        raise InputError(f"{taken}, which leaves no text any room; train a prompt of a lower --length.")
    for task in tasks:
        recipe = task.recipe
        behind = _rows_behind(backbone, task) if isinstance(backbone, GenerativeBackbone) else 0
        room = free - behind
        taken_too = f"{taken}, what {recipe.name!r} writes {behind}" if behind else taken
        if room < MIN_LENGTH:
            way = "lower its max_target_length" if recipe.kind == "generation" else "shorten its label texts"
            raise InputError(
                f"{taken_too}, which leaves its text no room; {way}, or train a prompt of a lower --length."
            )
        if min(recipe.max_length, backbone.max_length) > room:
            raise InputError(f"{taken_too}; lower max_length of {recipe.name!r} to {room} or less.")


def _rows_behind(backbone: GenerativeBackbone, task: TaskData) -> int:
    """Return the most rows that a decoder-only model reads behind a text; an encoder-decoder model reads none there."""
    if isinstance(backbone, Seq2SeqBackbone):
        return 0
    if task.recipe.kind == "generation":
        return task.recipe.max_target_length + len(backbone.eos_ids[:1])
    groups = label_texts(backbone, task)
    return max(map(len, backbone.texts.continuations([group[0] for group in groups])))


def _teaching_facts(origin: Origin) -> dict[str, Any]:
    return {} if origin.teaching is None else {"distillation": asdict(origin.teaching.distillation)}


def _facts(plan: Plan, stage: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"stage": stage, "seed": plan.settings.seed}
    return facts | ({"shots": plan.shots, "subset_seed": plan.subset_seed} if plan.shots else {})
