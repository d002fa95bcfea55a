"""Family and sizes of a backbone, whatever its configuration calls them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from optimum.exporters.tasks import TasksManager
from optimum.utils.normalized_config import NormalizedConfigManager

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.manifest import Family
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq

#: Optimum's tasks of the encoders that a bundle serves.
ENCODER_TASKS = ("feature-extraction", "sentence-similarity", "fill-mask")


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Family and sizes of a backbone."""

    family: Family
    layers: int
    """Layers, of the encoder for encoder-decoder models."""
    heads: int
    """Heads of a layer whose keys and values are cached."""
    head_size: int
    """Channels of a head."""
    hidden_size: int
    """Channels d of the hidden states."""


def dimensions(backbone: AnyBackbone) -> Dimensions:
    """Infer the dimensions of a backbone of any family.

    Raises:
        UnsupportedModelError: a bundle serves no model of its kind.
    """
    if isinstance(backbone, Seq2SeqBackbone):
        return seq2seq_dimensions(backbone.model)
    if isinstance(backbone, CausalBackbone):
        return causal_dimensions(backbone.model)
    return _encoder_dimensions(backbone)


def seq2seq_dimensions(model: PromptedSeq2Seq) -> Dimensions:
    """Return the dimensions of an encoder-decoder model."""
    config = model.model.config
    return Dimensions(
        family=Family.SEQ2SEQ,
        layers=model.encoder_layers,
        heads=int(config.num_heads),
        head_size=int(config.d_kv),
        hidden_size=model.hidden_size,
    )


def causal_dimensions(model: PromptedCausal) -> Dimensions:
    """Measure the dimensions of a decoder-only model on one token.

    Configurations name grouped heads and their size in too many ways to read them there.
    """
    with torch.no_grad():
        _, heads, _, head_size = model.encode_prompt(torch.zeros(1, 1, model.hidden_size))[0][0].shape
    return Dimensions(
        family=Family.CAUSAL,
        layers=model.layer_count,
        heads=heads,
        head_size=head_size,
        hidden_size=model.hidden_size,
    )


def _encoder_dimensions(backbone: EncoderBackbone) -> Dimensions:
    """Read the dimensions of an encoder under the names that Optimum normalizes. Raises UnsupportedModelError."""
    model = backbone.model.model
    task = TasksManager.infer_task_from_model(type(model))
    if TasksManager.map_from_synonym(task) not in ENCODER_TASKS:
        raise UnsupportedModelError(f"{backbone.id} is a {task} model; export one for {', '.join(ENCODER_TASKS)}.")
    config = NormalizedConfigManager.get_normalized_config_class(model.config.model_type)(model.config)
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    return Dimensions(
        family=Family.ENCODER,
        layers=int(config.num_layers),
        heads=heads,
        head_size=width // heads,
        hidden_size=width,
    )
