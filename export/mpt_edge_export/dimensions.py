"""What Optimum knows about a backbone: its task, and its dimensions under normalized names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from optimum.exporters.tasks import TasksManager
from optimum.utils.normalized_config import NormalizedConfigManager

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.opening import AnyBackbone

#: Optimum's tasks that a bundle serves, and the family each belongs to.
FAMILIES = {"feature-extraction": "encoder", "sentence-similarity": "encoder", "fill-mask": "encoder"}


@dataclass(frozen=True)
class Dimensions:
    """Family and sizes of a backbone, whatever its configuration calls them."""

    family: str
    layers: int
    heads: int
    head_size: int
    hidden_size: int


def dimensions(backbone: AnyBackbone) -> Dimensions:
    """Infer family and sizes; ``heads`` are those whose keys and values are cached.

    Raises:
        UnsupportedModelError: the model is of no family that a bundle serves.
    """
    if isinstance(backbone, Seq2SeqBackbone):
        t5 = backbone.model
        config = t5.model.config
        return Dimensions("seq2seq", t5.encoder_layers, int(config.num_heads), int(config.d_kv), t5.hidden_size)
    if isinstance(backbone, CausalBackbone):
        causal = backbone.model
        with torch.no_grad():  # configurations name grouped heads and their size in too many ways
            _, heads, _, head_size = causal.encode_prompt(torch.zeros(1, 1, causal.hidden_size))[0][0].shape
        return Dimensions("causal", causal.layer_count, heads, head_size, causal.hidden_size)
    model = backbone.model.model
    task = TasksManager.infer_task_from_model(type(model))
    family = FAMILIES.get(TasksManager.map_from_synonym(task))
    if family is None:
        raise UnsupportedModelError(f"{backbone.id} is a {task} model; export one for {', '.join(FAMILIES)}.")
    config = NormalizedConfigManager.get_normalized_config_class(model.config.model_type)(model.config)
    heads, width = int(config.num_attention_heads), int(config.hidden_size)
    return Dimensions(family, int(config.num_layers), heads, width // heads, width)
