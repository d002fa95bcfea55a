"""The loop that trains prompts: steps, validation, checkpoint, log.

A run can be killed at any moment and resumed with the same result: the schedule is fixed by the
seed, randomness within a step by seed and step, and everything else is in the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpt_edge._files import atomic_write
from mpt_edge.errors import InputError, TrainingError
from mpt_edge.training.hardware import Hardware
from mpt_edge.training.multitask import Prompts
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.runlog import RunLog
from mpt_edge.training.schedule import TaskBatch, multitask_schedule, stochastic_schedule
from mpt_edge.training.settings import Settings

#: Vectors and trained prompts are written in float16.
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Progress:
    """Where a run stands, handed to its observer after every step."""

    step: int
    steps: int
    loss: dict[str, float]
    score: float | None
    stage: str = "training"


class Trainer:
    """One run: an objective, prompts, an optimizer, and the folder that holds its checkpoint and log."""

    def __init__(
        self, objective: TaskObjective, prompts: Prompts, settings: Settings, folder: Path, *, stage: str = "training"
    ) -> None:
        """Draw the schedule, and take up a checkpoint where there is one.

        Args:
            objective: tasks and loss.
            prompts: what is trained, in the order of the objective's tasks.
            settings: rates, sizes and seed.
            folder: where ``checkpoint.pt`` and ``log.jsonl`` go.
            stage: what to call the run in its progress.

        Raises:
            InputError: the folder holds a run with another start, other data or settings.
        """
        self.objective, self.prompts, self.settings, self.folder = objective, prompts, settings, folder
        self.stage = stage
        self.hardware = Hardware(settings.precision)
        objective.backbone.model.to(self.hardware.device)
        if settings.gradient_checkpointing:
            objective.backbone.model.enable_gradient_checkpointing()
        prompts.to(self.hardware.device)
        self.schedule = _schedule(objective, settings)
        self.optimizer = self.hardware.optimizer(prompts.groups(settings.prompt_lr, settings.task_lr))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.best_score = -np.inf
        self.best: dict[str, Tensor] = {}
        self.identity = self._identity()  # before a checkpoint replaces the start values
        self._resume()
        self.hardware.wait()  # until all have read the checkpoint that the first will replace
        self.log = RunLog(folder, self.step, writes=self.hardware.main)

    def train(self, observe: Callable[[Progress], None], checkpoint_seconds: float = 120.0) -> None:
        """Run to the end of the schedule, then put the values to keep into the prompts: of the best epoch, or the last.

        Raises:
            TrainingError: the loss became NaN, a value too large for float16, or memory ran out; the last checkpoint
                is kept.
        """
        try:
            self._run(observe, checkpoint_seconds)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            most = self.settings.micro_batch_size or self.settings.batch_size
            raise TrainingError(
                f"memory ran out at step {self.step + 1}; start again with a --micro-batch-size below {most}, "
                "--gradient-checkpointing, a shorter prompt (--length), the prefix layout, or lower max_length in the recipes."
            ) from error
        finally:
            self.log.close()
        self.prompts.load_state_dict(self.best)

    def save(self) -> None:
        """Write the checkpoint, atomically; of several processes the first one does."""
        if not self.hardware.main:
            return
        state = {
            "identity": self.identity,
            "step": self.step,
            "prompts": self.prompts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "hardware": self.hardware.state(),
            "best_score": self.best_score,
            "best": self.best,
        }
        with atomic_write(self.folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def _run(self, observe: Callable[[Progress], None], checkpoint_seconds: float) -> None:
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
            # All parts of a batch, in whichever process, draw the same.
            rng = np.random.default_rng([self.settings.seed, self.step, number])
            with self.hardware.autocast():
                loss = self.objective.loss(self.prompts(batch.task), batch, rng)
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

    def _diverged(self, what: str, task: int) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.step + 1} on task {self.objective.tasks[task].recipe.name!r} with rates "
            f"{self.settings.prompt_lr} (prompt) and {self.settings.task_lr} (u, v); start again with lower rates."
        )

    def _parts(self, batches: Sequence[TaskBatch]) -> Iterator[tuple[int, TaskBatch]]:
        """Cut this process's share of a step into what is read at once, each with its batch's number."""
        for number, batch in enumerate(batches):
            mine = self.hardware.share(batch.rows)
            size = self.settings.micro_batch_size or len(batch.rows)
            for start in range(0, len(mine), size):
                rows = mine[start : start + size]
                yield number, batch if len(rows) == len(batch.rows) else TaskBatch(batch.task, rows, batch.rows)

    def _validate(self) -> float:
        found = [0.0] * len(self.objective.tasks)
        with torch.no_grad():  # in float32, as the device computes
            for index, task in enumerate(self.objective.tasks):
                if self.hardware.mine(index):
                    rows = task.validation.sample(self.settings.validation_rows)
                    found[index] = self.objective.score(index, self.prompts(index), rows)
        names = [task.recipe.name for task in self.objective.tasks]
        scores = dict(zip(names, self.hardware.summed(found), strict=True))
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
        """Hash all that a checkpoint depends on, start values included, so that nothing else continues it."""
        start = self.prompts.state_dict()
        shapes = {key: list(value.shape) for key, value in start.items()}
        # How much is read at once, and whether activations are kept, change memory and time alone: a run that ran out
        # of memory goes on, and finished teachers stay.
        settings = {
            key: value
            for key, value in asdict(self.settings).items()
            if key not in ("micro_batch_size", "gradient_checkpointing")
        }
        parts = json.dumps([settings, self.objective.identity(), shapes], sort_keys=True)
        digest = hashlib.sha256(parts.encode())
        for _, value in sorted(start.items()):
            digest.update(value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True, map_location=self.hardware.device)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise InputError(f"cannot read {path}; delete it to start the run again.") from error
        if not isinstance(state, dict):
            raise InputError(f"{path} is no checkpoint of a run; delete it to start the run again.")
        if state.get("identity") != self.identity:
            raise InputError(
                f"{self.folder} holds a run with another start, other data, settings or backbone; choose another "
                "folder, or delete its checkpoint.pt to start again."
            )
        self.prompts.load_state_dict(state["prompts"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.hardware.load_state(state["hardware"])
        self.step, self.best_score, self.best = state["step"], state["best_score"], state["best"]


def _out_of_memory(error: RuntimeError) -> bool:
    # On a CPU the allocator raises a bare RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _schedule(objective: TaskObjective, settings: Settings) -> list[list[TaskBatch]]:
    lengths = [np.array([len(row.ids) for row in rows]) for rows in objective.train_rows]
    sizes = {"epochs": settings.epochs, "examples_per_epoch": settings.examples_per_epoch, "seed": settings.seed}
    if settings.max_tasks:
        rows = settings.batch_size * settings.tasks_per_step
        return stochastic_schedule(lengths, rows_per_step=rows, max_tasks=settings.max_tasks, **sizes)
    return multitask_schedule(lengths, batch_size=settings.batch_size, tasks_per_step=settings.tasks_per_step, **sizes)
