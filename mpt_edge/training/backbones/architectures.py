"""Checks of a model's ``config.json``, before any weights are read."""

from __future__ import annotations

from transformers import AutoConfig, PretrainedConfig

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder import ARCHITECTURES
from mpt_edge.training.backbones.locating import ModelSource
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES
from mpt_edge.training.backbones.weights import quiet_transformers, reason

#: Rotary positions that depend on the text's length. A prompt's cached keys would be wrong for other lengths.
_LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})


def model_type(source: ModelSource) -> str:
    """Return the ``model_type`` of a model that passes all checks.

    Raises:
        UnsupportedModelError: there is no configuration that transformers understands, the model is
            quantized, its rotary positions depend on the text's length, or its attention is not its
            family's.
        CorruptFileError: an entry of the configuration has an impossible value.
    """
    config = _read_config(source)
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError(
            f"{source.asked} is quantized, and training and export need whole weights; use the model that it was made "
            "from."
        )
    for kind in _rope_types(config):
        if kind in _LENGTH_DEPENDENT:
            raise UnsupportedModelError(
                f"{source.asked} has rotary positions of type {kind!r}, which depend on a text's length, so that no "
                "prompt can be cached for all texts; use a model without rope_scaling."
            )
    _check_attention(source, config)
    return str(config.model_type)


def supported() -> str:
    """Return the model types that can carry a prompt, separated by commas."""
    return ", ".join(sorted({*ARCHITECTURES, *CAUSAL_ARCHITECTURES, *SEQ2SEQ_ARCHITECTURES}))


def _read_config(source: ModelSource) -> PretrainedConfig:
    """Return the model's configuration. Raises UnsupportedModelError and CorruptFileError."""
    try:
        with quiet_transformers():
            config: PretrainedConfig = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source.asked} has no config.json that transformers understands; use a model of type {supported()}."
        ) from error
    except Exception as error:  # transformers checks each entry in its own way
        raise CorruptFileError(
            f"{source.folder / 'config.json'} describes no model ({reason(error)}); download the model again."
        ) from error
    if not isinstance(config.architectures, list | None):  # the one entry that transformers does not check
        raise CorruptFileError(
            f"{source.folder / 'config.json'} describes no model (architectures is no list); download the model again."
        )
    return config


def _check_attention(source: ModelSource, config: PretrainedConfig) -> None:
    """Refuse variants with another attention than their family, since masks are made by family.

    Raises:
        UnsupportedModelError: an encoder is causal, or a decoder-only model is bidirectional.
    """
    if config.model_type in ARCHITECTURES and getattr(config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{source.asked} has causal attention (is_decoder in its config.json), and encoders are bidirectional "
            "here; use the encoder that it was made from."
        )
    is_bidirectional = (
        getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False
    )
    if config.model_type in CAUSAL_ARCHITECTURES and is_bidirectional:
        raise UnsupportedModelError(
            f"{source.asked} has bidirectional attention (use_bidirectional_attention or is_causal in its "
            "config.json), and decoder-only models are causal here; use the generative model that it was made from."
        )


def _rope_types(config: PretrainedConfig) -> list[str]:
    """Return the types of rotary positions; some models have one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    settings = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return [str(each["rope_type"]) for each in settings if "rope_type" in each]
