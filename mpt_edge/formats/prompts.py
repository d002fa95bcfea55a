"""Prompt algebra and the shared prompt's file (paper section 3.1, equation 2).

A task's prompt is the shared prompt scaled by two vectors,
``P_k = P* ∘ (u_k v_kᵀ) = diag(u_k) · P* · diag(v_k)``, so ``u`` scales prompt rows and ``v``
scales channels. PEFT can train r such pairs a task (``num_ranks``), whose products are summed; ``u``
is then ``(l, r)`` and ``v`` ``(r, d)``. A shared prompt that enters every layer has rows for each of
them, ``(l, layers, d)``, which the same two vectors scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError, MismatchError
from mpt_edge.formats import tensors
from mpt_edge.formats.linear_head import Head

#: What a prompt file says of itself.
FORMAT = "mpt-edge prompt 1"

#: Largest prompt file that is read: 200 rows for each of 32 layers, with 4,096 float16 channels, and some room.
MAX_PROMPT_BYTES = 64 << 20


class Layout(StrEnum):
    """Who sees whom: prompt rows see prompt rows alone, or prompt and text see each other."""

    PREFIX = "prefix"
    JOINT = "joint"


class Entry(StrEnum):
    """Where a prompt enters.

    Attributes:
        FIRST_LAYER: as the first layer's input.
        INPUTS_EMBEDS: in place of word embeddings, where PEFT feeds it.
        EVERY_LAYER: with rows of its own as the input of every layer, in place of what the layer before made of them
            (P-tuning v2, arXiv 2110.07602).
    """

    FIRST_LAYER = "first_layer"
    INPUTS_EMBEDS = "inputs_embeds"
    EVERY_LAYER = "every_layer"


def goes_together(layout: str, entry: str) -> bool:
    """Whether a prompt can be read so; one that enters every layer is never changed by a text (no joint layout)."""
    known = layout in list(Layout) and entry in list(Entry)
    return known and (layout, entry) != (Layout.JOINT, Entry.EVERY_LAYER)


def compose(
    shared: NDArray[np.floating[Any]], u: NDArray[np.floating[Any]], v: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Return the prompt of one task, ``P* ∘ (u vᵀ)``, in float32.

    The scales are multiplied first and the shared prompt after, as PEFT does, so that imported tasks
    get the same prompt to the last bit.

    Args:
        shared: the shared prompt, shape ``(l, d)``, or ``(l, layers, d)`` where it enters every layer.
        u: the task's row scales, shape ``(l,)``, or ``(l, r)`` for r pairs.
        v: the task's channel scales, shape ``(d,)``, or ``(r, d)``.

    Raises:
        MismatchError: the shapes do not belong together.
    """
    if shared.ndim not in (2, 3) or scaled_shape(u, v) != rows_and_width(shared):
        raise MismatchError(
            f"u {u.shape} and v {v.shape} do not fit a shared prompt of shape {shared.shape}; "
            "use the shared prompt the task was trained with."
        )
    single = np.float32
    u, v = u.astype(single), v.astype(single)
    scales = u[:, None] * v[None, :] if u.ndim == 1 else u @ v
    scales = scales if shared.ndim == 2 else scales[:, None, :]
    composed: NDArray[np.float32] = shared.astype(single) * scales
    return composed


def rows_and_width(prompt: NDArray[np.floating[Any]]) -> tuple[int, int]:
    """Return l and d of a prompt ``(l, d)`` or ``(l, layers, d)``."""
    return prompt.shape[0], prompt.shape[-1]


def scaled_shape(u: NDArray[np.floating[Any]], v: NDArray[np.floating[Any]]) -> tuple[int, int] | None:
    """Return l and d of the prompts that a task's vectors scale; None where they do not pair up."""
    pairs = u.ndim == v.ndim == 1 or (u.ndim == v.ndim == 2 and u.shape[1] == v.shape[0])
    return (u.shape[0], v.shape[-1]) if pairs and u.size and v.size else None


def dimensions(entry: str) -> int:
    """Return how many axes a prompt has, by where it enters."""
    return 3 if entry == Entry.EVERY_LAYER else 2


@dataclass(frozen=True)
class SharedPrompt:
    """The prompt that many tasks scale.

    Attributes:
        name: what task files call it.
        values: ``P*``, shape ``(l, d)``, or ``(l, layers, d)`` where it enters every layer; float16 or float32.
        layout: the attention it was trained in.
        backbone: fingerprint of the frozen model it was trained on.
        training: how it was made (data, steps, seed, rates).
        license: license of the data it was trained on.
        entry: where it entered.
        head: layers that all its tasks answer by, as PEFT saves them; None where each has its own or none.
    """

    name: str
    values: NDArray[np.floating[Any]]
    layout: Layout
    backbone: str
    training: Mapping[str, Any] = field(default_factory=dict)
    license: str = ""
    entry: Entry = Entry.FIRST_LAYER
    head: Head | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the values and the head's; task files name the prompt they scale by it."""
        return tensors.fingerprint(self.values, *(self.head.tensors().values() if self.head else ()))

    def save(self, path: Path) -> None:
        """Write the prompt as one safetensors file."""
        metadata = {
            "format": FORMAT,
            "name": self.name,
            "layout": self.layout,
            "entry": self.entry,
            "backbone": self.backbone,
            "training": dict(self.training),
            "license": self.license,
        }
        metadata |= {"head": self.head.activations} if self.head else {}
        tensors.write(path, {"prompt": self.values} | (self.head.tensors() if self.head else {}), metadata)

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
        if metadata.get("format") != FORMAT:
            raise CorruptFileError(
                f"{source} is not a prompt file this version reads (found {metadata.get('format', 'no format')!r}, "
                f"expected {FORMAT!r}); pass prompts/<name>.safetensors or upgrade mpt-edge."
            )
        values = arrays.get("prompt")
        layout, entry = metadata.get("layout", ""), metadata.get("entry", Entry.FIRST_LAYER)
        known = goes_together(layout, entry)
        others = [name for name in arrays if name != "prompt" and not name.startswith("head.")]
        if values is None or values.ndim != dimensions(entry) or not values.size or not known or others:
            raise CorruptFileError(f"{source} is not a prompt file; pass prompts/<name>.safetensors.")
        return cls(
            name=metadata.get("name", ""),
            values=values,
            layout=Layout(layout),
            backbone=metadata.get("backbone", ""),
            training=tensors.structured(metadata, "training", dict, source),
            license=metadata.get("license", ""),
            entry=Entry(entry),
            head=Head.parse(arrays, tensors.structured(metadata, "head", list, source), values.shape[-1], source),
        )
