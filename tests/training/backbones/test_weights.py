"""Weights that are missing, damaged or incomplete."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedModel,
    T5EncoderModel,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.backbones.weights import quiet_transformers, reason
from tests.support.causal import CONFIGS as CAUSAL
from tests.support.checkpoints import WEIGHTS, assert_one_sentence, change_config, drop_weight, save_checkpoint
from tests.support.prompted import CONFIGS as ENCODERS
from tests.support.seq2seq import KINDS


def test_unknown_activation_of_an_encoder(folder: Path) -> None:
    change_config(folder, hidden_act="bogus")
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, "cannot make the model", "bogus")
    assert isinstance(caught.value.__cause__, KeyError)


def test_folder_without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, "weights", str(folder))


@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_truncated_weights(folder: Path, keep: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    with pytest.raises(CorruptFileError, match="weights"):
        load_encoder(str(folder))


def test_weights_of_another_size(folder: Path) -> None:
    change_config(folder, intermediate_size=96)
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, "weights", "another shape than its config.json states", "and 5 more; download")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: AutoModel.from_config(ENCODERS["bert"]), "encoder.layer.1.output.dense.weight"),
        (lambda: AutoModelForMaskedLM.from_config(ENCODERS["roberta"]), "lm_head.dense.weight"),
        (lambda: AutoModelForCausalLM.from_config(CAUSAL["llama"]), "model.layers.1.mlp.up_proj.weight"),
        (lambda: AutoModelForCausalLM.from_config(CAUSAL["llama"]), "lm_head.weight"),
        (lambda: T5ForConditionalGeneration(KINDS["t5"][1]), "decoder.block.0.layer.0.SelfAttention.q.weight"),
    ],
    ids=["encoder", "masked", "causal", "untied head", "seq2seq"],
)
def test_missing_weight(tmp_path: Path, make: Callable[[], PreTrainedModel], name: str) -> None:
    """transformers would fill it at random and print a table that nobody reads."""
    drop_weight(save_checkpoint(make(), tmp_path), name)
    with pytest.raises(CorruptFileError) as caught:
        open_backbone(str(tmp_path))
    assert_one_sentence(caught.value, f"the weights in {tmp_path} lack {name}; download the model again")


@pytest.mark.parametrize(
    ("make", "saved", "name", "needed"),
    [
        (
            lambda: LlamaForSequenceClassification(CAUSAL["llama"]),
            "LlamaForSequenceClassification",
            "lm_head.weight",
            "LlamaForCausalLM",
        ),
        (lambda: LlamaModel(CAUSAL["llama"]), "LlamaModel", "lm_head.weight", "LlamaForCausalLM"),
        (
            lambda: T5EncoderModel(copy.deepcopy(KINDS["t5"][1])),
            "T5EncoderModel",
            "decoder.block.0.layer.0.SelfAttention.k.weight and 27 more",
            "T5ForConditionalGeneration",
        ),
    ],
    ids=["classifier", "no head", "no decoder"],
)
def test_model_saved_without_its_language_model_head(
    tmp_path: Path, make: Callable[[], PreTrainedModel], saved: str, name: str, needed: str
) -> None:
    """Another download would bring the same files."""
    save_checkpoint(make(), tmp_path)
    with pytest.raises(CorruptFileError) as caught:
        open_backbone(str(tmp_path))
    assert_one_sentence(
        caught.value,
        f"{tmp_path} was saved as {saved}, without {name}, which",
        f"use a checkpoint of the language model, saved as {needed}.",
    )


def test_more_layers_than_the_files_have(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(CorruptFileError, match=r"lack encoder\.layer\.2\.\S+ and 15 more; download the model again"):
        load_encoder(str(folder))
    assert capfd.readouterr().err == ""


def test_pooler_and_position_ids_are_optional(tiny: EncoderBackbone, folder: Path) -> None:
    drop_weight(folder, "pooler.dense.weight")
    drop_weight(folder, "pooler.dense.bias")
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint
    save_file(
        {**load_file(folder / WEIGHTS), "embeddings.position_ids": torch.arange(48)[None]},
        folder / WEIGHTS,
        {"format": "pt"},
    )
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "gemma", "smollm3"])
def test_tied_heads_are_optional(tmp_path: Path, kind: str) -> None:
    save_checkpoint(AutoModelForCausalLM.from_config(CAUSAL[kind]), tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / WEIGHTS))
    assert open_backbone(str(tmp_path)).family == "causal"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("first\n\n  the cause. \n"), "ValueError: the cause"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_reason_is_the_last_line(error: Exception, expected: str) -> None:
    assert reason(error) == expected


@pytest.mark.parametrize("has_bar", [True, False])
def test_transformers_is_quiet_within_the_block_only(has_bar: bool) -> None:
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    try:
        (logging.enable_progress_bar if has_bar else logging.disable_progress_bar)()
        logging.set_verbosity_info()
        with contextlib.suppress(ZeroDivisionError), quiet_transformers():
            assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == (False, logging.ERROR)
            raise ZeroDivisionError
        assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == (has_bar, logging.INFO)
    finally:
        (logging.enable_progress_bar if before[0] else logging.disable_progress_bar)()
        logging.set_verbosity(before[1])
