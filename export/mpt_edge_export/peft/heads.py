"""Which head PEFT's task types put on an encoder, rebuilt from what the adapter saved.

The classifier is part of the adapter. BERT's pooler is not: it is frozen with the base model, and
comes from there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModel

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.formats.linear_head import Head, Layer
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge_export.peft.adapter import PeftAdapter

Tensors = Mapping[str, NDArray[np.float32]]

#: How the answer of each task type is read here.
READOUT_OF = {
    "SEQ_CLS": "classifier",
    "TOKEN_CLS": "tokens",
    "QUESTION_ANS": "span",
    "FEATURE_EXTRACTION": "embedding",
    "CAUSAL_LM": "generation",
    "SEQ_2_SEQ_LM": "generation",
}

#: Layers of a sequence classifier by ``model_type``: the module's name, and what follows it.
_SEQUENCE: dict[str, tuple[tuple[str, str], ...]] = {
    "bert": (("pooler.dense", "tanh"), ("classifier", "")),
    "distilbert": (("pre_classifier", "relu"), ("classifier", "")),
    "electra": (("classifier.dense", "gelu"), ("classifier.out_proj", "")),
    "roberta": (("classifier.dense", "tanh"), ("classifier.out_proj", "")),
}
_SEQUENCE |= dict.fromkeys(("camembert", "xlm-roberta"), _SEQUENCE["roberta"])

_PER_TOKEN = {"TOKEN_CLS": (("classifier", ""),), "QUESTION_ANS": (("qa_outputs", ""),)}


def head_of(adapter: PeftAdapter, backbone: AnyBackbone) -> Head | None:
    """Return the head behind an adapter's prompts; None where the task type has none.

    Raises:
        CorruptFileError: the adapter did not save it whole, or saved other modules too.
        UnsupportedModelError: the backbone lacks a part that PEFT took from it.
    """
    layers = _layers(adapter.task_type, backbone)
    kind = backbone.model.model.config.model_type
    if adapter.task_type in ("SEQ_CLS", *_PER_TOKEN) and kind not in _SEQUENCE:
        raise UnsupportedModelError(
            f"{adapter.source} is a {adapter.task_type} adapter, and the heads of {kind} models cannot be imported; "
            f"those of {', '.join(sorted(_SEQUENCE))} can."
        )
    tensors = dict(adapter.modules)
    if isinstance(backbone, EncoderBackbone) and ("pooler.dense", "tanh") in layers:
        tensors |= _pooler(backbone)
    found = [_layer(adapter, tensors, name, activation) for name, activation in layers]
    if tensors:
        raise UnsupportedModelError(
            f"{adapter.source} also changes {sorted(tensors)[0]!r} of its base model, which stays frozen here; "
            "train the adapter without it."
        )
    return Head(tuple(found)) if found else None


def head_names(task_type: str, backbone: AnyBackbone) -> list[str]:
    """Return what the layers of a head are called in the base model."""
    return [name for name, _ in _layers(task_type, backbone)]


def _layers(task_type: str, backbone: AnyBackbone) -> tuple[tuple[str, str], ...]:
    kind = backbone.model.model.config.model_type
    return _SEQUENCE.get(kind, ()) if task_type == "SEQ_CLS" else _PER_TOKEN.get(task_type, ())


def _layer(adapter: PeftAdapter, tensors: dict[str, NDArray[np.float32]], name: str, activation: str) -> Layer:
    weight, bias = (tensors.pop(f"{name}.{part}", None) for part in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise CorruptFileError(
            f"{adapter.source} lacks the trained {name!r} of its {adapter.task_type} head; save it again with PEFT, "
            "with the head in modules_to_save."
        )
    return Layer(weight, bias, activation)


def _pooler(backbone: EncoderBackbone) -> dict[str, NDArray[np.float32]]:
    """Return the pooler of the base model; a checkpoint without one would get random values."""
    model, report = AutoModel.from_pretrained(backbone.folder, output_loading_info=True)
    if any(name.startswith("pooler.") for name in report["missing_keys"]):
        raise UnsupportedModelError(
            f"{backbone.id} has no pooler, so PEFT gave the classifier a random one and did not save it; "
            "the adapter cannot be used without the model it was trained in."
        )
    values = {name: value.float().numpy() for name, value in model.state_dict().items()}
    return {name: value for name, value in values.items() if name.startswith("pooler.dense.")}
