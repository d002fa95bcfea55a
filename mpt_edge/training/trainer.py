"""Plain multitask training of a shared prompt and its tasks' vectors, in the prefix layout.

The prompt of a task runs once a step, not once an example. A run can be killed at any moment and
resumed: the schedule is fixed by the seed, randomness within a step by seed and step, and
everything else is in the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge._files import replacing
from mpt_edge.errors import InputError, TrainingError
from mpt_edge.text import Encoded, Text
from mpt_edge.training.backbones import Backbone
from mpt_edge.training.data import TaskData, encode
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.schedule import TaskBatch, multitask_schedule
from mpt_edge.training.similarity import TRAINING_SCALE, LabelTexts, embed, similarities


@dataclass(frozen=True)
class Settings:
    """What a run depends on, besides its data.

    Attributes:
        epochs: passes over the capped mixture.
        batch_size: rows of one batch.
        tasks_per_step: batches, each of one task, whose gradients are averaged in a step.
        rows_per_epoch: most rows of one task in an epoch.
        prompt_rate: learning rate of the shared prompt; 0 freezes it.
        task_rate: learning rate of u and v.
        warmup: share of the steps over which the rates rise from zero; then they fall linearly.
        validation_rows: most validation rows a task that are scored after each epoch.
        seed: fixes start, schedule and sampling.
    """

    epochs: int = 5
    batch_size: int = 32
    tasks_per_step: int = 2
    rows_per_epoch: int = 5000
    prompt_rate: float = 0.01
    task_rate: float = 0.03
    warmup: float = 0.06
    validation_rows: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a run stands, handed to its observer after every step."""

    step: int
    steps: int
    loss: float
    score: float | None


class Trainer:
    """One run: tasks, prompt, optimiser, and the folder that holds its checkpoint and log."""

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[TaskData],
        label_texts: Sequence[Sequence[Sequence[str]]],
        prompt: MultitaskPrompt,
        settings: Settings,
        folder: Path,
    ) -> None:
        """Tokenise everything, draw the schedule, and take up a checkpoint where there is one.

        Args:
            backbone: the frozen encoder.
            tasks: the tasks, in the order of the prompt's u and v.
            label_texts: for each task, each label's texts.
            prompt: what is trained; its shared matrix is frozen where the prompt rate is zero.
            settings: rates, sizes and seed.
            folder: where ``checkpoint.pt`` and ``log.jsonl`` go.

        Raises:
            InputError: the folder holds a run with other data or settings.
        """
        self.backbone, self.tasks, self.prompt = backbone, tasks, prompt
        self.settings, self.folder = settings, folder
        self.max_lengths = [min(task.recipe.max_length, backbone.max_length) for task in tasks]
        self.train_rows = [self.encode(i, task.train.texts) for i, task in enumerate(tasks)]
        self.label_texts = label_texts
        self.labels = [
            LabelTexts.encode(backbone, texts, n) for texts, n in zip(label_texts, self.max_lengths, strict=True)
        ]
        self.schedule = multitask_schedule(
            [np.array([len(row.ids) for row in rows]) for rows in self.train_rows],
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            rows_per_epoch=settings.rows_per_epoch,
            tasks_per_step=settings.tasks_per_step,
            seed=settings.seed,
        )
        prompt.shared.requires_grad_(settings.prompt_rate > 0)
        groups = [{"params": [*prompt.u, *prompt.v], "lr": settings.task_rate}]
        if settings.prompt_rate > 0:
            groups.append({"params": [prompt.shared], "lr": settings.prompt_rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0
        self.best_score = -1.0
        self.best: dict[str, Tensor] = {}
        self.identity = self._identity(label_texts)
        self._resume()

    def train(self, observe: Callable[[Progress], None], checkpoint_seconds: float = 120.0) -> None:
        """Run to the end of the schedule, then put the best validated values into the prompt.

        Raises:
            TrainingError: the loss became NaN; the last checkpoint is kept.
        """
        epoch_steps = -(-len(self.schedule) // self.settings.epochs)
        saved = time.monotonic()
        score: float | None = None
        while self.step < len(self.schedule):
            loss = self._train_step(self.schedule[self.step])
            self.step += 1
            if self.step % epoch_steps == 0 or self.step == len(self.schedule):
                score = self._validate()
            if self.step == len(self.schedule) or time.monotonic() - saved > checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            observe(Progress(self.step, len(self.schedule), loss, score))
        self.prompt.load_state_dict(self.best)

    def encode(self, index: int, texts: Sequence[Text]) -> list[Encoded]:
        """Tokenise texts as one of the tasks reads them."""
        return encode(self.backbone.texts, self.tasks[index].recipe, texts, self.max_lengths[index])

    def accuracy(self, index: int, rows: slice) -> float:
        """Return the accuracy of one task on some of its validation rows."""
        data = self.tasks[index].validation
        encoded = self.encode(index, data.texts[rows])
        with torch.no_grad():
            found = similarities(self.backbone, self.prompt(index), encoded, self.labels[index])
        return float(np.mean(found.argmax(1) == np.array(data.labels[rows])))

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "prompt": self.prompt.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best_score": self.best_score,
            "best": self.best,
        }
        with replacing(self.folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def _train_step(self, batches: Sequence[TaskBatch]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        rng = np.random.default_rng([self.settings.seed, self.step])
        total = 0.0
        for batch in batches:
            loss = self._loss(batch, rng) / len(batches)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss.item()} at step {self.step + 1} on task "
                    f"{self.tasks[batch.task].recipe.name!r} with rates {self.settings.prompt_rate} (prompt) and "
                    f"{self.settings.task_rate} (u, v); start again with lower rates."
                )
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.optimizer.step()
        self.scheduler.step()
        if self.step % 20 == 0:
            self._log({"step": self.step + 1, "loss": round(total, 5), "tasks": [b.task for b in batches]})
        return total

    def _loss(self, batch: TaskBatch, rng: np.random.Generator) -> Tensor:
        """Cross entropy of one task's batch, over all labels or a sample of them."""
        rows = self.train_rows[batch.task]
        gold = np.array([self.tasks[batch.task].train.labels[i] for i in batch.rows])
        past = self.backbone.model.encode_prompt(self.prompt(batch.task)[None])
        texts = embed(self.backbone, [rows[i] for i in batch.rows], past)
        label_rows, present = self.labels[batch.task].sample(gold, rng)
        logits = TRAINING_SCALE * texts @ embed(self.backbone, label_rows, past).T
        targets = torch.from_numpy(np.searchsorted(np.sort(present), gold)).to(logits.device)
        order = torch.from_numpy(np.argsort(present)).to(logits.device)
        return functional.cross_entropy(logits[:, order], targets)

    def _validate(self) -> float:
        rows = slice(0, self.settings.validation_rows)
        scores = [self.accuracy(i, rows) for i in range(len(self.tasks))]
        mean = float(np.mean(scores))
        names = [task.recipe.name for task in self.tasks]
        self._log({"step": self.step, "mean": round(mean, 4), "validation": dict(zip(names, scores, strict=True))})
        if mean > self.best_score:
            self.best_score = mean
            self.best = {key: value.detach().clone() for key, value in self.prompt.state_dict().items()}
        return mean

    def _rate(self, step: int) -> float:
        total = len(self.schedule)
        warm = max(1, int(self.settings.warmup * total))
        return min((step + 1) / warm, (total - step) / max(1, total - warm))

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _identity(self, label_texts: Sequence[Sequence[Sequence[str]]]) -> str:
        """Hash all that a checkpoint depends on, so that it is not continued with something else."""
        parts = [
            json.dumps(asdict(self.settings), sort_keys=True),
            self.backbone.fingerprint,
            repr([(task.recipe, task.labels, task.train, task.validation) for task in self.tasks]),
            json.dumps(label_texts),
            str(tuple(self.prompt.shared.shape)),
        ]
        return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise InputError(f"cannot read {path}; delete it to start the run again.") from error
        if state["identity"] != self.identity:
            raise InputError(
                f"{self.folder} holds a run with other data, settings or backbone; choose another --output, "
                "or delete its checkpoint.pt to start again."
            )
        self.prompt.load_state_dict(state["prompt"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.best_score, self.best = state["step"], state["best_score"], state["best"]
        self._keep_log_until(self.step)

    def _keep_log_until(self, step: int) -> None:
        path = self.folder / "log.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with replacing(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
