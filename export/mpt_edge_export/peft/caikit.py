"""Reading prompts that caikit folded for TGIS: ``encoder.pt`` and ``decoder.pt``, one matrix each.

caikit-nlp composes the prompt of the only task before it saves, so a folder is one whole prompt. Its
``config.yml`` is read for the template ("verbalizer") and the base model's name, and may be missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError
from mpt_edge_export.peft.adapter import PLAIN, PeftAdapter, read_tensors

ENCODER, DECODER, CONFIG = "encoder.pt", "decoder.pt", "config.yml"

_MAX_CONFIG = 1 << 20


def is_caikit(folder: Path) -> bool:
    """Whether a folder holds folded prompts."""
    return any((folder / name).is_file() for name in (ENCODER, DECODER))


def read_caikit(folder: Path) -> PeftAdapter:
    """Read a folder of folded prompts as plain prompt tuning.

    ``encoder.pt`` makes it a prompt of an encoder-decoder model; a ``decoder.pt`` beside it is the
    decoder's half. ``decoder.pt`` alone belongs to a decoder-only model.

    Raises:
        CorruptFileError: a file cannot be read, or is no matrix.
    """
    parts = [_matrix(folder / name) for name in (ENCODER, DECODER) if (folder / name).is_file()]
    if len(parts) == 2 and parts[0].shape != parts[1].shape:
        raise CorruptFileError(f"{folder}: {ENCODER} and {DECODER} differ in shape; export the prompt again.")
    config = _config(folder / CONFIG)
    return PeftAdapter(
        source=str(folder),
        method=PLAIN,
        task_type="SEQ_2_SEQ_LM" if (folder / ENCODER).is_file() else "CAUSAL_LM",
        base_model=str(config.get("base_model_name") or ""),
        length=len(parts[0]),
        prompt=np.concatenate(parts),
        cols=None,
        rows=None,
        modules={},
        template=str(config.get("verbalizer") or "").replace("{{input}}", "{text}"),
    )


def _matrix(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = read_tensors(path)
    matrix = values.get("")
    if len(values) != 1 or matrix is None or matrix.ndim != 2 or 0 in matrix.shape:
        raise CorruptFileError(f"{path} is not one matrix of numbers; export the prompt again.")
    return matrix


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(read_small(path, _MAX_CONFIG))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not YAML; delete it, or export the prompt again.") from error
    return config if isinstance(config, dict) else {}
