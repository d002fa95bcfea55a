"""Defaults have one place, so that a call from Python trains as the command does."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

from mpt_edge.cli import train
from mpt_edge.training.settings import DistillationSettings, Settings, TeacherPlan


def test_train_source_has_the_defaults_of_settings() -> None:
    options = {name: parameter.default for name, parameter in inspect.signature(train.source).parameters.items()}
    shared = [field.name for field in fields(Settings) if field.name in options]
    assert {"epochs", "batch_size", "max_tasks", "examples_per_epoch", "prompt_lr", "task_lr"} <= set(shared)
    for name in shared:
        assert options[name] == getattr(Settings(), name), name
    plan = TeacherPlan(folder=Path())
    assert (options["teacher_epochs"], options["teacher_lr"]) == (plan.epochs, plan.lr)


def test_both_stages_weigh_teachers_alike() -> None:
    for stage in (train.source, train.target):
        options = {name: parameter.default for name, parameter in inspect.signature(stage).parameters.items()}
        distillation = DistillationSettings(
            weight=options["distill"], temperature=options["distill_temperature"], hidden=options["distill_hidden"]
        )
        assert distillation == DistillationSettings()
