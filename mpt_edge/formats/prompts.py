"""Prompt algebra and the shared prompt's file (paper section 3.1, equation 2).

A task's prompt is the shared prompt scaled by two vectors,
``P_k = P* ∘ (u_k v_kᵀ) = diag(u_k) · P* · diag(v_k)``: ``u`` scales virtual tokens, ``v`` scales
channels. PEFT can train r such pairs (``num_ranks``) and sums their products; ``u`` is then
``(l, r)`` and ``v`` ``(r, d)``. A prompt that enters all layers is ``(l, layers, d)``, and the same
two vectors scale every layer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats, Stored
from mpt_edge._files import read_small, user_path
from mpt_edge.errors import CorruptFileError, InputError, MismatchError
from mpt_edge.formats import tensors
from mpt_edge.formats.limits import length_problem
from mpt_edge.formats.linear_head import LinearHead
from mpt_edge.formats.placement import Placement

#: Format entry of a prompt file.
FORMAT = "mpt-edge prompt 1"

#: Size limit of a prompt file: 200 virtual tokens for each of 32 layers, with 4,096 float16 channels, and some room.
MAX_PROMPT_BYTES = 64 << 20


def compose(shared: Stored, u: Stored, v: Stored) -> Floats:
    """Return the prompt of one task, ``P* ∘ (u vᵀ)``, in float32.

    The scales are multiplied first and the shared prompt last, as in PEFT, so imported tasks get
    the same prompt to the last bit.

    Args:
        shared: the shared prompt, shape ``(l, d)``, or ``(l, layers, d)`` where it enters all layers.
        u: scale of each virtual token, shape ``(l,)``, or ``(l, r)`` for r pairs.
        v: scale of each channel, shape ``(d,)``, or ``(r, d)``.

    Raises:
        MismatchError: the shapes do not belong together.
    """
    if shared.ndim not in (2, 3) or scaled_shape(u, v) != length_and_width(shared):
        raise MismatchError(
            f"u {u.shape} and v {v.shape} do not fit a shared prompt of shape {shared.shape}; "
            "use the shared prompt the task was trained with."
        )
    rows: Floats = u.astype(np.float32)
    channels: Floats = v.astype(np.float32)
    scales = rows[:, None] * channels[None, :] if u.ndim == 1 else rows @ channels
    scales = scales if shared.ndim == 2 else scales[:, None, :]
    with np.errstate(over="ignore"):  # callers refuse values that are not finite
        composed: Floats = shared.astype(np.float32) * scales
    return composed


def length_and_width(prompt: Stored) -> tuple[int, int]:
    """Return l and d of a prompt ``(l, d)`` or ``(l, layers, d)``."""
    return prompt.shape[0], prompt.shape[-1]


def scaled_shape(u: Stored, v: Stored) -> tuple[int, int] | None:
    """Return l and d of the prompts that a task's vectors scale; None where the vectors do not pair up."""
    pairs = u.ndim == v.ndim == 1 or (u.ndim == v.ndim == 2 and u.shape[1] == v.shape[0])
    return (u.shape[0], v.shape[-1]) if pairs and u.size and v.size else None


@dataclass(frozen=True)
class SharedPrompt:
    """A prompt that many tasks scale."""

    name: str
    """Name in task files."""
    values: Stored = field(repr=False)
    """``P*``, shape ``(l, d)``, or ``(l, layers, d)`` where it enters all layers; float16 or float32."""
    placement: Placement
    """Attention layout and prompt position that it was trained in."""
    backbone: str
    """Fingerprint of the frozen model that it was trained on."""
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Provenance: data, steps, seed, learning rates."""
    license: str | None = None
    """License of the training data."""
    head: LinearHead | None = field(default=None, repr=False)
    """Linear head of all its tasks, as PEFT saves it."""

    def __post_init__(self) -> None:
        """Refuse values of other types. Raises InputError."""
        if not isinstance(self.values, np.ndarray) or not isinstance(self.placement, Placement):
            raise InputError("a prompt has a numpy array of values and a Placement; pass these.")

    @property
    def length(self) -> int:
        """Number of virtual tokens l."""
        return len(self.values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the values and the head; task files identify their prompt by it."""
        return tensors.fingerprint(self.values, *(self.head.tensors().values() if self.head else ()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the prompt as one safetensors file, atomically; missing folders are made."""
        metadata = {
            "format": FORMAT,
            "name": self.name,
            "layout": self.placement.layout,
            "prompt_position": self.placement.position,
            "backbone": self.backbone,
            "training": dict(self.training),
            "license": self.license,
            "head": self.head.activations if self.head else None,
        }
        tensors.write(user_path(path), {"prompt": self.values} | (self.head.tensors() if self.head else {}), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SharedPrompt:
        """Read a prompt file. Raises CorruptFileError for any other file."""
        file = user_path(path)
        return cls.parse(read_small(file, MAX_PROMPT_BYTES), str(file))

    @classmethod
    def parse(cls, data: bytes, source: str) -> SharedPrompt:
        """Read a prompt file's bytes; ``source`` names it in messages.

        Raises:
            CorruptFileError: the bytes are no prompt file.
        """
        arrays, metadata = tensors.parse(data, source)
        if metadata.get("format") != FORMAT:
            raise CorruptFileError(
                f"{source} is not a prompt file this version reads (found {metadata.get('format', 'no format')!r}, "
                f"expected {FORMAT!r}); pass prompts/<name>.safetensors or upgrade mpt-edge."
            )
        prompt = parse_prompt(arrays, metadata, source, metadata.get("name", ""))
        if prompt is None or any(name != "prompt" and not name.startswith("head.") for name in arrays):
            raise CorruptFileError(f"{source} is not a prompt file; pass prompts/<name>.safetensors.")
        for problem in length_problem(prompt.length):
            raise CorruptFileError(f"{source}: {problem}; train a shorter one.")
        return prompt


def parse_prompt(
    arrays: Mapping[str, Stored], metadata: Mapping[str, str], source: str, name: str
) -> SharedPrompt | None:
    """Return the prompt in the tensors and metadata of a prompt or task file; None where they do not fit.

    Raises:
        CorruptFileError: its training facts or its head cannot be read.
    """
    values = arrays.get("prompt")
    placement = Placement.parse(metadata.get("layout"), metadata.get("prompt_position"))
    if values is None or placement is None or values.ndim != placement.ndim or not values.size:
        return None
    activations = tensors.structured(metadata, "head", list, source)
    return SharedPrompt(
        name=name,
        values=values,
        placement=placement,
        backbone=metadata.get("backbone", ""),
        training=tensors.structured(metadata, "training", dict, source),
        license=metadata.get("license"),
        head=LinearHead.parse(arrays, activations, values.shape[-1], source),
    )
