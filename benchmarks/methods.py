"""The methods that `accuracy.py` compares: the same rows, batches, readout and budget for each.

Every method reads texts through the same backbone and answers by similarity to the same label
texts, unless it says otherwise. Validation chooses the epoch, where the budget has it; the test split is measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.data.rows import TaskData
from mpt_edge.training.initialization import VOCABULARY, initial_prompt
from mpt_edge.training.linear_probe import probe
from mpt_edge.training.multitask import MultitaskPrompt, PlainPrompts, Prompts
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.settings import DistillationSettings, Settings, TeacherPlan
from mpt_edge.training.stages import label_texts
from mpt_edge.training.teachers import taught_by, train_teachers
from mpt_edge.training.trainer import Progress, Trainer

BACKBONE = "minilm-l6"

#: Learning rates. Ours were chosen on validation; LoRA's and full fine-tuning's are those of their papers.
PROMPT_RATE, VECTOR_RATE, LORA_RATE, TUNING_RATE = 0.02, 0.03, 5e-4, 5e-5


@dataclass(frozen=True)
class Budget:
    """What every method gets.

    Attributes:
        rows: most training rows a task.
        epochs: passes over them.
        length: rows l of a prompt.
        seed: fixes start and order.
        folder: where checkpoints go.
        keep_last: keep the last step; otherwise validation chooses the epoch.
    """

    rows: int
    epochs: int
    length: int
    seed: int
    folder: Path
    keep_last: bool = False

    def settings(self, **changes: float) -> Settings:
        """Return the trainer's settings under this budget."""
        base = Settings(
            epochs=self.epochs,
            max_tasks=0,
            examples_per_epoch=self.rows,
            prompt_lr=PROMPT_RATE,
            task_lr=VECTOR_RATE,
            keep_last=self.keep_last,
            seed=self.seed,
        )
        return replace(base, **changes)  # type: ignore[arg-type]


#: A method: all tasks in, each task's score on test out.
Method = Callable[[Sequence[TaskData], Budget, Callable[[Progress], None]], dict[str, float]]


class WholeModel(nn.Module):
    """Adapts the backbone's own weights; there is no prompt."""

    def __init__(self, parameters: dict[str, nn.Parameter], rate: float) -> None:
        """Train these parameters of a backbone at one rate."""
        super().__init__()
        self._trained, self._rate = parameters, rate

    def forward(self, task: int) -> None:  # noqa: ARG002
        """Return no prompt."""
        return

    def groups(self, prompt_lr: float, task_lr: float) -> list[dict[str, object]]:  # noqa: ARG002
        """Return all parameters."""
        return [{"params": list(self._trained.values()), "lr": self._rate}]

    def largest(self, task: int) -> float:  # noqa: ARG002
        """Return 0: nothing is written."""
        return 0.0

    def state_dict(self, *_: object, **__: object) -> dict[str, Tensor]:  # type: ignore[override]
        """Return what is trained, by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load_state_dict(self, values: dict[str, Tensor], *_: object, **__: object) -> None:  # type: ignore[override]
        """Take up values by name."""
        for name, parameter in self._trained.items():
            parameter.copy_(values[name])


@dataclass(frozen=True)
class Parts:
    """Which parts of the method are there, for its ablation (section 4.3 of the paper).

    Attributes:
        decomposition: u and v a task; without them all tasks have one prompt.
        distillation: teachers and their two losses.
        hidden: the loss on hidden states (equation 4).
        sampling: a step's tasks are drawn; without it a step takes two batches, each of one task.
        shared_trained: whether the shared prompt learns; without it only u and v do.
    """

    decomposition: bool = True
    distillation: bool = True
    hidden: bool = True
    sampling: bool = True
    shared_trained: bool = True


#: Nothing is distilled: the loss of the tasks alone.
PLAIN = Parts(distillation=False)


class SharedOnly(nn.Module):
    """One prompt for all tasks and no vectors: MPT without decomposition."""

    def __init__(self, start: Tensor) -> None:
        """Start from a prompt ``(l, d)``."""
        super().__init__()
        self.shared = nn.Parameter(start.clone())

    def forward(self, task: int) -> Tensor:  # noqa: ARG002
        """Return the one prompt."""
        return self.shared

    def groups(self, prompt_lr: float, task_lr: float) -> list[dict[str, object]]:  # noqa: ARG002
        """Return the prompt."""
        return [{"params": [self.shared], "lr": prompt_lr}]

    def largest(self, task: int) -> float:  # noqa: ARG002
        """Return 0: nothing is written."""
        return 0.0


def zero_shot(tasks: Sequence[TaskData], budget: Budget, observe: Callable[[Progress], None]) -> dict[str, float]:
    """Similarity to the label texts without any training."""
    del budget, observe
    objective = _objective(load_encoder(BACKBONE), tasks)
    return {task.recipe.name: _test(objective, i, None) for i, task in enumerate(tasks)}


def logistic_probe(tasks: Sequence[TaskData], budget: Budget, observe: Callable[[Progress], None]) -> dict[str, float]:
    """Logistic regression on the frozen embeddings, its strength chosen on validation."""
    del budget, observe
    backbone = load_encoder(BACKBONE)
    return {task.recipe.name: probe(backbone, task)["test"][task.recipe.metric] for task in tasks}


def prompt_tuning(
    tasks: Sequence[TaskData], budget: Budget, observe: Callable[[Progress], None], entry: Entry = Entry.FIRST_LAYER
) -> dict[str, float]:
    """Plain prompt tuning: a full prompt a task, each trained alone; at every layer it is P-tuning v2."""
    backbone = load_encoder(BACKBONE)
    start = initial_prompt(backbone, budget.length, budget.seed, VOCABULARY, entry)
    return _each_alone(tasks, budget, observe, lambda: (backbone, PlainPrompts([start])), entry)


def lora(tasks: Sequence[TaskData], budget: Budget, observe: Callable[[Progress], None]) -> dict[str, float]:
    """LoRA, r = 8 on queries and values, through PEFT."""

    def adapted() -> tuple[EncoderBackbone, Prompts]:
        torch.manual_seed(budget.seed)
        backbone = load_encoder(BACKBONE)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
        model = inject_adapter_in_model(config, backbone.model.model)
        return backbone, WholeModel(_named(model, lambda name: "lora_" in name), LORA_RATE)

    return _each_alone(tasks, budget, observe, adapted)


def fine_tuning(tasks: Sequence[TaskData], budget: Budget, observe: Callable[[Progress], None]) -> dict[str, float]:
    """Full fine-tuning: every weight, a model a task."""

    def unfrozen() -> tuple[EncoderBackbone, Prompts]:
        backbone = load_encoder(BACKBONE)
        return backbone, WholeModel(_named(backbone.model.model, lambda name: "pooler" not in name), TUNING_RATE)

    return _each_alone(tasks, budget, observe, unfrozen)


def mpt(
    tasks: Sequence[TaskData],
    budget: Budget,
    observe: Callable[[Progress], None],
    entry: Entry = Entry.FIRST_LAYER,
    layout: Layout = Layout.PREFIX,
    parts: Parts | None = None,
) -> dict[str, float]:
    """Multitask prompt tuning: u and v a task on one shared prompt, in full or without some of its parts."""
    parts = parts or Parts()
    backbone = load_encoder(BACKBONE)
    start = initial_prompt(backbone, budget.length, budget.seed, VOCABULARY, entry)
    settings = budget.settings(
        max_tasks=4 if parts.sampling else 0, prompt_lr=PROMPT_RATE if parts.shared_trained else 0.0
    )
    objective = _objective(backbone, tasks, entry, layout)
    if parts.distillation:
        # All variants of one seed and budget learn from the same teachers.
        name = f"teachers-{entry}-{budget.seed}-{budget.rows}-{budget.epochs}-{budget.length}"
        counted = DistillationSettings(hidden=parts.hidden)
        plan = TeacherPlan(folder=budget.folder.parent / name, epochs=budget.epochs, distillation=counted)
        texts = objective.label_texts
        taught = train_teachers(backbone, tasks, texts, start, plan, settings, observe, layout, entry)
        objective = SimilarityObjective(backbone, tasks, texts, taught_by(taught, counted), layout, entry)
    prompts = MultitaskPrompt(start, len(tasks)) if parts.decomposition else SharedOnly(start)
    return _trained(objective, prompts, settings, budget.folder, observe)


#: Where a name does not say otherwise, prompts enter the first layer, as published.
METHODS: dict[str, Method] = {
    "zero-shot": zero_shot,
    "probe": logistic_probe,
    "prompt-tuning": prompt_tuning,
    "mpt": mpt,
    "mpt-no-distillation": partial(mpt, parts=PLAIN),
    "joint-mpt-no-distillation": partial(mpt, layout=Layout.JOINT, parts=PLAIN),
    "every-layer-prompt-tuning": partial(prompt_tuning, entry=Entry.EVERY_LAYER),
    "every-layer-mpt": partial(mpt, entry=Entry.EVERY_LAYER),
    "every-layer-mpt-no-hidden": partial(mpt, entry=Entry.EVERY_LAYER, parts=Parts(hidden=False)),
    "every-layer-mpt-no-sampling": partial(mpt, entry=Entry.EVERY_LAYER, parts=Parts(sampling=False)),
    "every-layer-mpt-no-decomposition": partial(mpt, entry=Entry.EVERY_LAYER, parts=Parts(decomposition=False)),
    "every-layer-mpt-no-distillation": partial(mpt, entry=Entry.EVERY_LAYER, parts=PLAIN),
    "every-layer-mpt-neither": partial(
        mpt, entry=Entry.EVERY_LAYER, parts=Parts(decomposition=False, distillation=False)
    ),
    "every-layer-mpt-only-vectors": partial(
        mpt, entry=Entry.EVERY_LAYER, parts=Parts(distillation=False, shared_trained=False)
    ),
    "lora": lora,
    "fine-tuning": fine_tuning,
}

#: Methods that train all tasks together, so their figures depend on which tasks there are.
TOGETHER = tuple(name for name in METHODS if "mpt" in name.split("-"))


def limited(data: TaskData, rows: int) -> TaskData:
    """Return a task with at most ``rows`` training rows, the same ones for every method and seed."""
    if len(data.train) <= rows:
        return data
    return replace(data, train=data.train.take(np.random.default_rng(0).permutation(len(data.train))[:rows]))


def _each_alone(
    tasks: Sequence[TaskData],
    budget: Budget,
    observe: Callable[[Progress], None],
    fresh: Callable[[], tuple[EncoderBackbone, Prompts]],
    entry: Entry = Entry.FIRST_LAYER,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for task in tasks:
        backbone, prompts = fresh()
        folder = budget.folder / task.recipe.name
        found |= _trained(
            _objective(backbone, [task], entry), prompts, budget.settings(tasks_per_step=1), folder, observe
        )
    return found


def _trained(
    objective: SimilarityObjective,
    prompts: Prompts,
    settings: Settings,
    folder: Path,
    observe: Callable[[Progress], None],
) -> dict[str, float]:
    Trainer(objective, prompts, settings, folder, stage=folder.name).train(observe)
    with torch.no_grad():
        return {task.recipe.name: _test(objective, i, prompts(i)) for i, task in enumerate(objective.tasks)}


def _objective(
    backbone: EncoderBackbone,
    tasks: Sequence[TaskData],
    entry: Entry = Entry.FIRST_LAYER,
    layout: Layout = Layout.PREFIX,
) -> SimilarityObjective:
    return SimilarityObjective(
        backbone, tasks, [label_texts(backbone, task) for task in tasks], layout=layout, entry=entry
    )


def _test(objective: SimilarityObjective, index: int, prompt: Tensor | None) -> float:
    rows = objective.tasks[index].test
    assert rows is not None
    return objective.score(index, prompt, rows)


def _named(model: nn.Module, wanted: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    found = {name: parameter for name, parameter in model.named_parameters() if wanted(name)}
    for parameter in found.values():
        parameter.requires_grad = True
    return found
