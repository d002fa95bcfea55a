"""Linear heads that PEFT saved beside a prompt, computed in numpy on the device.

Tasks trained here have none (docs/design.md). Imported classifiers, taggers and span readers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError

_erf = np.vectorize(math.erf, otypes=[np.float64])

#: Names of a layer's tensors in a file: ``head.<number>.weight`` and ``head.<number>.bias``.
_TENSOR = "head.{}.{}"
_PREFIX = "head."


class Activation(StrEnum):
    """Functions between linear layers, as transformers defines them."""

    TANH = "tanh"
    RELU = "relu"
    GELU = "gelu"

    def __call__(self, x: Floats) -> Floats:
        """Apply the function to each element."""
        return _FUNCTIONS[self](x)


_FUNCTIONS: dict[Activation, Callable[[Floats], Floats]] = {
    Activation.TANH: np.tanh,
    Activation.RELU: lambda x: np.maximum(x, np.float32(0)),
    Activation.GELU: lambda x: (x * 0.5 * (1 + _erf(x / math.sqrt(2)))).astype(np.float32),
}


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer and the activation after it."""

    weight: Floats
    """Shape ``(outputs, inputs)``."""
    bias: Floats
    """Shape ``(outputs,)``."""
    activation: Activation | None = None


@dataclass(frozen=True)
class LinearHead:
    """Linear layers in order; the last one's outputs are the logits."""

    layers: tuple[LinearLayer, ...]

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return len(self.layers[-1].bias)

    @property
    def activations(self) -> list[Activation | None]:
        """Activation after each layer, as files state it."""
        return [layer.activation for layer in self.layers]

    def __call__(self, states: Floats) -> Floats:
        """Return logits ``(…, outputs)`` of hidden states ``(…, d)``, in float32."""
        for layer in self.layers:
            states = states @ layer.weight.astype(np.float32, copy=False).T + layer.bias
            states = states if layer.activation is None else layer.activation(states)
        return states

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors by their names in a file."""
        layers = enumerate(self.layers)
        return {_TENSOR.format(i, part): getattr(layer, part) for i, layer in layers for part in ("weight", "bias")}

    @classmethod
    def parse(
        cls, arrays: Mapping[str, NDArray[Any]], activations: Sequence[object], width: int, source: str
    ) -> LinearHead | None:
        """Return the head that a file's tensors hold; None for a file without one.

        Args:
            arrays: all tensors of the file.
            activations: the file's activation after each layer; None for none.
            width: channels d of the states that it reads.
            source: the file's name in messages.

        Raises:
            CorruptFileError: the layers do not fit each other, or an activation is unknown.
        """
        count = sum(name.startswith(_PREFIX) for name in arrays)
        if not activations and not count:
            return None
        layers = []
        for i, activation in enumerate(activations):
            weight, bias = (arrays.get(_TENSOR.format(i, part)) for part in ("weight", "bias"))
            fits = weight is not None and bias is not None and weight.shape == (bias.size, width) and bias.ndim == 1
            known = activation is None or activation in list(Activation)
            if not fits or not known or weight is None or bias is None or not bias.size:
                raise CorruptFileError(f"{source}: layer {i} of its head cannot be used; import the task again.")
            layers.append(LinearLayer(weight, bias, None if activation is None else Activation(str(activation))))
            width = bias.size
        if len(layers) * 2 != count:
            raise CorruptFileError(f"{source}: its head holds more than it states; import the task again.")
        return cls(tuple(layers))
