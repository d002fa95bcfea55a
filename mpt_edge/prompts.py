"""Prompt algebra and the shared prompt's file (paper section 3.1, equation 2).

A task's prompt is the shared prompt scaled by two vectors,
``P_k = P* ∘ (u_k v_kᵀ) = diag(u_k) · P* · diag(v_k)``, so ``u`` scales prompt rows and ``v``
scales channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge import tensors
from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError, MismatchError

#: Prompt rows attend to prompt rows only, or prompt and text attend to each other.
LAYOUTS = ("prefix", "joint")

#: Largest prompt file that is read: 4,096 rows of 1,024 float32 channels.
MAX_PROMPT_BYTES = 16 << 20


def compose(
    shared: NDArray[np.floating[Any]], u: NDArray[np.floating[Any]], v: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Return the prompt of one task, ``P* ∘ (u vᵀ)``, in float32.

    Args:
        shared: the shared prompt, shape ``(l, d)``.
        u: the task's row scales, shape ``(l,)``.
        v: the task's channel scales, shape ``(d,)``.

    Raises:
        MismatchError: the shapes do not belong together.
    """
    if shared.ndim != 2 or u.shape != shared.shape[:1] or v.shape != shared.shape[1:]:
        raise MismatchError(
            f"u {u.shape} and v {v.shape} do not fit a shared prompt of shape {shared.shape}; "
            "use the shared prompt the task was trained with."
        )
    single = np.float32
    return shared.astype(single) * u.astype(single)[:, None] * v.astype(single)[None, :]


@dataclass(frozen=True)
class SharedPrompt:
    """The prompt that many tasks scale.

    Attributes:
        name: what task files call it.
        values: ``P*``, shape ``(l, d)``, float16 or float32.
        layout: ``"prefix"`` or ``"joint"``, the attention it was trained in.
        backbone: fingerprint of the frozen model it was trained on.
        training: how it was made (data, steps, seed, rates).
        licence: licence of the data it was trained on.
    """

    name: str
    values: NDArray[np.floating[Any]]
    layout: str
    backbone: str
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the values; task files name the prompt they scale by it."""
        return tensors.fingerprint(self.values)

    def save(self, path: Path) -> None:
        """Write the prompt as one safetensors file."""
        metadata = {
            "format": "mpt-edge prompt 1",
            "name": self.name,
            "layout": self.layout,
            "backbone": self.backbone,
            "training": dict(self.training),
            "licence": self.licence,
        }
        tensors.write(path, {"prompt": self.values}, metadata)

    @classmethod
    def load(cls, path: Path) -> SharedPrompt:
        """Read a prompt file. Raises CorruptFileError where it is not one."""
        return cls.parse(read_small(path, MAX_PROMPT_BYTES), str(path))

    @classmethod
    def parse(cls, data: bytes, source: str) -> SharedPrompt:
        """Read a prompt file's bytes; ``source`` names it in messages.

        Raises:
            CorruptFileError: the bytes are no prompt file.
        """
        arrays, metadata = tensors.parse(data, source)
        values = arrays.get("prompt")
        layout = metadata.get("layout", "")
        if values is None or values.ndim != 2 or layout not in LAYOUTS or len(arrays) != 1:
            raise CorruptFileError(f"{source} is not a prompt file; pass prompts/<name>.safetensors.")
        return cls(
            name=metadata.get("name", ""),
            values=values,
            layout=layout,
            backbone=metadata.get("backbone", ""),
            training=tensors.structured(metadata, "training", dict, source),
            licence=metadata.get("licence", ""),
        )
