"""A model of transformers with the weights of a GGUF file, in float32."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.gguf_file import GgufFile
from mpt_edge.training.backbones.weights import load_weights

#: Modules outside the layers, by GGUF's names.
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

#: Modules of a layer, by GGUF's names.
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

#: Modules of a layer with four norms, where they differ: Gemma 2 and 3.
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<module>\w+)\.(?P<kind>weight|bias)")

#: Tensors that the configuration was read from.
_READ = frozenset({"rope_freqs.weight"})


def read_gguf_model(file: GgufFile, config: PretrainedConfig) -> Any:
    """Load the model of a file.

    Raises:
        UnsupportedModelError: it has a tensor that its architecture has not, or of a type that cannot be read.
        CorruptFileError: weights are missing, or have another shape than the metadata states.
    """
    weights = {_name(name, file): torch.from_numpy(_values(name, file, config)) for name in file.tensors.keys() - _READ}
    return load_weights(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, weights, file.path)


def _name(name: str, file: GgufFile) -> str:
    """Return transformers' name of a tensor. Raises UnsupportedModelError for one that is unknown."""
    match = _NAME.fullmatch(name)
    inner = _INNER | (_FOUR_NORMS if file.architecture in ("gemma2", "gemma3") else {})
    if match is not None:
        layer, module, kind = match["layer"], match["module"], match["kind"]
        if layer is None and module in _OUTER:
            return f"{_OUTER[module]}.{kind}"
        if layer is not None and module in inner:
            return f"model.layers.{layer}.{inner[module]}.{kind}"
    raise UnsupportedModelError(
        f"{file.path} has the tensor {name!r}, which no supported {file.architecture!r} model has; use the folder of "
        "the model that it was made from."
    )


def _values(name: str, file: GgufFile, config: PretrainedConfig) -> NDArray[np.float32]:
    """Return a tensor as transformers has it, in memory that may be written to."""
    values = file.weights(name)
    if file.architecture == "llama" and ".attn_q." in name:
        values = _restore_halves(values, config.num_attention_heads)
    elif file.architecture == "llama" and ".attn_k." in name:
        values = _restore_halves(values, config.num_key_value_heads)
    elif file.architecture.startswith("gemma") and name.endswith("norm.weight"):
        values = values - 1  # GGUF holds the factors themselves
    return np.require(values, np.float32, ["C", "O", "W"])


def _restore_halves(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows of rotated heads as two halves; in GGUF, the rows of a rotation are neighbors."""
    size = len(values) // heads
    if size * heads != len(values) or size % 2:
        return values  # the shape is refused by name later
    return values.reshape(heads, size // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
