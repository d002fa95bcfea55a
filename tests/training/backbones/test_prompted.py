"""The common base of the prompted models."""

from __future__ import annotations

from copy import deepcopy

import pytest
from transformers import AutoModel, PreTrainedModel

from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.prompted import PromptedModel
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from tests.support import causal, seq2seq
from tests.support.prompted import CONFIGS


def all_models() -> list[tuple[PreTrainedModel, PromptedModel]]:
    encoder = AutoModel.from_config(deepcopy(CONFIGS["bert"]))
    return [causal.build("llama"), seq2seq.build("t5"), (encoder, PromptedEncoder(encoder))]


def test_each_is_frozen_and_has_its_layers_once() -> None:
    for plain, prompted in all_models():
        assert not prompted.model.training
        assert not any(parameter.requires_grad for parameter in prompted.parameters())
        assert prompted.layer_count == len(prompted.layers) == plain.config.num_hidden_layers
        assert set(prompted.state_dict()) == {f"model.{name}" for name in plain.state_dict()}


def test_gradient_checkpointing_is_not_for_encoder_decoder_models() -> None:
    *generative, (_, encoder) = all_models()
    for _, prompted in generative:
        if isinstance(prompted, PromptedSeq2Seq):
            with pytest.raises(InputError, match="and decoder-only models; with this model pass a smaller --micro-bat"):
                prompted.enable_gradient_checkpointing()
        else:
            prompted.enable_gradient_checkpointing()  # see test_causal.py
    encoder.enable_gradient_checkpointing()
    assert any(getattr(module, "gradient_checkpointing", False) for module in encoder.model.modules())


def test_other_architectures_are_refused_with_a_list() -> None:
    model = AutoModel.from_config(deepcopy(CONFIGS["bert"]))
    with pytest.raises(UnsupportedModelError, match="'bert' models cannot carry a prompt yet; use one of a, b"):
        PromptedModel(model, ["b", "a"])
