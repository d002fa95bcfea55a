"""Heads of PEFT's task types on an encoder, rebuilt from the tensors that the adapter saved.

The classifier is part of the adapter. BERT's pooler is not: it is frozen with the base model, and is
read from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AutoModel

from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.formats.linear_head import Activation, LinearHead, LinearLayer
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge_export.peft.adapter import PeftAdapter
from mpt_edge_export.peft.task_types import TaskType

#: Module of the base model, and the activation after it.
_Layer = tuple[str, Activation | None]

_POOLER: _Layer = ("pooler.dense", Activation.TANH)

#: Layers of a sequence classifier by ``model_type``.
_SEQUENCE: dict[str, tuple[_Layer, ...]] = {
    "bert": (_POOLER, ("classifier", None)),
    "distilbert": (("pre_classifier", Activation.RELU), ("classifier", None)),
    "electra": (("classifier.dense", Activation.GELU), ("classifier.out_proj", None)),
    "roberta": (("classifier.dense", Activation.TANH), ("classifier.out_proj", None)),
}
_SEQUENCE |= dict.fromkeys(("camembert", "xlm-roberta"), _SEQUENCE["roberta"])


def head_of(adapter: PeftAdapter, backbone: AnyBackbone) -> LinearHead | None:
    """Return the head that belongs to an adapter's prompts; None where the task type has none.

    Raises:
        CorruptFileError: the adapter did not save it completely, or saved other modules too.
        UnsupportedModelError: heads of the base model's type are unknown, or it lacks a part of one.
    """
    task_type, layers = adapter.task_type, _layers(adapter.task_type, backbone)
    kind = backbone.model.model.config.model_type
    if (task_type.is_sequence or task_type.output_module) and kind not in _SEQUENCE:
        raise UnsupportedModelError(
            f"{adapter.source} is a {task_type.name} adapter, and the heads of {kind} models cannot be imported; "
            f"those of {', '.join(sorted(_SEQUENCE))} can."
        )
    tensors = dict(adapter.modules)
    if isinstance(backbone, EncoderBackbone) and _POOLER in layers:
        tensors |= _pooler(backbone)
    result = [_take(adapter, tensors, layer) for layer in layers]
    if tensors:
        raise UnsupportedModelError(
            f"{adapter.source} also changes {sorted(tensors)[0]!r} of its base model, which stays frozen here; "
            "train the adapter without it."
        )
    return LinearHead(tuple(result)) if result else None


def head_names(task_type: TaskType, backbone: AnyBackbone) -> list[str]:
    """Return the modules of the base model that make up a head, in order."""
    return [name for name, _ in _layers(task_type, backbone)]


def is_saved(name: str) -> bool:
    """Whether PEFT saves a module of a head; BERT's pooler stays with the base model."""
    return name != _POOLER[0]


def _layers(task_type: TaskType, backbone: AnyBackbone) -> Sequence[_Layer]:
    if task_type.output_module is not None:
        return ((task_type.output_module, None),)
    return _SEQUENCE.get(backbone.model.model.config.model_type, ()) if task_type.is_sequence else ()


def _take(adapter: PeftAdapter, tensors: dict[str, Floats], layer: _Layer) -> LinearLayer:
    """Remove a layer's tensors from ``tensors`` and return it. Raises CorruptFileError."""
    name, activation = layer
    weight, bias = (tensors.pop(f"{name}.{part}", None) for part in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise CorruptFileError(
            f"{adapter.source} lacks the trained {name!r} of its {adapter.task_type.name} head; save it again with "
            "PEFT, with the head in modules_to_save."
        )
    return LinearLayer(weight, bias, activation)


def _pooler(backbone: EncoderBackbone) -> dict[str, Floats]:
    """Return the pooler of the base model. Raises UnsupportedModelError for a checkpoint without one."""
    model, report = AutoModel.from_pretrained(backbone.folder, output_loading_info=True, trust_remote_code=False)
    if any(name.startswith("pooler.") for name in report["missing_keys"]):  # transformers filled in random values
        raise UnsupportedModelError(
            f"{backbone.id} has no pooler, so PEFT gave the classifier a random one and did not save it; "
            "the adapter cannot be used without the model it was trained in."
        )
    values = {name: value.float().numpy() for name, value in model.state_dict().items()}
    return {name: value for name, value in values.items() if name.startswith(f"{_POOLER[0]}.")}
