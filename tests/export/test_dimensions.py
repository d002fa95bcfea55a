"""Family and sizes of a backbone, whatever its configuration calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from optimum.exporters.tasks import TasksManager
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.manifest import Family
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export.dimensions import Dimensions, dimensions
from tests.support.encoders import save_tokenizer


def saved_dimensions(model: PreTrainedModel, folder: Path) -> Dimensions:
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return dimensions(open_backbone(str(folder)))


def test_encoder(tiny: EncoderBackbone) -> None:
    assert dimensions(tiny) == Dimensions(family=Family.ENCODER, layers=2, heads=4, head_size=8, hidden_size=32)


def test_grouped_heads_with_their_own_size(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=48, pad_token_id=0,
    )  # fmt: skip
    result = saved_dimensions(LlamaForCausalLM(config), tmp_path)
    assert result == Dimensions(family=Family.CAUSAL, layers=3, heads=2, head_size=16, hidden_size=32)


def test_encoder_layers_and_heads_that_do_not_add_up_to_the_width(tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=100, d_model=32, d_kv=6, d_ff=48, num_layers=3, num_decoder_layers=1, num_heads=4,
        pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    result = saved_dimensions(T5ForConditionalGeneration(config), tmp_path)
    assert result == Dimensions(family=Family.SEQ2SEQ, layers=3, heads=4, head_size=6, hidden_size=32)


def test_model_of_a_task_that_no_bundle_serves(tiny: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TasksManager, "infer_task_from_model", lambda _: "text-classification")
    with pytest.raises(UnsupportedModelError, match="is a text-classification model; export one for feature-extr"):
        dimensions(tiny)
