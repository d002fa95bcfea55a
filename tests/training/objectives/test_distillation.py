"""Parts of a distilled loss against plain formulas, and a teacher's head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from mpt_edge.formats.linear_head import LinearHead, LinearLayer
from mpt_edge.training.objectives.distillation import Teacher, distilled_loss, hidden_loss, logit_loss
from mpt_edge.training.settings import DistillationSettings


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_logit_loss_is_the_divergence_from_the_teacher(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 6, 4))
    log_s, log_t = log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1)
    expected = temperature**2 * np.mean(np.sum(np.exp(log_t) * (log_t - log_s), 1))
    loss = logit_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(logit_loss(torch.tensor(teacher), torch.tensor(teacher), temperature)) == pytest.approx(0, abs=1e-9)


def test_hidden_loss_counts_visible_tokens_only() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, (2, 2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    expected = np.mean([np.mean((one[r, t] - two[r, t]) ** 2) for r, t in ((0, 0), (0, 1), (1, 0))])
    assert float(hidden_loss(*map(torch.tensor, (one, two, mask)))) == pytest.approx(expected)


@pytest.mark.parametrize("hidden", [True, False])
def test_shares_weigh_each_part(hidden: bool) -> None:
    rng = np.random.default_rng(0)
    logits, states = torch.tensor(rng.normal(0, 1, (2, 4, 3))), torch.tensor(rng.normal(0, 1, (2, 4, 2, 5)))
    mask, task = torch.ones(4, 2), torch.tensor(2.0)
    settings = DistillationSettings(weight=0.5, temperature=1.0, hidden=hidden)
    loss = distilled_loss(task, (logits[0], states[0]), (logits[1], states[1]), mask, settings, (0.25, 0.5))
    answers, distance = 0.25 * logit_loss(*logits, 1.0), 0.5 * hidden * hidden_loss(*states, mask)
    assert loss.parts() == pytest.approx(
        {
            "task": 0.5,
            "logits": float(answers),
            "hidden": float(distance),
            "total": 0.5 + 0.5 * float(answers + distance),
        }
    )


def test_a_head_answers_in_the_order_of_the_labels() -> None:
    head = LinearHead((LinearLayer(np.eye(3, dtype=np.float32), np.zeros(3, np.float32)),))
    teacher = Teacher(torch.zeros(2, 3), head=head, outputs=(2, 0, 1))
    states = torch.tensor([[1.0, 2.0, 3.0]])
    assert teacher.answers(states, np.arange(3)).tolist() == [[3, 1, 2]]
    assert teacher.answers(states, np.array([2])).tolist() == [[2]]
