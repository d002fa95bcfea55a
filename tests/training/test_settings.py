"""Defaults stand in one place, so that a call from Python trains as the command does."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

from mpt_edge.cli import train
from mpt_edge.training.settings import DistillationSettings, Settings, TeacherPlan


def test_train_source_has_the_defaults_of_settings() -> None:
    given = {name: parameter.default for name, parameter in inspect.signature(train.source).parameters.items()}
    shared = [field.name for field in fields(Settings) if field.name in given]
    assert {"epochs", "batch_size", "max_tasks", "examples_per_epoch", "prompt_lr", "task_lr"} <= set(shared)
    for name in shared:
        assert (given[name] or "") == (getattr(Settings(), name) or ""), name
    plan = TeacherPlan(folder=Path())
    assert (given["teacher_epochs"], given["teacher_lr"]) == (plan.epochs, plan.rate)


def test_both_stages_listen_to_teachers_alike() -> None:
    for stage in (train.source, train.target):
        given = inspect.signature(stage).parameters
        found = DistillationSettings(
            **{name: given[name].default for name in ("temperature", "hidden")}, weight=given["distill"].default
        )
        assert found == DistillationSettings()
