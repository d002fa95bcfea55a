"""A saved head: a few small linear layers on hidden states, computed in numpy on the device.

Our own tasks have no head (docs/design.md). Tasks imported from PEFT may: it saves the classifier
beside the prompt, and the head's tensors then travel in the task file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError

_erf = np.vectorize(math.erf, otypes=[np.float64])

#: Functions behind a layer, as transformers defines them.
ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "gelu": lambda x: (x * 0.5 * (1 + _erf(x / math.sqrt(2)))).astype(np.float32),
}

#: Name of a layer's tensors in a task file: ``head.<number>.weight`` and ``.bias``.
_TENSOR = "head.{}.{}"


@dataclass(frozen=True)
class Layer:
    """One linear layer and what follows it.

    Attributes:
        weight: ``(outputs, inputs)``.
        bias: ``(outputs,)``.
        activation: one of `ACTIVATIONS`.
    """

    weight: Floats
    bias: Floats
    activation: str = ""


@dataclass(frozen=True)
class Head:
    """Linear layers in order; the last one's outputs are the logits."""

    layers: tuple[Layer, ...]

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return len(self.layers[-1].bias)

    @property
    def activations(self) -> list[str]:
        """What follows each layer."""
        return [layer.activation for layer in self.layers]

    def __call__(self, states: Floats) -> Floats:
        """Return logits ``(…, outputs)`` of hidden states ``(…, d)``, in float32."""
        for layer in self.layers:
            states = ACTIVATIONS[layer.activation](states @ layer.weight.astype(np.float32, copy=False).T + layer.bias)
        return states

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors by their name in a task file."""
        named = [(i, layer) for i, layer in enumerate(self.layers)]
        return {_TENSOR.format(i, part): getattr(layer, part) for i, layer in named for part in ("weight", "bias")}

    @classmethod
    def parse(
        cls, arrays: Mapping[str, NDArray[Any]], activations: Sequence[object], width: int, source: str
    ) -> Head | None:
        """Return the head that a task file's tensors hold; None where it has none.

        Args:
            arrays: all tensors of the file.
            activations: what follows each layer.
            width: channels d of the states it reads.
            source: what to call the file in messages.

        Raises:
            CorruptFileError: the layers do not fit each other, or an activation is unknown.
        """
        if not activations and not any(name.startswith("head.") for name in arrays):
            return None
        layers = []
        for i, activation in enumerate(activations):
            weight, bias = (arrays.get(_TENSOR.format(i, part)) for part in ("weight", "bias"))
            fits = weight is not None and bias is not None and weight.shape == (bias.size, width) and bias.ndim == 1
            if not fits or weight is None or bias is None or not bias.size or str(activation) not in ACTIVATIONS:
                raise CorruptFileError(f"{source}: layer {i} of its head cannot be used; import the task again.")
            layers.append(Layer(weight, bias, str(activation)))
            width = bias.size
        if len(layers) * 2 != sum(name.startswith("head.") for name in arrays):
            raise CorruptFileError(f"{source}: its head holds more than it states; import the task again.")
        return cls(tuple(layers))
