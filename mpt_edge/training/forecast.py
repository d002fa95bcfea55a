"""Time and memory of a run, predicted before it starts."""

from __future__ import annotations

import contextlib
import mmap
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt_edge.training.multitask import Prompts
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import Settings

#: Time of a forward pass alone, in forward and backward passes: weights get no gradient.
_FORWARD = 0.5

#: Memory of a pass while it runs, in that of the tensors that it keeps for its backward pass.
_WORKING = 1.25


@dataclass(frozen=True)
class Forecast:
    """Prediction of a run's training and validation."""

    seconds: float
    peak_bytes: int | None
    """Peak memory of the process; None where an accelerator has its own, or the system does not tell."""

    def __str__(self) -> str:
        """Return both, rounded, as part of a sentence."""
        minutes = self.seconds / 60
        text = f"about {minutes:.0f} min" if minutes >= 2 else f"about {self.seconds:.0f} s"
        return text if self.peak_bytes is None else f"{text} and {self.peak_bytes / 1e9:.1f} GB of memory"


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass of a schedule."""

    batch: TaskBatch
    tokens: int
    """Tokens, padding included."""


def forecast(
    objectives: Sequence[TaskObjective],
    prompts: Prompts,
    settings: Settings,
    schedule: Iterable[Sequence[TaskBatch]],
    autocast: AbstractContextManager[None],
) -> Forecast:
    """Time one typical pass of a run, and extrapolate it to all of its tokens.

    Gradients are left behind, for the caller to drop.

    Args:
        objectives: the tasks.
        prompts: the trained values.
        settings: epochs, sizes of passes, and number of validation examples.
        schedule: the run's steps.
        autocast: context of the forward pass.
    """
    passes = _passes(objectives, settings, schedule)
    passes.sort(key=lambda each: each.tokens)
    before = _resident_bytes()
    with autocast:
        _measure(objectives, prompts, passes[0])  # loads code and weights
        typical = passes[len(passes) // 2]
        seconds, kept = _measure(objectives, prompts, typical)
    each = seconds / typical.tokens
    trained = sum(part.tokens for part in passes)
    validated = settings.epochs * sum(_validation_tokens(objective, settings) for objective in objectives)
    peak = before + int(_WORKING * kept * passes[-1].tokens / typical.tokens)
    is_known = _device(objectives[0]).type == "cpu" and before > 0
    return Forecast(each * (trained + _FORWARD * validated), max(peak, _peak_bytes()) if is_known else None)


def _passes(
    objectives: Sequence[TaskObjective], settings: Settings, schedule: Iterable[Sequence[TaskBatch]]
) -> list[_Pass]:
    lengths = [objective.train_lengths for objective in objectives]
    return [
        _Pass(TaskBatch(batch.task, rows, batch.rows), int(lengths[batch.task][rows].max()) * len(rows))
        for step in schedule
        for batch in step
        for rows in objectives[batch.task].parts(batch.rows, settings.micro_batch_size)
    ]


def _validation_tokens(objective: TaskObjective, settings: Settings) -> float:
    count = min(settings.validation_examples, len(objective.data.validation))
    return count * float(objective.train_lengths.mean())


def _measure(objectives: Sequence[TaskObjective], prompts: Prompts, part: _Pass) -> tuple[float, int]:
    """Return the seconds of a pass, and the bytes that it keeps for its backward pass."""
    objective, task = objectives[part.batch.task], part.batch.task
    kept = _Kept(objective.backbone.model)
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(kept.count, lambda tensor: tensor):
        loss = objective.loss(prompts(task), part.batch, np.random.default_rng(0)).total
    torch.autograd.backward(loss)
    float(loss.detach())  # waits for an accelerator
    return time.perf_counter() - start, kept.total


class _Kept:
    """Bytes of the arrays that autograd keeps, each once, without the model's weights."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.total = 0

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def _device(objective: TaskObjective) -> Any:
    return next(objective.backbone.model.parameters()).device


def _peak_bytes() -> int:
    """Return the peak memory so far; 0 on Windows."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def _resident_bytes() -> int:
    """Return the memory in use now; the peak so far where the system does not tell."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
        return int(pages) * mmap.PAGESIZE
    return _peak_bytes()
