"""Checkpoints of the trainer: a run resumes bit for bit, and continues no run but its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mpt_edge.errors import InputError
from mpt_edge.formats.linear_head import LinearHead, LinearLayer
from mpt_edge.formats.placement import Layout, Placement
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.initialization import sample_vocabulary
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.trainer import Progress, Trainer
from tests.support.runs import SETTINGS, killed, state, toy, trainer
from tests.support.stages import silent

HEAD = LinearHead((LinearLayer(np.ones((2, 32), np.float32), np.zeros(2, np.float32)),))


@pytest.fixture(scope="module")
def uninterrupted(
    tiny: EncoderBackbone, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """Return a finished run, and its first values."""
    run = trainer(tiny, tmp_path_factory.mktemp("whole"))
    first = state(run)
    run.train(silent)
    return run, first


@pytest.mark.parametrize(("save_at", "stop_at"), [(1, 1), (4, 7), (5, 7)])
def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    tiny: EncoderBackbone,
    uninterrupted: tuple[Trainer, dict[str, torch.Tensor]],
    tmp_path: Path,
    save_at: int,
    stop_at: int,
) -> None:
    """Values are the same to the bit, and the log holds each entry once."""
    whole, start = uninterrupted
    assert len(whole.schedule) == 15

    first = trainer(tiny, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        first.train(killed(first, save_at, stop_at))
    torch.manual_seed(stop_at)  # the global generator must not matter
    second = trainer(tiny, tmp_path / "parts")
    assert second.step == save_at
    second.train(silent)

    expected, values = state(whole), state(second)
    assert set(expected) == set(values) == set(start)
    for key, value in expected.items():
        assert torch.equal(value, values[key]), key
        assert not torch.equal(value, start[key]), key
    assert whole.best_score == second.best_score
    assert (tmp_path / "parts/log.jsonl").read_text() == (whole.folder / "log.jsonl").read_text()


def test_log_holds_each_entry_once_after_a_kill_behind_the_checkpoint(tiny: EncoderBackbone, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=5)
    whole = trainer(tiny, tmp_path / "whole", settings)
    whole.train(silent)
    first = trainer(tiny, tmp_path / "parts", settings)
    with pytest.raises(KeyboardInterrupt):
        first.train(killed(first, 20, 22))
    trainer(tiny, tmp_path / "parts", settings).train(silent)
    assert (tmp_path / "parts/log.jsonl").read_text() == (tmp_path / "whole/log.jsonl").read_text()


def test_finished_run_is_not_trained_again(
    tiny: EncoderBackbone, uninterrupted: tuple[Trainer, dict[str, torch.Tensor]]
) -> None:
    first, _ = uninterrupted
    seen: list[Progress] = []
    again = trainer(tiny, first.folder)
    again.train(seen.append)
    assert seen == []
    assert all(torch.equal(value, state(again)[key]) for key, value in state(first).items())


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"task_lr": 0.01}, {"epochs": 4}, {"batch_size": 5}, {"prompt_lr": 0.0}]
)
def test_other_settings_in_the_same_folder(tiny: EncoderBackbone, tmp_path: Path, change: dict[str, float]) -> None:
    trainer(tiny, tmp_path).save()
    with pytest.raises(InputError) as caught:
        trainer(tiny, tmp_path, replace(SETTINGS, **change))
    assert str(tmp_path) in str(caught.value)
    assert "choose another folder" in str(caught.value)


def test_other_backbone_labels_or_length_in_the_same_folder(tiny: EncoderBackbone, tmp_path: Path) -> None:
    trainer(tiny, tmp_path).save()
    changes = [
        {"label_texts": [[["sport"], ["law"]]] * 2},
        {"prompts": MultitaskPrompt(sample_vocabulary(tiny, 6, 0), 2)},
        {"tasks": [toy("mood", ("dull",), ("witty",)), toy("other", ("a",), ("great",), rows=16)]},
    ]
    for change in changes:
        with pytest.raises(InputError, match="other data, settings or backbone"):
            trainer(tiny, tmp_path, **change)
    with pytest.raises(InputError, match="other data, settings or backbone"):
        trainer(replace(tiny, fingerprint="0" * 64), tmp_path)


def test_other_texts_in_the_same_folder(tiny: EncoderBackbone, tmp_path: Path) -> None:
    trainer(tiny, tmp_path).save()
    tasks = [toy("mood", ("atom", "cell"), ("star", "law")), toy("size", ("a",), ("great",), rows=16)]
    with pytest.raises(InputError, match="other data"):
        trainer(tiny, tmp_path, tasks=tasks)


@pytest.mark.parametrize("data", [b"", b"nothing that torch wrote", None])
def test_damaged_checkpoint(tiny: EncoderBackbone, tmp_path: Path, data: bytes | None) -> None:
    trainer(tiny, tmp_path).save()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:400] if data is None else data)
    with pytest.raises(InputError, match=r"checkpoint\.pt; delete it"):
        trainer(tiny, tmp_path)


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(2), "text", None])
def test_a_checkpoint_of_something_else(tiny: EncoderBackbone, tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt is no checkpoint of a run; delete it"):
        trainer(tiny, tmp_path)


#: Every entry of a checkpoint with a value that no run writes; a key that is missing is `MISSING`.
MISSING = object()
ENTRIES = {
    "step": [MISSING, -1, 10_000, 1.0, True, "1", None, torch.ones(1)],
    "best_score": [MISSING, "high", None, 1, float("inf"), float("nan"), -float("inf")],
    "best": [MISSING, [], None, {"u": 1}, {"u": torch.ones(2)}],
    "prompts": [MISSING, {}, [], {"shared": torch.ones(3)}, {"shared": "x"}],
    "optimizer": [MISSING, [], {0: {}}, {0: {"step": torch.ones(())}}, {0: [1]}, "x", None],
    "hardware": [MISSING],
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_that_no_run_writes(tiny: EncoderBackbone, tmp_path: Path, name: str) -> None:
    run = trainer(tiny, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train(killed(run, 6, 7))
    path = tmp_path / "checkpoint.pt"
    good = torch.load(path, weights_only=True)
    for value in ENTRIES[name]:
        changed = {key: item for key, item in (good | {name: value}).items() if item is not MISSING}
        torch.save(changed, path)
        with pytest.raises(InputError, match=r"checkpoint\.pt is no checkpoint of a run; delete it"):
            trainer(tiny, tmp_path)
    torch.save(good, path)
    assert trainer(tiny, tmp_path).step == 6


def test_optimizer_of_other_shapes(tiny: EncoderBackbone, tmp_path: Path) -> None:
    """PyTorch would find them at the next step."""
    run = trainer(tiny, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train(killed(run, 6, 7))
    good = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    good["optimizer"][0]["exp_avg"] = torch.ones(3, 3)
    torch.save(good, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt is no checkpoint of a run; delete it"):
        trainer(tiny, tmp_path)


def test_teachers_are_part_of_what_a_checkpoint_depends_on(tiny: EncoderBackbone, tmp_path: Path) -> None:
    teachers = [Teacher(torch.zeros(5, 32)), Teacher(torch.ones(5, 32))]
    trainer(tiny, tmp_path, distillations=list(map(Distillation, teachers))).save()
    for other in (
        [None, None],
        [Distillation(teacher) for teacher in teachers[::-1]],
        [Distillation(teacher, weight=0.5) for teacher in teachers],
        [Distillation(teacher, temperature=1.0) for teacher in teachers],
        [Distillation(teacher, hidden=False) for teacher in teachers],
        [Distillation(replace(teacher, placement=Placement(Layout.JOINT))) for teacher in teachers],
        [Distillation(replace(teacher, head=HEAD, outputs=(0, 1))) for teacher in teachers],
    ):
        with pytest.raises(InputError, match="other data, settings or backbone"):
            trainer(tiny, tmp_path, distillations=other)


@pytest.mark.parametrize("max_tasks", [0, 2])
def test_a_distilled_run_resumes_like_any_other(tiny: EncoderBackbone, tmp_path: Path, max_tasks: int) -> None:
    settings = replace(SETTINGS, max_tasks=max_tasks)
    values = [torch.randn(5, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    teachers = [Distillation(Teacher(prompt)) for prompt in values]
    whole = trainer(tiny, tmp_path / "whole", settings, distillations=teachers)
    whole.train(silent)
    first = trainer(tiny, tmp_path / "parts", settings, distillations=teachers)
    with pytest.raises(KeyboardInterrupt):
        first.train(killed(first, 3, 5))
    second = trainer(tiny, tmp_path / "parts", settings, distillations=teachers)
    second.train(silent)
    assert all(torch.equal(value, state(second)[key]) for key, value in state(whole).items())


def test_a_run_goes_on_with_less_at_once(tiny: EncoderBackbone, tmp_path: Path) -> None:
    """As the error for too little memory advises: the same folder, smaller micro batches."""
    run = trainer(tiny, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train(killed(run, 3, 5))
    run = trainer(tiny, tmp_path, replace(SETTINGS, micro_batch_size=2, gradient_checkpointing=True))
    assert run.step == 3
    with pytest.raises(InputError, match="holds a run with"):
        trainer(tiny, tmp_path, replace(SETTINGS, batch_size=SETTINGS.batch_size + 1))


def test_another_initialization_in_the_same_folder(tiny: EncoderBackbone, tmp_path: Path) -> None:
    """The shapes agree, and the checkpoint would return the result of the other initialization."""
    trainer(tiny, tmp_path).save()
    moved = MultitaskPrompt(sample_vocabulary(tiny, 5, 0), 2)
    moved.set_vectors(1, torch.full((5,), 2.0), torch.ones(32))
    for prompts in (moved, MultitaskPrompt(sample_vocabulary(tiny, 5, 1), 2)):
        with pytest.raises(
            InputError, match=r"another initialization.*; choose another folder, or delete its checkpoint"
        ):
            trainer(tiny, tmp_path, prompts=prompts)
    trainer(tiny, tmp_path)
