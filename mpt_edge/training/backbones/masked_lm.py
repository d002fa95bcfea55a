"""Masked-LM heads that score a few words instead of the whole vocabulary.

The output matrix is the encoder's embedding table. Selecting its rows for the given words adds only
the head's small transform to a graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel


def _bert(model: PreTrainedModel) -> list[nn.Module]:
    return [model.get_submodule("cls.predictions.transform")]


def _roberta(model: PreTrainedModel) -> list[nn.Module]:
    return [model.get_submodule("lm_head.dense"), nn.GELU(), model.get_submodule("lm_head.layer_norm")]


def _distilbert(model: PreTrainedModel) -> list[nn.Module]:
    names = ("vocab_transform", "activation", "vocab_layer_norm")
    return [model.get_submodule(name) for name in names]


def _modernbert(model: PreTrainedModel) -> list[nn.Module]:
    return [model.get_submodule("head")]


#: Modules between the last hidden state and the output matrix, by ``model_type``.
TRANSFORMS: dict[str, Callable[[PreTrainedModel], list[nn.Module]]] = {
    "bert": _bert,
    "camembert": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
}


class MaskedLMHead(nn.Module):
    """A frozen masked-LM head: logits of given words at given positions."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the head of a masked language model with an entry in `TRANSFORMS`; weights are shared."""
        super().__init__()
        self.transform = nn.Sequential(*TRANSFORMS[model.config.model_type](model))
        output = model.get_output_embeddings()
        self.weight, self.bias = output.weight, output.bias
        self.requires_grad_(requires_grad=False)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Return logits ``(batch, positions, words)``.

        Args:
            hidden: hidden states, ``(batch, positions, d)``.
            words: token ids, ``(words,)``.
        """
        logits: Tensor = self.transform(hidden) @ functional.embedding(words, self.weight).T
        return logits if self.bias is None else logits + self.bias[words]

    def at(self, hidden: Tensor, positions: Tensor, words: Tensor) -> Tensor:
        """Return logits ``(batch, positions, words)`` at chosen positions.

        Args:
            hidden: hidden states, ``(batch, tokens, d)``.
            positions: indices of tokens, ``(batch, positions)``.
            words: token ids, ``(words,)``.
        """
        chosen = torch.gather(hidden, 1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        logits: Tensor = self(chosen, words)
        return logits
