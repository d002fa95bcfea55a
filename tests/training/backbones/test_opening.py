"""A backbone of each family from a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, T5ForConditionalGeneration

from mpt_edge.training.backbones.backbone import Backbone
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.modernbert import PromptedModernBert
from mpt_edge.training.backbones.opening import AnyBackbone, open_backbone
from tests.support.causal import CONFIGS as CAUSAL
from tests.support.checkpoints import save_checkpoint
from tests.support.prompted import CONFIGS as ENCODERS
from tests.support.seq2seq import KINDS


@pytest.mark.parametrize(
    ("make", "family"),
    [
        (lambda: AutoModel.from_config(ENCODERS["roberta"]), EncoderBackbone),
        (lambda: AutoModelForCausalLM.from_config(CAUSAL["gpt2"]), CausalBackbone),
        (lambda: T5ForConditionalGeneration(KINDS["flan-t5"][1]), Seq2SeqBackbone),
    ],
    ids=["encoder", "causal", "seq2seq"],
)
def test_each_family(tmp_path: Path, make: Callable[[], PreTrainedModel], family: type[Backbone]) -> None:
    backbone = open_backbone(str(save_checkpoint(make(), tmp_path)))
    assert type(backbone) is family
    assert isinstance(backbone, AnyBackbone)


def test_modernbert_has_its_own_class(tmp_path: Path) -> None:
    backbone = open_backbone(str(save_checkpoint(AutoModel.from_config(ENCODERS["modernbert"]), tmp_path)))
    assert type(backbone.model) is PromptedModernBert
