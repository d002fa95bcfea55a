"""Predicted time and memory of a run, against counts by hand and PyTorch's own arrays."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mpt_edge.training import forecast as module
from mpt_edge.training import trainer as trainer_module
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.forecast import Forecast, forecast
from mpt_edge.training.initialization import sample_vocabulary
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import Settings
from mpt_edge.training.trainer import Progress, Trainer
from tests.support.runs import toy

SETTINGS = Settings(epochs=3, batch_size=4, tasks_per_step=1, max_tasks=0, validation_examples=5)


def objective(tiny: EncoderBackbone) -> SimilarityObjective:
    return SimilarityObjective(tiny, toy("mood", ("dull", "bad"), ("witty",), rows=12), [["bad"], ["good"]])


def test_one_pass_is_extrapolated_to_all_tokens(tiny: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    task = objective(tiny)
    lengths = np.array([len(row.ids) for row in task.train_rows])
    monkeypatch.setattr(module, "_measure", lambda _, __, part: (part.tokens * 0.5, part.tokens << 30))
    batches = [TaskBatch(0, np.arange(start, start + 4)) for start in (0, 4, 8)]
    prompts = MultitaskPrompt(sample_vocabulary(tiny, 3, 0), 1)
    result = forecast([task], prompts, SETTINGS, [batches[:2], batches[2:]], nullcontext())
    padded = [4 * int(lengths[batch.rows].max()) for batch in batches]
    validated = 3 * 5 * lengths.mean()
    assert result.seconds == pytest.approx(0.5 * (sum(padded) + validated / 2))
    assert result.peak_bytes is not None
    more = result.peak_bytes / (1.25 * (max(padded) << 30)) - 1
    assert 0 <= more < 0.1  # what the process had before


def test_kept_arrays_are_counted_once_and_weights_never() -> None:
    layer = nn.Linear(8, 8).requires_grad_(requires_grad=False)
    kept = module._Kept(layer)
    read = torch.ones(4, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.count, lambda tensor: tensor):
        result = layer(read).exp()  # keeps the layer's weights, and its own result
        (result * result).sum().backward()  # keeps the same result twice
    assert kept.total == 4 * 8 * 4


@pytest.mark.parametrize(
    ("seconds", "peak", "text"),
    [
        (1500.0, 2_140_000_000, "about 25 min and 2.1 GB of memory"),
        (59.6, None, "about 60 s"),
    ],
)
def test_text(seconds: float, peak: int | None, text: str) -> None:
    assert str(Forecast(seconds, peak)) == text


def test_long_runs_are_predicted_and_stay_the_same(
    tiny: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = []
    for name, steps in (("short", 1000), ("long", 2)):
        monkeypatch.setattr(trainer_module, "_MIN_STEPS", steps)
        prompts = MultitaskPrompt(sample_vocabulary(tiny, 3, 0), 1)
        seen: list[Progress] = []
        Trainer([objective(tiny)], prompts, SETTINGS, tmp_path / name).train(seen.append)
        assert [p.step for p in seen if p.forecast is None] == list(range(1, 10))
        assert [p.step for p in seen if p.forecast is not None] == ([0] if name == "long" else [])
        values.append(prompts.u[0].detach())
    assert torch.equal(*values)
