"""Training loop: steps, validation, checkpoint and log.

A run can be killed at any moment and resumed with the same result. The seed fixes the schedule, seed
and step fix randomness within a step, and the checkpoint has everything else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt_edge._files import atomic_write
from mpt_edge.errors import InputError, TrainingError
from mpt_edge.training.forecast import Forecast, forecast
from mpt_edge.training.hardware import Hardware
from mpt_edge.training.multitask import Prompts
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.runlog import RunLog
from mpt_edge.training.schedule import TaskBatch, multitask_schedule, stochastic_schedule
from mpt_edge.training.settings import Settings
from mpt_edge.training.torch_files import load_tensors

#: Largest value that files can hold, which are in float16.
_LARGEST = torch.finfo(torch.float16).max

#: Steps from which a run's time and memory are predicted.
_MIN_STEPS = 100

#: Size limit of a checkpoint, in bytes.
_MAX_CHECKPOINT = 2 << 30


@dataclass(frozen=True)
class Progress:
    """State of a run after a step."""

    step: int
    steps: int
    """Number of steps of the whole run."""
    loss: dict[str, float]
    """Loss of the step and its parts, by name."""
    score: float | None
    """Mean validation score of the last epoch; None before the first ends."""
    stage: str = "training"
    forecast: Forecast | None = None
    """Prediction of time and memory, before the first step of a long run; such a progress has no losses."""


#: Called after every step, and before the first one of a long run.
Observer = Callable[[Progress], None]


class Trainer:
    """One run: tasks, prompts, an optimizer, and a folder with checkpoint and log."""

    def __init__(
        self,
        objectives: Sequence[TaskObjective],
        prompts: Prompts,
        settings: Settings,
        folder: Path,
        *,
        stage: str = "training",
    ) -> None:
        """Draw the schedule, and load the checkpoint where there is one.

        Args:
            objectives: the tasks, all on one backbone.
            prompts: the trained values, by the tasks' order.
            settings: learning rates, sizes and seed.
            folder: folder of ``checkpoint.pt`` and ``log.jsonl``.
            stage: name of the run in its progress.

        Raises:
            InputError: the folder holds a run with another initialization, other data or settings.
        """
        self.objectives, self.prompts, self.settings, self.folder = objectives, prompts, settings, folder
        self.stage = stage
        self.hardware = Hardware(settings.precision)
        model = objectives[0].backbone.model
        model.to(self.hardware.device)
        if settings.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        prompts.to(self.hardware.device)
        self.schedule = _schedule(objectives, settings)
        self.optimizer = self.hardware.optimizer(prompts.groups(settings))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.best_score = -np.inf
        self.best: dict[str, Tensor] = {}
        self.identity = self._identity()  # before a checkpoint replaces the first values
        self._resume()
        self.hardware.wait()  # until all processes have read the checkpoint, which the first one will replace
        self.log = RunLog(folder, self.step, writes=self.hardware.main)

    def train(self, observe: Observer, checkpoint_seconds: float = 120.0) -> None:
        """Run to the end of the schedule, then set the prompts to the values of the best epoch, or of the last.

        Raises:
            TrainingError: the loss became NaN, a value became too large for float16, or memory ran out. The last
                checkpoint is kept.
        """
        try:
            self._foretell(observe)
            self._run(observe, checkpoint_seconds)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            size = self.settings.micro_batch_size or self.settings.batch_size
            raise TrainingError(
                f"memory ran out at step {self.step + 1}; start again with a --micro-batch-size below {size}, "
                "--gradient-checkpointing, a shorter prompt (--prompt-length), the prefix layout, or lower max_length "
                "in the recipes."
            ) from error
        finally:
            self.log.close()
        self.prompts.load_state_dict(self.best)

    def save(self) -> None:
        """Write the checkpoint atomically. Of several processes, only the first does."""
        if not self.hardware.main:
            return
        state = {
            "identity": self.identity,
            "step": self.step,
            "prompts": self.prompts.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "hardware": self.hardware.state(),
            "best_score": self.best_score,
            "best": self.best,
        }
        with atomic_write(self.folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def _foretell(self, observe: Observer) -> None:
        """Report a new run's time and memory, unless the measurement would take a large part of it."""
        if self.step or len(self.schedule) < _MIN_STEPS or not self.hardware.main:
            return
        autocast = self.hardware.autocast()
        result = forecast(self.objectives, self.prompts, self.settings, self.schedule, autocast)
        self.optimizer.zero_grad(set_to_none=True)
        observe(Progress(0, len(self.schedule), {}, None, self.stage, result))

    def _run(self, observe: Observer, checkpoint_seconds: float) -> None:
        epoch_steps = -(-len(self.schedule) // self.settings.epochs)
        saved = time.monotonic()
        score: float | None = None
        while self.step < len(self.schedule):
            loss = self._train_step(self.schedule[self.step])
            self.step += 1
            if self.step == len(self.schedule) or (self.step % epoch_steps == 0 and not self.settings.keep_last):
                score = self._validate()
            if self.step == len(self.schedule) or time.monotonic() - saved > checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            observe(Progress(self.step, len(self.schedule), loss, score, self.stage))

    def _train_step(self, batches: Sequence[TaskBatch]) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        for number, batch in self._parts(batches):
            # All parts of a batch draw the same, in whichever process.
            rng = np.random.default_rng([self.settings.seed, self.step, number])
            with self.hardware.autocast():
                loss = self.objectives[batch.task].loss(self.prompts(batch.task), batch, rng)
            if not torch.isfinite(loss.total):
                raise self._diverged(f"the loss became {loss.total.item()}", batch.task)
            self.hardware.backward(loss.total / len(batches))
            for name, value in loss.parts().items():
                parts[name] = parts.get(name, 0.0) + value / len(batches)
        self.hardware.sum_gradients(self.optimizer)
        self.optimizer.step()
        self.scheduler.step()
        for task in {batch.task for batch in batches}:
            if not (largest := self.prompts.largest(task)) <= _LARGEST:
                raise self._diverged(f"a value became {largest:.3g}, more than the files' float16 holds,", task)
        if self.step % 20 == 0:
            rounded = {name: round(value, 5) for name, value in parts.items()}
            self.log.write({"step": self.step + 1, "loss": rounded, "tasks": [b.task for b in batches]})
        return parts

    def _diverged(self, event: str, task: int) -> TrainingError:
        return TrainingError(
            f"{event} at step {self.step + 1} on task {self.objectives[task].recipe.name!r} with learning rates "
            f"{self.settings.prompt_lr} (prompt) and {self.settings.task_lr} (u, v); start again with lower ones."
        )

    def _parts(self, batches: Sequence[TaskBatch]) -> Iterator[tuple[int, TaskBatch]]:
        """Split this process's share of a step into micro batches, each with its batch's number."""
        for number, batch in enumerate(batches):
            mine = self.hardware.share(batch.rows)
            for rows in self.objectives[batch.task].parts(mine, self.settings.micro_batch_size):
                yield number, batch if len(rows) == len(batch.rows) else TaskBatch(batch.task, rows, batch.rows)

    def _validate(self) -> float:
        own = [0.0] * len(self.objectives)
        with torch.no_grad():  # in float32, as the device computes
            for index, objective in enumerate(self.objectives):
                if self.hardware.mine(index):
                    examples = objective.data.validation.sample(self.settings.validation_examples)
                    own[index] = objective.score(self.prompts(index), examples)
        names = [objective.recipe.name for objective in self.objectives]
        scores = dict(zip(names, self.hardware.summed(own), strict=True))
        mean = float(np.mean(list(scores.values())))
        self.log.write({"step": self.step, "mean": round(mean, 4), "validation": scores})
        if mean > self.best_score:
            self.best_score = mean
            self.best = {key: value.detach().clone() for key, value in self.prompts.state_dict().items()}
        return mean

    def _rate(self, step: int) -> float:
        total = len(self.schedule)
        warm = max(1, int(self.settings.warmup * total))
        return min((step + 1) / warm, (total - step) / max(1, total - warm))

    def _identity(self) -> str:
        """Hash all that a checkpoint depends on, first values included, so that no other run continues it."""
        values = self.prompts.state_dict()
        shapes = {key: list(value.shape) for key, value in values.items()}
        # These two change memory and time alone: a run that ran out of memory continues, and finished teachers stay.
        settings = {
            key: value
            for key, value in asdict(self.settings).items()
            if key not in ("micro_batch_size", "gradient_checkpointing")
        }
        parts = json.dumps([settings, [objective.identity() for objective in self.objectives], shapes], sort_keys=True)
        digest = hashlib.sha256(parts.encode())
        for _, value in sorted(values.items()):
            digest.update(value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            return
        try:
            state = load_tensors(path, _MAX_CHECKPOINT, self.hardware.device)
        except ValueError as error:
            raise InputError(f"cannot read {path}; delete it to start the run again.") from error
        if not isinstance(state, dict):
            raise InputError(f"{path} is no checkpoint of a run; delete it to start the run again.")
        if state.get("identity") != self.identity:
            raise InputError(
                f"{self.folder} holds a run with another initialization, other data, settings or backbone; choose "
                "another folder, or delete its checkpoint.pt to start again."
            )
        try:
            self._restore(state)
        except Exception as error:  # PyTorch checks each entry in its own way
            raise InputError(f"{path} is no checkpoint of a run; delete it to start the run again.") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state. Raises ValueError, or an error of PyTorch, for a malformed one."""
        step, score, best = state["step"], state["best_score"], state["best"]
        shapes = {key: value.shape for key, value in self.prompts.state_dict().items()}
        is_finished = type(step) is int and step == len(self.schedule)
        if type(step) is not int or not 0 <= step <= len(self.schedule) or type(score) is not float:
            raise ValueError("the step or the score is impossible")
        if {key: value.shape for key, value in best.items()} != shapes and (best or is_finished):
            raise ValueError("the best values have another shape")
        if not np.isfinite(score) if best else score != -np.inf:
            raise ValueError("the best score has no values")
        self.prompts.load_state_dict(state["prompts"])
        self._restore_optimizer(state["optimizer"], step)
        self.hardware.load_state(state["hardware"])
        self.step, self.best_score, self.best = step, score, best

    def _restore_optimizer(self, state: Mapping[int, Any], step: int) -> None:
        """Continue with an optimizer's moments. Its rates follow from the settings and the step."""
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        for parameter, values in self.optimizer.state.items():
            shapes = {name: value.shape for name, value in values.items()}
            if shapes != {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
                raise ValueError("the optimizer's values have another shape")
        self.scheduler.last_epoch = step
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = rate * self._rate(step)


def _out_of_memory(error: RuntimeError) -> bool:
    # On a CPU the allocator raises a bare RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _schedule(objectives: Sequence[TaskObjective], settings: Settings) -> list[list[TaskBatch]]:
    lengths = [objective.train_lengths for objective in objectives]
    sizes = {"epochs": settings.epochs, "examples_per_epoch": settings.examples_per_epoch, "seed": settings.seed}
    if settings.max_tasks:
        rows = settings.batch_size * settings.tasks_per_step
        return stochastic_schedule(lengths, rows_per_step=rows, max_tasks=settings.max_tasks, **sizes)
    return multitask_schedule(lengths, batch_size=settings.batch_size, tasks_per_step=settings.tasks_per_step, **sizes)
