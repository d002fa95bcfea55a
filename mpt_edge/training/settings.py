"""Options of training runs; free of PyTorch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class MixedPrecision(StrEnum):
    """Precision of forward and backward; prompts and their optimizer stay in float32."""

    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"


class Trained(StrEnum):
    """Parameters that the target stage trains.

    ``vectors``: u and v of each task, on the frozen shared prompt. ``prompt``: u, v and a copy of the
    shared prompt for each task, as published; the task carries it. ``group``: u and v of each task, and
    one copy of the shared prompt for all of them (MPT*).
    """

    VECTORS = "vectors"
    PROMPT = "prompt"
    GROUP = "group"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a run besides its data.

    The defaults are those of `mpt-edge train source`, which reads them here.
    """

    epochs: int = 5
    """Passes over the capped mixture."""
    batch_size: int = 32
    """Examples of one task's batch."""
    micro_batch_size: int | None = None
    """Maximum number of examples per forward; gradients of a larger batch are accumulated. None for no limit."""
    tasks_per_step: int = 2
    """Batches, each of one task, whose gradients are averaged in a step."""
    max_tasks: int = 4
    """κ of stochastic task sampling: a step's examples are split over K tasks, K drawn uniformly from [2, κ].
    With 0, a step takes `tasks_per_step` batches instead."""
    examples_per_epoch: int = 5000
    """Maximum number of examples of one task in an epoch."""
    prompt_lr: float = 0.02
    """Learning rate of the shared prompt; 0 freezes it."""
    task_lr: float = 0.03
    """Learning rate of u and v."""
    label_lr: float = 0.003
    """Learning rate of label vectors."""
    warmup: float = 0.06
    """Share of the steps over which the learning rates rise from zero; then they fall linearly."""
    validation_examples: int = 500
    """Maximum number of validation examples per task that are scored after each epoch."""
    keep_last: bool = False
    """Whether to keep the last step instead of the best epoch. A few validation examples choose by chance."""
    precision: MixedPrecision | None = None
    """Mixed precision; None for the setting of `accelerate launch`."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass instead of keeping them."""
    seed: int = 0
    """Random seed of initialization, schedule and sampling."""


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """Weight of teachers in a student's loss."""

    weight: float = 0.9
    """λ of equation 5; 0.9 in the paper."""
    temperature: float = 2.0
    """T of equation 3, which the paper does not state."""
    hidden: bool = True
    """Whether to distill hidden states too (equation 4)."""


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """Options of training teachers, and their weight."""

    folder: Path
    """Folder of the teachers; finished ones are used again."""
    epochs: int = 3
    """Passes over a task's capped examples."""
    lr: float = 0.02
    """Learning rate of a teacher's prompt."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """Weight of the teachers in the loss."""
