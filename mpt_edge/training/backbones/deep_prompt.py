"""Prompts that enter all layers: each layer reads virtual tokens of its own.

P-tuning v2 (arXiv 2110.07602) brings prompts to small models in this way. Here one pair of vectors
a task scales the virtual tokens of all layers (docs/design.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DeepPrompt:
    """Virtual tokens for the input of every layer."""

    values: Tensor
    """Shape ``(batch, l, layers, d)``."""
    alone: bool = False
    """Whether no text is read with the prompt. Then a layer's output is unused, and gets no gradient."""

    @classmethod
    def split(cls, prompt: Tensor, *, alone: bool = False) -> tuple[DeepPrompt | None, Tensor]:
        """Return the deep prompt, if it is one, and the first layer's virtual tokens ``(batch, l, d)``.

        Args:
            prompt: ``(batch, l, d)``, or ``(batch, l, layers, d)``.
            alone: whether no text is read with it.
        """
        return (cls(prompt, alone), prompt[:, :, 0]) if prompt.ndim == 4 else (None, prompt)

    def at(self, layer: int, hidden: Tensor) -> Tensor:
        """Return a layer's input, with the prompt's virtual tokens for that layer in front.

        Args:
            layer: number of the layer.
            hidden: output of the previous layer, ``(batch, l + tokens, d)``.
        """
        own = self.values[:, :, layer].to(hidden.dtype)
        return own if self.alone else torch.cat([own, hidden[:, own.shape[1] :]], dim=1)


def replace_inputs(layers: Sequence[nn.Module], find: Callable[[Mapping[str, Any]], DeepPrompt | None]) -> None:
    """Put a prompt into the input of every layer but the first, which callers fill themselves.

    Args:
        layers: modules that take hidden states first.
        find: maps a call's keyword arguments to its deep prompt, or None.
    """

    def enter(number: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prompt = find(kwargs)
        return None if prompt is None else ((prompt.at(number, args[0]), *args[1:]), kwargs)

    for number, layer in enumerate(layers):
        if number:
            layer.register_forward_pre_hook(partial(enter, number), with_kwargs=True)


@contextmanager
def recorded_inputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the input of each layer, ``(batch, positions, d)``, while the block runs."""
    inputs: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.append(args[0])

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_mlp(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Skip the MLPs of layers while the block runs: three quarters of the work where only keys and values count."""
    modules: list[Any] = [layer.mlp for layer in layers if hasattr(layer, "mlp")]
    for module in modules:
        module.forward = _unchanged
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _unchanged(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden
