"""Prompts that caikit folded for TGIS: ``encoder.pt`` and ``decoder.pt``, one matrix each.

caikit-nlp composes the prompt of the only task before it saves, so a folder holds one complete
prompt. ``config.yml`` is optional. It states the template ("verbalizer") and the base model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mpt_edge._arrays import Floats
from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge_export.peft.adapter import PeftAdapter, read_tensors
from mpt_edge_export.peft.task_types import TASK_TYPES, Method

ENCODER, DECODER, CONFIG = "encoder.pt", "decoder.pt", "config.yml"

#: Size limit of ``config.yml``, in bytes; it takes seconds to read a million.
_MAX_CONFIG = 64 << 10


def is_caikit(folder: Path) -> bool:
    """Whether a folder holds folded prompts."""
    return any((folder / name).is_file() for name in (ENCODER, DECODER))


def read_caikit(folder: Path) -> PeftAdapter:
    """Read a folder of folded prompts as plain prompt tuning.

    With ``encoder.pt`` it belongs to an encoder-decoder model, and a ``decoder.pt`` beside it is the
    decoder's half. ``decoder.pt`` alone belongs to a decoder-only model.

    Raises:
        InputError: there is neither.
        CorruptFileError: a file cannot be read, or is no matrix.
    """
    if not is_caikit(folder):
        raise InputError(f"{folder} holds neither {ENCODER} nor {DECODER}; pass the folder of a folded prompt.")
    parts = [_matrix(folder / name) for name in (ENCODER, DECODER) if (folder / name).is_file()]
    if len(parts) == 2 and parts[0].shape != parts[1].shape:
        raise CorruptFileError(f"{folder}: {ENCODER} and {DECODER} differ in shape; export the prompt again.")
    config = _config(folder / CONFIG)
    template = str(config.get("verbalizer") or "").replace("{{input}}", "{text}")
    return PeftAdapter(
        source=str(folder),
        method=Method.PLAIN,
        task_type=TASK_TYPES["SEQ_2_SEQ_LM" if (folder / ENCODER).is_file() else "CAUSAL_LM"],
        base_model=str(config.get("base_model_name") or "") or None,
        length=len(parts[0]),
        prompt=np.concatenate(parts),
        modules={},
        template=template or None,
    )


def _matrix(path: Path) -> Floats:
    values = read_tensors(path)
    matrix = values.get("")
    if len(values) != 1 or matrix is None or matrix.ndim != 2 or 0 in matrix.shape:
        raise CorruptFileError(f"{path} is not one matrix of numbers; export the prompt again.")
    return matrix


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = read_small(path, _MAX_CONFIG)
    try:
        # Aliases let a few lines stand for billions of characters, and caikit writes none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, yaml.SafeLoader)):
            raise CorruptFileError(f"{path} has YAML aliases; write the values out, or delete it.")
        config = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"{path} is not YAML; delete it, or export the prompt again.") from error
    return config if isinstance(config, dict) else {}
