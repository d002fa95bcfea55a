"""The common base of the prompted models."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from mpt_edge.errors import InputError, UnsupportedModelError


class PromptedModel(nn.Module):
    """A frozen transformers model that reads text under a prompt."""

    model: PreTrainedModel
    """The transformers model, without gradient, in evaluation mode."""
    layers: list[nn.Module]
    """The layers that a prompt can enter; for encoder-decoder models those of the encoder."""
    hidden_size: int
    """Width d of virtual tokens and hidden states."""
    max_positions: int
    """Maximum number of positions, prompt and text together."""

    def __init__(self, model: PreTrainedModel, supported: Collection[str], attention: str = "eager") -> None:
        """Freeze ``model``.

        Args:
            model: the transformers model.
            supported: values of ``model_type`` that the subclass can run.
            attention: transformers' name of the attention to use.

        Raises:
            UnsupportedModelError: the model's type is not among ``supported``.
        """
        super().__init__()
        kind = model.config.model_type
        if kind not in supported:
            raise UnsupportedModelError(
                f"{kind!r} models cannot carry a prompt yet; use one of {', '.join(sorted(supported))}."
            )
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.model.set_attn_implementation(attention)

    @property
    def layer_count(self) -> int:
        """Number of layers that a prompt can enter, each with one key/value pair."""
        return len(self.layers)

    def enable_gradient_checkpointing(self) -> None:
        """Refuse gradient checkpointing; subclasses that have it override this method.

        Raises:
            InputError: always.
        """
        raise InputError(
            "--gradient-checkpointing is for encoders and decoder-only models; with this model pass a smaller "
            "--micro-batch-size instead."
        )
