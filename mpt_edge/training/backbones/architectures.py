"""Which models can carry a prompt, told by their ``config.json`` alone."""

from __future__ import annotations

from transformers import AutoConfig, PretrainedConfig

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder import ARCHITECTURES
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES
from mpt_edge.training.backbones.sources import Source, quiet_transformers, reason

#: Rotary positions that change with the length of what is read: keys of a prompt would not stay what they are.
_LENGTHWISE = frozenset({"dynamic", "longrope"})


def model_type(source: Source) -> str:
    """Return what a model's configuration calls it.

    Raises:
        UnsupportedModelError: there is no configuration that transformers understands, or the model is quantized, or
            turns its rotary positions by the length of a text, or attends otherwise than its family does.
        CorruptFileError: an entry of the configuration has a value that it cannot have.
    """
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.folder)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source.asked} has no config.json that transformers understands; use a model of type {supported()}."
        ) from error
    except Exception as error:  # each entry is checked in its own way
        raise CorruptFileError(
            f"{source.folder / 'config.json'} describes no model ({reason(error)}); download the model again."
        ) from error
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError(
            f"{source.asked} is quantized, and training and export need whole weights; use the model that it was made "
            "from."
        )
    for kind in _rope_types(config):
        if kind in _LENGTHWISE:
            raise UnsupportedModelError(
                f"{source.asked} has rotary positions of type {kind!r}, which depend on a text's length, so that no "
                "prompt can be read once for all texts; use a model without rope_scaling."
            )
    _check_attention(source, config)
    return str(config.model_type)


def _check_attention(source: Source, config: PretrainedConfig) -> None:
    """Refuse variants whose rows see others than those of their family do, since masks are made here by family.

    Raises:
        UnsupportedModelError: an encoder reads as a decoder, or a decoder both ways.
    """
    if config.model_type in ARCHITECTURES and getattr(config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{source.asked} was made to read from left to right (is_decoder in its config.json), and encoders read "
            "both ways here; use the encoder that it was made from."
        )
    both_ways = getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False
    if config.model_type in CAUSAL_ARCHITECTURES and both_ways:
        raise UnsupportedModelError(
            f"{source.asked} reads both ways (use_bidirectional_attention or is_causal in its config.json), and "
            "decoder-only models read from left to right here; use the model that writes, which it was made from."
        )


def _rope_types(config: PretrainedConfig) -> list[str]:
    """Return the types of rotary positions, which some models have for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    settings = [found, *(value for value in found.values() if isinstance(value, dict))]
    return [str(each["rope_type"]) for each in settings if "rope_type" in each]


def supported() -> str:
    """Return the model types that can carry a prompt, as words in a sentence."""
    return ", ".join(sorted({*ARCHITECTURES, *CAUSAL_ARCHITECTURES, *SEQ2SEQ_ARCHITECTURES}))
