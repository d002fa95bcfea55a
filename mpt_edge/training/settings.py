"""What a training run can be told; free of PyTorch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run depends on, besides its data.

    The defaults are those of `mpt-edge train source`, which reads them here.

    Attributes:
        epochs: passes over the capped mixture.
        batch_size: rows of one task's batch.
        micro_batch_size: most rows that are read at once; a larger batch is read in parts whose gradients
            add up, which needs less memory. 0 reads a batch whole.
        tasks_per_step: batches, each of one task, whose gradients are averaged in a step.
        max_tasks: κ of stochastic task sampling: the rows of a step are split over K tasks, K
            drawn uniformly from [2, κ]; 0 takes `tasks_per_step` batches instead.
        examples_per_epoch: most rows of one task in an epoch.
        prompt_lr: learning rate of the shared prompt; 0 freezes it.
        task_lr: learning rate of u and v.
        warmup: share of the steps over which the rates rise from zero; then they fall linearly.
        validation_rows: most validation rows a task, a fixed sample of each label, that are scored after each epoch.
        keep_last: keep the values of the last step and not of the best epoch: a handful of validation rows chooses
            by chance.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``; empty for what `accelerate launch` was told.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        seed: fixes start, schedule and sampling.
    """

    epochs: int = 5
    batch_size: int = 32
    micro_batch_size: int = 0
    tasks_per_step: int = 2
    max_tasks: int = 4
    examples_per_epoch: int = 5000
    prompt_lr: float = 0.02
    task_lr: float = 0.03
    warmup: float = 0.06
    validation_rows: int = 500
    keep_last: bool = False
    precision: str = ""
    gradient_checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """How much teachers count for a student.

    Attributes:
        weight: λ of equation 5; the paper's is 0.9.
        temperature: T of equation 3, which the paper does not state.
        hidden: whether hidden states are distilled too (equation 4).
    """

    weight: float = 0.9
    temperature: float = 2.0
    hidden: bool = True


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """How teachers are trained, and what they count for.

    Attributes:
        folder: where each task's teacher is kept; one that is finished is used again.
        epochs: passes over a task's capped rows.
        rate: learning rate of a teacher's prompt.
        distillation: what the teachers count for.
    """

    folder: Path
    epochs: int = 3
    rate: float = 0.02
    distillation: DistillationSettings = field(default_factory=DistillationSettings)


class Precision(StrEnum):
    """What forward and backward compute in; prompts and their optimizer stay in float32."""

    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"


class Trained(StrEnum):
    """What the target stage trains.

    Attributes:
        VECTORS: u and v on the frozen shared prompt: the two-vector task.
        PROMPT: u, v and a copy of the shared prompt a task, as published; the task carries it.
        GROUP: u and v a task and one copy of the shared prompt for all of them (MPT*).
    """

    VECTORS = "vectors"
    PROMPT = "prompt"
    GROUP = "group"
