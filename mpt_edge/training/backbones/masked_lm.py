"""The head of a masked language model, for a few words instead of the whole vocabulary.

Its output matrix is the embedding table that the encoder reads text with, so taking the rows of the words that are
asked for adds nothing to a graph but the head's small transformation.
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


#: What stands between an encoder's last hidden state and its output matrix, by ``model_type``.
TRANSFORMS: dict[str, Callable[[PreTrainedModel], list[nn.Module]]] = {
    "bert": _bert,
    "camembert": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
}


class MaskedLMHead(nn.Module):
    """Logits of given words at given rows."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the head off a masked language model of one of `TRANSFORMS`; weights are shared."""
        super().__init__()
        self.transform = nn.Sequential(*TRANSFORMS[model.config.model_type](model))
        output = model.get_output_embeddings()
        self.weight, self.bias = output.weight, output.bias
        self.requires_grad_(requires_grad=False)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Return logits ``(rows, places, words)`` of hidden states ``(rows, places, d)`` for token ids ``(words,)``."""
        found: Tensor = self.transform(hidden) @ functional.embedding(words, self.weight).T
        return found if self.bias is None else found + self.bias[words]

    def at(self, hidden: Tensor, places: Tensor, words: Tensor) -> Tensor:
        """Return the logits at chosen rows: ``places`` ``(rows, places)`` of hidden states ``(rows, tokens, d)``."""
        chosen = torch.gather(hidden, 1, places[..., None].expand(-1, -1, hidden.shape[-1]))
        found: Tensor = self(chosen, words)
        return found
