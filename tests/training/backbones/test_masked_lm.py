"""Masked-LM heads against transformers' own, for a few words at a few positions."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForMaskedLM, CamembertConfig, XLMRobertaConfig

from mpt_edge.training.backbones.masked_lm import TRANSFORMS, MaskedLMHead
from tests.support.adapters import shake
from tests.support.prompted import CONFIGS, SIZES

ALL = {kind: config for kind, config in CONFIGS.items() if kind in TRANSFORMS} | {
    "camembert": CamembertConfig(**SIZES, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SIZES, type_vocab_size=1),
}


def test_every_head_is_tried() -> None:
    assert set(ALL) == set(TRANSFORMS)


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_logits_are_those_of_transformers(kind: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(ALL[kind]).eval()
    shake(model)
    ids = torch.randint(5, 60, (2, 6))
    expected = model(input_ids=ids).logits
    head = MaskedLMHead(model)
    hidden = model.base_model(input_ids=ids).last_hidden_state
    words, positions = torch.tensor([7, 50, 3]), torch.tensor([[1, 4], [5, 0]])
    torch.testing.assert_close(head(hidden, words), expected[..., words], atol=1e-5, rtol=1e-5)
    chosen = torch.stack([expected[row, at][:, words] for row, at in enumerate(positions)])
    torch.testing.assert_close(head.at(hidden, positions, words), chosen, atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in head.parameters())
