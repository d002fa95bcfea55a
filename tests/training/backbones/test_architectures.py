"""Configurations that are refused before any weights are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, BloomConfig, OPTConfig

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.architectures import model_type, supported
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder import ARCHITECTURES
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge.training.backbones.locating import locate_model
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES
from tests.support.causal import CONFIGS as CAUSAL
from tests.support.checkpoints import assert_one_sentence, save_checkpoint
from tests.support.prompted import CONFIGS as ENCODERS


def test_model_type_of_a_folder(folder: Path) -> None:
    assert model_type(locate_model(str(folder))) == "bert"


def test_supported_types_of_all_families() -> None:
    assert supported().split(", ") == sorted({*ARCHITECTURES, *CAUSAL_ARCHITECTURES, *SEQ2SEQ_ARCHITECTURES})


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, str(folder), "config.json", "bert")


def test_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(UnsupportedModelError, match=r"config\.json"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        (
            {"hidden_act": "bogus"},
            UnsupportedModelError,
            "cannot make the model that .* describes .KeyError: 'bogus'.;",
        ),
        ({"hidden_size": 999}, CorruptFileError, "describes no model .*999.* is not a multiple of"),
        ({"hidden_size": 64}, CorruptFileError, "have another shape than its config.json states"),
        ({"num_attention_heads": 0}, CorruptFileError, "describes no model .ZeroDivisionError"),
        ({"num_hidden_layers": "x"}, CorruptFileError, "describes no model .*expected int"),
        ({"architectures": 0.5}, CorruptFileError, "describes no model .architectures is no list"),
        ({"num_hidden_layers": 0}, CorruptFileError, "describes no layers; download the model again"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, UnsupportedModelError, "is quantized, and"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, UnsupportedModelError, "of type 'dynamic', which"),
        (
            {"rope_scaling": {"rope_type": "bogus", "factor": 2.0}},
            UnsupportedModelError,
            "describes .KeyError: 'bogus'",
        ),
    ],
    ids=str,
)
def test_one_changed_entry_of_a_configuration(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    entries: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    save_checkpoint(AutoModelForCausalLM.from_config(CAUSAL["llama"]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if "rope_scaling" in entries:
        del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config | entries))
    capfd.readouterr()
    with pytest.raises(error, match=message) as caught:
        open_backbone(str(tmp_path))
    assert_one_sentence(caught.value, str(tmp_path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("bert", {"is_decoder": True}, "encoders are bidirectional here; use the encoder that it was made from"),
        ("roberta", {"is_decoder": True}, "encoders are bidirectional here"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "decoder-only models are causal here"),
        ("gemma2", {"use_bidirectional_attention": True}, "decoder-only models are causal here"),
        ("llama", {"is_causal": False}, "decoder-only models are causal here"),
    ],
)
def test_attention_of_another_family(tmp_path: Path, kind: str, entry: dict[str, bool], message: str) -> None:
    """Masks are made by family, so training and export would use others than the model's own training."""
    config = CAUSAL.get(kind) or ENCODERS[kind]
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | entry))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        open_backbone(str(tmp_path))
    assert_one_sentence(caught.value, str(tmp_path), next(iter(entry)))


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(hidden_size=8, n_layer=1, n_head=2),
        OPTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
    ],
    ids=["bloom", "opt"],
)
def test_unsupported_model_lists_supported_ones(tmp_path: Path, config: BloomConfig | OPTConfig) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(tmp_path))
    assert_one_sentence(caught.value, f"'{config.model_type}'", *ARCHITECTURES)
