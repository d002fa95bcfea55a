"""The prompt algebra that is trained, against plain tensor products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt_edge.errors import TrainingError
from mpt_edge.training.multitask import MultitaskPrompt, PlainPrompts, balance, layer_units
from mpt_edge.training.quantized_labels import QuantizedLabels
from mpt_edge.training.settings import Settings


def test_composed_prompt_scales_rows_by_u_and_channels_by_v() -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    prompt = MultitaskPrompt(shared, 2)
    assert torch.equal(prompt(1), shared)
    with torch.no_grad():
        prompt.u[1].copy_(torch.tensor([2.0, 3.0]))
        prompt.v[1].copy_(torch.tensor([1.0, 10.0, 100.0]))
    expected = torch.diag(prompt.u[1]) @ shared @ torch.diag(prompt.v[1])
    assert torch.equal(prompt(1), expected)
    assert torch.equal(prompt(0), shared)


@pytest.mark.parametrize(("factor", "sign"), [(1.0, 1.0), (250.0, 1.0), (0.01, -1.0), (3.0, -1.0)])
def test_balanced_vectors_compose_the_same_prompt_however_they_were_scaled(factor: float, sign: float) -> None:
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(7, generator=generator) + 1, torch.randn(5, generator=generator)
    expected = torch.outer(u, v)
    result_u, result_v = balance(u * factor * sign, v / factor / sign)
    assert torch.allclose(torch.outer(result_u, result_v), expected, rtol=1e-4, atol=1e-5)
    assert result_u.square().mean() == pytest.approx(float(result_v.square().mean()), rel=1e-4)
    assert float(result_u.sum()) >= 0
    plain_u, plain_v = balance(u, v)
    assert torch.allclose(result_u, plain_u, rtol=1e-4)
    assert torch.allclose(result_v, plain_v, rtol=1e-4)


def test_zero_vectors_stay_finite() -> None:
    u, v = balance(torch.zeros(3), torch.ones(4))
    assert torch.isfinite(u).all()
    assert torch.isfinite(v).all()
    assert torch.equal(torch.outer(u, v), torch.zeros(3, 4))


def test_balance_leaves_every_composed_prompt_as_it_was() -> None:
    prompts = MultitaskPrompt(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), 2)
    prompts.set_vectors(1, -3.0 * torch.arange(1.0, 7.0), torch.tensor([1.0, -2.0, 0.5, 4.0]))
    before = [prompts(task).detach().clone() for task in range(2)]
    prompts.balance_vectors()
    for task in range(2):
        assert torch.allclose(prompts(task), before[task], rtol=1e-5)
        assert prompts.u[task].sum() >= 0


def test_rounding_refuses_what_float16_does_not_hold() -> None:
    prompts = MultitaskPrompt(torch.full((2, 3), 7e4), 1)
    with pytest.raises(TrainingError, match=r"7e\+04, more than float16 holds; start again with lower learning rates"):
        prompts.round_to_half()
    prompts.scaled.requires_grad_(requires_grad=False)  # its file stays as it is
    prompts.round_to_half()
    assert torch.equal(prompts.shared, torch.full((2, 3), 7e4))


def test_plain_prompts_are_trained_at_the_prompts_learning_rate() -> None:
    values = [torch.zeros(2, 3), torch.ones(4, 3)]
    prompts = PlainPrompts(values)
    assert torch.equal(prompts(0), values[0])
    assert torch.equal(prompts(1), values[1])
    (group,) = prompts.groups(Settings(prompt_lr=0.25, task_lr=0.5))
    assert group["lr"] == 0.25
    assert [tuple(parameter.shape) for parameter in group["params"]] == [(2, 3), (4, 3)]


@pytest.mark.parametrize("levels", [2, 256])
def test_label_vectors_are_too_large_before_their_steps_are(levels: int) -> None:
    """A step that float16 has no room for has no sentence of its own."""
    prompts = MultitaskPrompt(torch.ones(2, 3), 1)
    labels = QuantizedLabels(torch.tensor([[16_000.0] * 3, [-16_000.0] * 3]), levels)
    prompts.add_labels(0, labels)
    assert prompts.largest(0) < torch.finfo(torch.float16).max
    assert np.isfinite(labels.rounded().steps).all()
    with torch.no_grad():
        labels.vectors *= 3
    assert prompts.largest(0) > torch.finfo(torch.float16).max


def layered() -> torch.Tensor:
    """Return values ``(3, 4, 5)`` that grow from layer to layer, with one massive token."""
    values = (
        torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 0.2, 130.0])[:, None]
    )
    values[0, 1] = 25_000.0
    return values


def test_units_are_the_layers_sizes_beside_an_encoders_and_change_no_value() -> None:
    values = layered()
    assert layer_units(values[:, 0]).tolist() == [[1.0]]
    units = layer_units(values)
    assert torch.equal(torch.frexp(units).mantissa, torch.full((4, 1), 0.5))
    sizes = values.square().mean(-1).sqrt().median(0).values
    ratio = units[:, 0] / (sizes / 0.5)
    assert (ratio > 2**-0.51).all()
    assert (ratio < 2**0.51).all()
    assert layer_units(values * (0.45 / sizes[:, None])).tolist() == [[1.0]] * 4
    assert torch.equal(MultitaskPrompt(values, 1).shared, values)
    assert torch.equal(PlainPrompts([values])(0), values)


def test_a_step_moves_each_layer_by_its_unit() -> None:
    values, settings = layered(), Settings(prompt_lr=0.25, task_lr=0.0)
    for prompts in (MultitaskPrompt(values, 1), PlainPrompts([values])):
        prompt = prompts(0)
        optimizer = torch.optim.AdamW(prompts.groups(settings), weight_decay=0.0)
        prompt.sum().backward()
        optimizer.step()
        moved = values - prompts(0).detach()
        torch.testing.assert_close(moved, 0.25 * layer_units(values).expand_as(values), rtol=1e-2, atol=1e-3)


def test_rounded_values_are_what_a_file_has() -> None:
    prompts = MultitaskPrompt(layered(), 1)
    prompts.round_to_half()
    assert torch.equal(prompts.shared, layered().half().float())
