"""Prompts that enter every layer: each layer reads rows of the prompt, not what the layer before made of them.

This is how P-tuning v2 (arXiv 2110.07602) lets prompts reach small models. Here the rows of all layers are still scaled
by one pair of vectors a task (docs/design.md).
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
    """Prompt rows that stand at every layer's input.

    Attributes:
        rows: ``(batch, l, layers, d)``.
        alone: whether no text is read with them. Then nothing of what a layer makes of them is read again, and no
            gradient runs through it.
    """

    rows: Tensor
    alone: bool = False

    def at(self, layer: int, hidden: Tensor) -> Tensor:
        """Return a layer's input ``(batch, l + tokens, d)`` with the prompt's rows for that layer in front."""
        own = self.rows[:, :, layer].to(hidden.dtype)
        return own if self.alone else torch.cat([own, hidden[:, own.shape[1] :]], dim=1)


def replace_inputs(layers: Sequence[nn.Module], find: Callable[[Mapping[str, Any]], DeepPrompt | None]) -> None:
    """Let every layer but the first, whose input is made before, read what enters it.

    Args:
        layers: modules that take hidden states first.
        find: given a call's keyword arguments, what enters, or None for the layer's own input.
    """

    def enter(number: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entering = find(kwargs)
        return None if entering is None else ((entering.at(number, args[0]), *args[1:]), kwargs)

    for number, layer in enumerate(layers):
        if number:
            layer.register_forward_pre_hook(partial(enter, number), with_kwargs=True)


@contextmanager
def recorded_inputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what enters each layer while the block runs, ``(batch, rows, d)`` each."""
    found: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
