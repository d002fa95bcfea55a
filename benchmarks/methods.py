"""Methods that `accuracy.py` compares, with the same examples, batches, head type and budget for each.

Every method reads texts through the same backbone and answers by similarity to the same label texts,
unless its description differs. Validation chooses the epoch, unless the budget keeps the last step.
The test split is measured once.
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

from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.data.examples import TaskData
from mpt_edge.training.initialization import VOCABULARY, initialize_prompt
from mpt_edge.training.linear_probe import fit_linear_probe
from mpt_edge.training.multitask import MultitaskPrompt, PlainPrompts, Prompts
from mpt_edge.training.objectives.label_texts import collect_label_texts
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.settings import DistillationSettings, Settings, TeacherPlan
from mpt_edge.training.teachers import train_teachers
from mpt_edge.training.trainer import Observer, Trainer

BACKBONE = "minilm-l6"

#: Learning rates. Ours were chosen on validation; LoRA's and full fine-tuning's are those of their papers.
PROMPT_LR, TASK_LR, LORA_LR, TUNING_LR = 0.02, 0.03, 5e-4, 5e-5

#: Placements: the published one, P-tuning v2's, and the published one in the paper's layout.
FIRST_LAYER = Placement()
ALL_LAYERS = Placement(Layout.PREFIX, PromptPosition.ALL_LAYERS)
JOINT = Placement(Layout.JOINT)


@dataclass(frozen=True)
class Budget:
    """Training budget of every method."""

    examples: int
    """Maximum number of training examples a task."""
    epochs: int
    """Passes over them."""
    length: int
    """Virtual tokens l of a prompt."""
    seed: int
    """Random seed of initialization and order."""
    folder: Path
    """Folder for checkpoints."""
    keep_last: bool = False
    """Whether to keep the last step instead of the epoch that validation chooses."""

    def settings(self, **changes: float) -> Settings:
        """Return the trainer's settings under this budget."""
        base = Settings(
            epochs=self.epochs,
            max_tasks=0,
            examples_per_epoch=self.examples,
            prompt_lr=PROMPT_LR,
            task_lr=TASK_LR,
            keep_last=self.keep_last,
            seed=self.seed,
        )
        return replace(base, **changes)  # type: ignore[arg-type]


#: A method: returns the test score of each task.
Method = Callable[[Sequence[TaskData], Budget, Observer], dict[str, float]]


class WholeModel(nn.Module):
    """Training of the backbone's own weights, without a prompt."""

    def __init__(self, parameters: dict[str, nn.Parameter], lr: float) -> None:
        """Train these parameters of a backbone with one learning rate."""
        super().__init__()
        self._trained, self._lr = parameters, lr

    def forward(self, task: int) -> None:  # noqa: ARG002
        """Return no prompt."""
        return

    def groups(self, settings: Settings) -> list[dict[str, object]]:  # noqa: ARG002
        """Return all parameters."""
        return [{"params": list(self._trained.values()), "lr": self._lr}]

    def largest(self, task: int) -> float:  # noqa: ARG002
        """Return 0: no file is written."""
        return 0.0

    def state_dict(self, *_: object, **__: object) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the trained parameters by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load_state_dict(self, values: dict[str, Tensor], *_: object, **__: object) -> None:  # type: ignore[override]
        """Set values by name."""
        for name, parameter in self._trained.items():
            parameter.copy_(values[name])


@dataclass(frozen=True)
class Parts:
    """Parts of the method, for its ablation (section 4.3 of the paper)."""

    decomposition: bool = True
    """u and v a task; without them all tasks have one prompt."""
    distillation: bool = True
    """Teachers and their two losses."""
    hidden: bool = True
    """The loss on hidden states (equation 4)."""
    sampling: bool = True
    """A step's tasks are drawn; without it a step takes two batches, each of one task."""
    shared_trained: bool = True
    """The shared prompt is trained; without it only u and v are."""


#: Without distillation: the loss of the tasks alone.
PLAIN = Parts(distillation=False)


class SharedOnly(nn.Module):
    """One prompt for all tasks and no vectors: MPT without decomposition."""

    def __init__(self, values: Tensor) -> None:
        """Start from a prompt ``(l, d)``."""
        super().__init__()
        self.shared = nn.Parameter(values.clone())

    def forward(self, task: int) -> Tensor:  # noqa: ARG002
        """Return the one prompt."""
        return self.shared

    def groups(self, settings: Settings) -> list[dict[str, object]]:
        """Return the prompt."""
        return [{"params": [self.shared], "lr": settings.prompt_lr}]

    def largest(self, task: int) -> float:  # noqa: ARG002
        """Return 0: no file is written."""
        return 0.0


def zero_shot(tasks: Sequence[TaskData], budget: Budget, observe: Observer) -> dict[str, float]:
    """Similarity to the label texts without any training."""
    del budget, observe
    backbone = load_encoder(BACKBONE)
    return {task.recipe.name: _test(_objective(backbone, task), None) for task in tasks}


def logistic_probe(tasks: Sequence[TaskData], budget: Budget, observe: Observer) -> dict[str, float]:
    """Logistic regression on the frozen embeddings; validation chooses its regularization."""
    del budget, observe
    backbone = load_encoder(BACKBONE)
    return {task.recipe.name: fit_linear_probe(backbone, task)["test"][task.recipe.metric] for task in tasks}


def prompt_tuning(
    tasks: Sequence[TaskData], budget: Budget, observe: Observer, placement: Placement = FIRST_LAYER
) -> dict[str, float]:
    """Plain prompt tuning: a full prompt a task, each trained alone; at all layers it is P-tuning v2."""
    backbone = load_encoder(BACKBONE)
    values = initialize_prompt(backbone, budget.length, budget.seed, VOCABULARY, placement.position)
    return _each_alone(tasks, budget, observe, lambda: (backbone, PlainPrompts([values])), placement)


def lora(tasks: Sequence[TaskData], budget: Budget, observe: Observer) -> dict[str, float]:
    """LoRA, r = 8 on queries and values, through PEFT."""

    def adapted() -> tuple[EncoderBackbone, Prompts]:
        torch.manual_seed(budget.seed)
        backbone = load_encoder(BACKBONE)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
        model = inject_adapter_in_model(config, backbone.model.model)
        return backbone, WholeModel(unfreeze(model, lambda name: "lora_" in name), LORA_LR)

    return _each_alone(tasks, budget, observe, adapted)


def fine_tuning(tasks: Sequence[TaskData], budget: Budget, observe: Observer) -> dict[str, float]:
    """Full fine-tuning: every weight, a model a task."""

    def unfrozen() -> tuple[EncoderBackbone, Prompts]:
        backbone = load_encoder(BACKBONE)
        return backbone, WholeModel(unfreeze(backbone.model.model, lambda name: "pooler" not in name), TUNING_LR)

    return _each_alone(tasks, budget, observe, unfrozen)


def mpt(
    tasks: Sequence[TaskData],
    budget: Budget,
    observe: Observer,
    placement: Placement = FIRST_LAYER,
    parts: Parts | None = None,
) -> dict[str, float]:
    """Multitask prompt tuning: u and v a task on one shared prompt, with all of its parts or some."""
    parts = parts or Parts()
    backbone = load_encoder(BACKBONE)
    values = initialize_prompt(backbone, budget.length, budget.seed, VOCABULARY, placement.position)
    settings = budget.settings(
        max_tasks=4 if parts.sampling else 0, prompt_lr=PROMPT_LR if parts.shared_trained else 0.0
    )
    objectives = [_objective(backbone, task, placement) for task in tasks]
    if parts.distillation:
        # All variants of one seed and budget learn from the same teachers.
        name = f"teachers-{placement.position}-{budget.seed}-{budget.examples}-{budget.epochs}-{budget.length}"
        distillation = DistillationSettings(hidden=parts.hidden)
        plan = TeacherPlan(folder=budget.folder.parent / name, epochs=budget.epochs, distillation=distillation)
        teachers = train_teachers(objectives, values, plan, settings, observe)
        objectives = [each.distilled(t.distillation) for each, t in zip(objectives, teachers, strict=True)]
    prompts = MultitaskPrompt(values, len(tasks)) if parts.decomposition else SharedOnly(values)
    return _train(objectives, prompts, settings, budget.folder, observe)


#: Prompts enter the first layer, as published, unless a name differs. Names are those in results.jsonl.
METHODS: dict[str, Method] = {
    "zero-shot": zero_shot,
    "probe": logistic_probe,
    "prompt-tuning": prompt_tuning,
    "mpt": mpt,
    "mpt-no-distillation": partial(mpt, parts=PLAIN),
    "joint-mpt-no-distillation": partial(mpt, placement=JOINT, parts=PLAIN),
    "every-layer-prompt-tuning": partial(prompt_tuning, placement=ALL_LAYERS),
    "every-layer-mpt": partial(mpt, placement=ALL_LAYERS),
    "every-layer-mpt-no-hidden": partial(mpt, placement=ALL_LAYERS, parts=Parts(hidden=False)),
    "every-layer-mpt-no-sampling": partial(mpt, placement=ALL_LAYERS, parts=Parts(sampling=False)),
    "every-layer-mpt-no-decomposition": partial(mpt, placement=ALL_LAYERS, parts=Parts(decomposition=False)),
    "every-layer-mpt-no-distillation": partial(mpt, placement=ALL_LAYERS, parts=PLAIN),
    "every-layer-mpt-neither": partial(mpt, placement=ALL_LAYERS, parts=Parts(decomposition=False, distillation=False)),
    "every-layer-mpt-only-vectors": partial(
        mpt, placement=ALL_LAYERS, parts=Parts(distillation=False, shared_trained=False)
    ),
    "lora": lora,
    "fine-tuning": fine_tuning,
}

#: Methods that train all tasks together, so that their results depend on the set of tasks.
TOGETHER = tuple(name for name in METHODS if "mpt" in name.split("-"))


def limited(data: TaskData, count: int) -> TaskData:
    """Return a task with at most ``count`` training examples, the same ones for every method and seed."""
    if len(data.train) <= count:
        return data
    return replace(data, train=data.train.take(np.random.default_rng(0).permutation(len(data.train))[:count]))


def _each_alone(
    tasks: Sequence[TaskData],
    budget: Budget,
    observe: Observer,
    fresh: Callable[[], tuple[EncoderBackbone, Prompts]],
    placement: Placement = FIRST_LAYER,
) -> dict[str, float]:
    """Train each task alone, on a fresh backbone and fresh prompts."""
    scores: dict[str, float] = {}
    for task in tasks:
        backbone, prompts = fresh()
        folder, settings = budget.folder / task.recipe.name, budget.settings(tasks_per_step=1)
        scores |= _train([_objective(backbone, task, placement)], prompts, settings, folder, observe)
    return scores


def _train(
    objectives: Sequence[SimilarityObjective], prompts: Prompts, settings: Settings, folder: Path, observe: Observer
) -> dict[str, float]:
    """Train tasks together and return their test scores."""
    Trainer(objectives, prompts, settings, folder, stage=folder.name).train(observe)
    with torch.no_grad():
        return {each.recipe.name: _test(each, prompts(i)) for i, each in enumerate(objectives)}


def _objective(backbone: EncoderBackbone, task: TaskData, placement: Placement = FIRST_LAYER) -> SimilarityObjective:
    return SimilarityObjective(backbone, task, collect_label_texts(backbone, task), placement=placement)


def _test(objective: SimilarityObjective, prompt: Tensor | None) -> float:
    assert objective.data.test is not None
    return objective.score(prompt, objective.data.test)


def unfreeze(model: nn.Module, is_trained: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Return the parameters to train, by name, with gradient."""
    result = {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}
    for parameter in result.values():
        parameter.requires_grad = True
    return result
