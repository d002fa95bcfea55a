"""Decoder-only and encoder-decoder models as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, T5ForConditionalGeneration

from mpt_edge.formats.manifest import Family
from mpt_edge.training.backbones.generative_backbone import (
    CausalBackbone,
    GenerativeBackbone,
    Seq2SeqBackbone,
    read_causal,
    read_seq2seq,
)
from mpt_edge.training.backbones.locating import locate_model
from tests.support.causal import CONFIGS
from tests.support.checkpoints import change_config, save_checkpoint
from tests.support.seq2seq import KINDS


def causal(folder: Path) -> CausalBackbone:
    if not (folder / "config.json").is_file():
        save_checkpoint(AutoModelForCausalLM.from_config(CONFIGS["llama"]), folder)
    return read_causal(locate_model(str(folder)))


def test_decoder_only_model(tmp_path: Path) -> None:
    backbone = causal(tmp_path)
    assert isinstance(backbone, GenerativeBackbone)
    assert (backbone.family, backbone.max_length, backbone.eos_ids) == (Family.CAUSAL, 64, (2,))
    assert backbone.front([5, 6]) == [5, 6]


def test_encoder_decoder_model(tmp_path: Path) -> None:
    save_checkpoint(T5ForConditionalGeneration(KINDS["t5"][1]), tmp_path)
    backbone = read_seq2seq(locate_model(str(tmp_path)))
    assert isinstance(backbone, Seq2SeqBackbone)
    assert (backbone.family, backbone.max_length, backbone.eos_ids) == (Family.SEQ2SEQ, 512, (1,))
    assert backbone.front([5, 6]) == [backbone.model.start_id] == [0]


@pytest.mark.parametrize(("stated", "expected"), [(None, ()), (7, (7,)), ([7, 8], (7, 8))])
def test_end_tokens_come_from_either_configuration(tmp_path: Path, stated: object, expected: tuple[int, ...]) -> None:
    causal(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    change_config(tmp_path, eos_token_id=stated)
    assert causal(tmp_path).eos_ids == expected


def test_generation_config_comes_first(tmp_path: Path) -> None:
    causal(tmp_path)
    change_config(tmp_path, eos_token_id=7)
    assert causal(tmp_path).eos_ids == (2,)
