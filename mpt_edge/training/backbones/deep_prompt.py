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

#: Names of a norm before the attention in decoder-only models and ModernBERT.
_NORMS = ("input_layernorm", "ln_1", "attn_norm")


@dataclass(frozen=True)
class DeepPrompt:
    """Virtual tokens for the input of every layer's attention."""

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
        """Return the input of a layer's attention, with the prompt's virtual tokens for that layer in front.

        Args:
            layer: number of the layer.
            hidden: the input without them, ``(batch, l + tokens, d)``.
        """
        own = self.values[:, :, layer].to(hidden.dtype)
        return own if self.alone else torch.cat([own, hidden[:, own.shape[1] :]], dim=1)


def attention_norm(layer: nn.Module) -> nn.Module | None:
    """Return the norm before a layer's attention; None in layers whose attention reads their input as it is."""
    return next((getattr(layer, name) for name in _NORMS if hasattr(layer, name)), None)


def replace_inputs(layers: Sequence[nn.Module], find: Callable[[Mapping[str, Any]], DeepPrompt | None]) -> None:
    """Put a prompt into the input of every layer's attention.

    Where a norm precedes the attention, the virtual tokens take the place of the norm's output. It would undo all that
    a task's u does, since a norm gives each token the same size.

    Args:
        layers: modules that take hidden states first. Callers fill the first one's input, where it has no norm.
        find: maps a layer's keyword arguments to its deep prompt, or None.
    """
    for number, layer in enumerate(layers):
        norm = attention_norm(layer)
        if norm is not None:
            _replace_output(norm, layer, number, find)
        elif number:
            layer.register_forward_pre_hook(partial(_enter, number, find), with_kwargs=True)


def _enter(
    number: int,
    find: Callable[[Mapping[str, Any]], DeepPrompt | None],
    _: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    prompt = find(kwargs)
    return None if prompt is None else ((prompt.at(number, args[0]), *args[1:]), kwargs)


def _replace_output(
    norm: nn.Module, layer: nn.Module, number: int, find: Callable[[Mapping[str, Any]], DeepPrompt | None]
) -> None:
    """Put a prompt into the output of a layer's norm."""
    entering: DeepPrompt | None = None

    def note(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal entering
        entering = find(kwargs)

    def enter(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return None if entering is None else entering.at(number, output)

    layer.register_forward_pre_hook(note, with_kwargs=True)
    norm.register_forward_hook(enter)


@contextmanager
def recorded_inputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the input of each layer's attention, ``(batch, positions, d)``, while the block runs."""
    inputs: list[Tensor] = []

    def record(layer: nn.Module) -> Any:
        norm = attention_norm(layer)
        if norm is None:
            return layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        return norm.register_forward_hook(lambda _, __, output: inputs.append(output))

    handles = [record(layer) for layer in layers]
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
