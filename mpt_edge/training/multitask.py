"""Trainable prompts: one shared prompt with two vectors a task, or a whole prompt a task.

Both are modules that return a task's prompt by its index. So one trainer serves plain prompt tuning
and multitask prompt tuning (paper section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from mpt_edge.errors import TrainingError
from mpt_edge.formats.label_vectors import LabelVectors
from mpt_edge.training.quantized_labels import QuantizedLabels
from mpt_edge.training.settings import Settings

#: Weight decay of label vectors, which overfit without. Nothing else has any.
LABEL_DECAY = 1.0

#: Root mean square of the first values of an encoder's prompts, for which the default learning rate was chosen.
_ENCODER_SIZE = 0.5


class Prompts(Protocol):
    """Interface of trainable prompts to the trainer."""

    def __call__(self, task: int) -> Tensor | None:
        """Return the prompt ``(l, d)`` of one task; None where something else than a prompt is trained."""

    def groups(self, settings: Settings) -> list[dict[str, object]]:
        """Return the optimizer's parameter groups; values with a learning rate of zero are frozen."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all values by name."""

    def largest(self, task: int) -> float:
        """Return the largest magnitude of one task that will be rounded to float16; 0 where none will."""

    def load_state_dict(self, values: dict[str, Tensor]) -> object:
        """Set all values by name."""

    def to(self, device: torch.device) -> object:
        """Move all values to a device."""


class MultitaskPrompt(nn.Module):
    """``P_k = P* ∘ (u_k v_kᵀ)`` for every task k.

    ``u`` and ``v`` start at one, so each composed prompt starts as ``P*``. Products of small random
    vectors would start it near zero instead.

    Attributes:
        scaled: ``P*`` in each layer's unit, the trained value; see `layer_units`.
        unit: each layer's unit, ``(layers, 1)``.
        u: ``(l,)`` for each task.
        v: ``(d,)`` for each task.
        labels: label vectors by the number of the task, for tasks that have them.
    """

    def __init__(self, shared: Tensor, tasks: int) -> None:
        """Start from a shared prompt and a pair of ones for each task."""
        super().__init__()
        length, width = shared.shape[0], shared.shape[-1]
        self.unit: Tensor
        self.register_buffer("unit", layer_units(shared), persistent=False)
        self.scaled = nn.Parameter(shared.float() / self.unit)
        # One parameter a task: a task outside a step has no gradient, so momentum does not move it.
        self.u = nn.ParameterList([torch.ones(length) for _ in range(tasks)])
        self.v = nn.ParameterList([torch.ones(width) for _ in range(tasks)])
        self.labels = nn.ModuleDict()

    @property
    def shared(self) -> Tensor:
        """``P*``, ``(l, d)``, or ``(l, layers, d)`` where it enters all layers."""
        return self.scaled * self.unit

    def forward(self, task: int) -> Tensor:
        """Return the composed prompt of one task, in the shape of the shared one."""
        return scale(self.shared, self.u[task], self.v[task])

    def groups(self, settings: Settings) -> list[dict[str, object]]:
        """Return u and v, label vectors, and P* unless it is frozen, each with its learning rate."""
        self.scaled.requires_grad_(settings.prompt_lr > 0)
        groups: list[dict[str, object]] = [{"params": [*self.u, *self.v], "lr": settings.task_lr}]
        groups += [{"params": [self.scaled], "lr": settings.prompt_lr}] if settings.prompt_lr > 0 else []
        for task in self.labels:
            groups += self._labels_of(int(task)).groups(settings.label_lr, LABEL_DECAY)
        return groups

    def add_labels(self, task: int, labels: QuantizedLabels) -> None:
        """Give a task label vectors, which are trained with the rest."""
        self.labels[str(task)] = labels

    def label_vectors(self, task: int) -> LabelVectors | None:
        """Return a task's label vectors as its file has them; None for a task without."""
        return self._labels_of(task).rounded() if str(task) in self.labels else None

    def _labels_of(self, task: int) -> QuantizedLabels:
        labels = self.labels[str(task)]
        assert isinstance(labels, QuantizedLabels)
        return labels

    @torch.no_grad()
    def largest(self, task: int) -> float:
        """Return the largest magnitude of one task's balanced vectors, and of P* where it is trained."""
        parts = [*balance(self.u[task], self.v[task]), *([self.shared] if self.scaled.requires_grad else [])]
        # Steps and biases of labels are in float16 as well, the steps below four times the largest number.
        parts += [4 * each for each in self.labels[str(task)].parameters()] if str(task) in self.labels else []
        return float(torch.stack([part.abs().max() for part in parts]).max())  # NaN where any is

    @torch.no_grad()
    def set_vectors(self, task: int, u: Tensor, v: Tensor) -> None:
        """Set one task's vectors."""
        self.u[task].copy_(u)
        self.v[task].copy_(v)

    def finish(self) -> None:
        """Bring all values into the form that files have: balanced, and rounded to float16.

        Raises:
            TrainingError: a value is too large for float16.
        """
        self.balance_vectors()
        self.round_to_half()

    @torch.no_grad()
    def balance_vectors(self) -> None:
        """Fix the sign and scale of every pair without changing a composed prompt; see `balance`."""
        for task, (u, v) in enumerate(zip(self.u, self.v, strict=True)):
            self.set_vectors(task, *balance(u, v))

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round all trained values to float16, so that metrics are those of the written files.

        A frozen shared prompt stays as it is, since its file does: imported ones are float32.

        Raises:
            TrainingError: a value is too large for float16.
        """
        for parameter in self.parameters():
            if parameter.requires_grad:
                unit = self.unit if parameter is self.scaled else torch.ones(())
                rounded = (parameter * unit).half().float()
                if not torch.isfinite(rounded).all():
                    largest = float((parameter * unit).abs().max())
                    raise TrainingError(
                        f"a trained value is {largest:.3g}, more than float16 holds; start again with lower learning "
                        "rates."
                    )
                parameter.copy_(rounded / unit)


class PlainPrompts(nn.Module):
    """A prompt of its own for each task: plain prompt tuning, for teachers and as a baseline.

    Attributes:
        prompts: each task's in the layers' units, ``(l, d)`` or ``(l, layers, d)``; see `layer_units`.
        unit: each layer's unit, ``(layers, 1)``.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        """Start each task's prompt from values ``(l, d)`` or ``(l, layers, d)``; the first decides the units."""
        super().__init__()
        self.unit: Tensor
        self.register_buffer("unit", layer_units(values[0]), persistent=False)
        self.prompts = nn.ParameterList([value.float() / self.unit for value in values])

    def forward(self, task: int) -> Tensor:
        """Return the prompt of one task."""
        prompt: Tensor = self.prompts[task] * self.unit
        return prompt

    def groups(self, settings: Settings) -> list[dict[str, object]]:
        """Return all prompts with the prompt's learning rate; there are no vectors."""
        return [{"params": list(self.prompts), "lr": settings.prompt_lr}]

    def largest(self, task: int) -> float:  # noqa: ARG002
        """Return 0: teachers stay in float32."""
        return 0.0


def layer_units(values: Tensor) -> Tensor:
    """Return each layer's unit, in which a prompt is trained: how large its values are beside those of an encoder.

    A step of Adam has the size of the learning rate, whatever the values' size, and one rate cannot fit layers of
    different sizes. After the norms of SmolLM2-135M they are 0.05 in the first layer, 0.3 in others; MiniLM's are
    0.41 to 0.54. In these units the same rate moves all by about the same share. An encoder's units are all one.

    Args:
        values: a prompt's first values, ``(l, d)`` or ``(l, layers, d)``.

    Returns:
        Powers of two, so that no value is rounded, ``(layers, 1)``; one for a prompt of one layer.
    """
    if values.ndim == 2:
        return torch.ones(1, 1)
    sizes = values.float().square().mean(-1).sqrt().median(0).values.clamp(min=1e-6)
    return torch.exp2(torch.round(torch.log2(sizes / _ENCODER_SIZE)))[:, None]


def scale(shared: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return ``P* ∘ (u vᵀ)``, for a shared prompt ``(l, d)`` or ``(l, layers, d)``."""
    rows = u[:, None] if shared.ndim == 2 else u[:, None, None]
    return shared * rows * v


def balance(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``u`` and ``v`` with fixed sign and scale; ``u vᵀ`` stays the same.

    ``(u, v)`` and ``(c u, v / c)`` compose the same prompt for every c, also a negative one. An
    average over tasks would depend on chance. Here both get the same root mean square, and the
    entries of ``u`` sum to at least zero.
    """
    small = 1e-12
    ratio = v.square().mean().sqrt().clamp(min=small) / u.square().mean().sqrt().clamp(min=small)
    factor = ratio.sqrt() * (-1.0 if u.sum() < 0 else 1.0)
    return u * factor, v / factor
