"""Training runs of seconds on the small encoder, which tests stop, resume and inspect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.initialization import sample_vocabulary
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.settings import Settings
from mpt_edge.training.trainer import Progress, Trainer

SETTINGS = Settings(
    epochs=3,
    batch_size=4,
    tasks_per_step=2,
    max_tasks=0,
    examples_per_epoch=40,
    prompt_lr=0.01,
    task_lr=0.03,
    validation_examples=8,
)

THINGS = ("film", "movie", "ball", "game", "vote", "law", "party", "atom", "cell", "star", "sport", "text")


def toy(name: str, low: tuple[str, ...], high: tuple[str, ...], rows: int = 24) -> TaskData:
    """Return a separable task: one of two groups of words decides the label."""
    texts, labels = [], []
    for i in range(rows):
        words = (low, high)[i % 2]
        texts.append(f"the {words[i // 2 % len(words)]} {THINGS[i * 5 % len(THINGS)]}")
        labels.append(i % 2)
    half = Examples(texts[: rows // 2], labels[: rows // 2])
    return TaskData(Recipe(name, "t", "v", max_length=16), ("low", "high"), Examples(texts, labels), half, None)


def trainer(backbone: EncoderBackbone, folder: Path, settings: Settings = SETTINGS, **changes: object) -> Trainer:
    tasks = [toy("mood", ("dull", "bad"), ("witty", "gorgeous")), toy("size", ("a",), ("great",), rows=16)]
    values = {
        "tasks": tasks,
        "label_texts": [[["sport"], ["vote"]]] * len(tasks),
        "prompts": MultitaskPrompt(sample_vocabulary(backbone, 5, 0), len(tasks)),
        "distillations": [None] * len(tasks),
    } | changes
    parts = zip(values["tasks"], values["label_texts"], values["distillations"], strict=False)
    objectives = [SimilarityObjective(backbone, *each) for each in parts]
    return Trainer(objectives, values["prompts"], settings, folder)


def state(run: Trainer) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in run.prompts.state_dict().items()}


def killed(run: Trainer, save_at: int, stop_at: int) -> Callable[[Progress], None]:
    def observe(progress: Progress) -> None:
        if progress.step == save_at:
            run.save()
        if progress.step == stop_at:
            raise KeyboardInterrupt

    return observe
