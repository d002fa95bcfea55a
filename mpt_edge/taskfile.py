"""The task file: two vectors and everything needed to use them.

A task file is one safetensors file with tensors ``u`` and ``v`` (and ``prompt`` where a task
carries its own shared prompt) and string metadata. With l = 100, d = 384, float16 and up to ten
labels it stays below 4 KB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge import tensors
from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError

FORMAT = "mpt-edge task 1"

#: Largest task file that is read; room for one that carries its own prompt.
MAX_TASK_BYTES = 16 << 20

#: Task names are file names, so they stay in one folder on every system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_STRINGS = ("task", "kind", "readout", "template", "prompt", "prompt_sha256", "backbone", "tokenizer", "licence")


@dataclass(frozen=True)
class TaskFile:
    """One task, as it lies in ``tasks/<name>.safetensors``.

    Attributes:
        name: the task's name, ``[A-Za-z0-9._-]``, at most 64 characters.
        kind: ``"classification"`` (one text) or ``"pair"`` (two).
        readout: how the answer is read, ``"similarity"``.
        labels: what predictions are called.
        label_texts: for each label the texts whose mean embedding stands for it.
        template: text with ``{text}`` and ``{text_pair}``; empty for the texts as they are.
        max_length: longest input in tokens, special tokens included.
        scale: cosine similarities are multiplied by this before the softmax.
        u: row scales, shape ``(l,)``.
        v: channel scales, shape ``(d,)``.
        own_prompt: a shared prompt that only this task uses, shape ``(l, d)``, or None.
        prompt: name of the shared prompt in the bundle.
        prompt_sha256: fingerprint of the shared prompt that u and v scale.
        backbone: fingerprint of the frozen model.
        tokenizer: fingerprint of the tokenizer.
        version: number that grows with each release of the task.
        golden: ``{"text": [...], "label": ..., "scores": [...]}``, checked by `mpt-edge tasks verify`.
        metrics: measured figures, such as ``{"test": {"accuracy": 0.83}}``.
        training: how it was made.
        licence: licence of the data it was trained on.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    label_texts: tuple[tuple[str, ...], ...]
    u: NDArray[np.floating[Any]]
    v: NDArray[np.floating[Any]]
    prompt: str
    prompt_sha256: str
    backbone: str
    tokenizer: str
    readout: str = "similarity"
    template: str = ""
    max_length: int = 128
    scale: float = 20.0
    own_prompt: NDArray[np.floating[Any]] | None = None
    version: int = 1
    golden: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""

    @property
    def two_vectors(self) -> bool:
        """Whether the task is u and v alone, on a prompt shared with others."""
        return self.own_prompt is None

    def save(self, path: Path) -> None:
        """Write the task as one safetensors file, atomically."""
        arrays = {"u": self.u, "v": self.v}
        if self.own_prompt is not None:
            arrays["prompt"] = self.own_prompt
        metadata = {
            "format": FORMAT,
            "task": self.name,
            "kind": self.kind,
            "readout": self.readout,
            "labels": list(self.labels),
            "label_texts": [list(texts) for texts in self.label_texts],
            "template": self.template,
            "max_length": self.max_length,
            "scale": self.scale,
            "prompt": self.prompt,
            "prompt_sha256": self.prompt_sha256,
            "backbone": self.backbone,
            "tokenizer": self.tokenizer,
            "version": self.version,
            "golden": dict(self.golden),
            "metrics": dict(self.metrics),
            "training": dict(self.training),
            "licence": self.licence,
        }
        tensors.write(path, arrays, metadata)

    @classmethod
    def load(cls, path: Path) -> TaskFile:
        """Read a task file. Raises CorruptFileError where it is not one."""
        return cls.parse(read_small(path, MAX_TASK_BYTES), str(path))

    @classmethod
    def parse(cls, data: bytes, source: str) -> TaskFile:
        """Read a task file's bytes; ``source`` names it in messages.

        Raises:
            CorruptFileError: the bytes are no task file, or one that contradicts itself.
        """
        arrays, metadata = tensors.parse(data, source)
        if metadata.get("format") != FORMAT:
            found = metadata.get("format", "no format entry")
            raise CorruptFileError(
                f"{source} is not a task file this version reads (found {found!r}, expected "
                f"{FORMAT!r}); pass tasks/<name>.safetensors or upgrade mpt-edge."
            )
        strings = {key: metadata.get(key, "") for key in _STRINGS}
        labels = tensors.structured(metadata, "labels", list, source)
        texts = tensors.structured(metadata, "label_texts", list, source)
        task = cls(
            name=strings["task"],
            kind=strings["kind"],
            readout=strings["readout"],
            labels=tuple(map(str, labels)),
            label_texts=tuple(tuple(map(str, group)) if isinstance(group, list) else () for group in texts),
            template=strings["template"],
            max_length=_number(metadata, "max_length", int, source),
            scale=_number(metadata, "scale", float, source),
            u=arrays.get("u", np.empty(0, np.float32)),
            v=arrays.get("v", np.empty(0, np.float32)),
            own_prompt=arrays.get("prompt"),
            prompt=strings["prompt"],
            prompt_sha256=strings["prompt_sha256"],
            backbone=strings["backbone"],
            tokenizer=strings["tokenizer"],
            version=_number(metadata, "version", int, source),
            golden=tensors.structured(metadata, "golden", dict, source),
            metrics=tensors.structured(metadata, "metrics", dict, source),
            training=tensors.structured(metadata, "training", dict, source),
            licence=strings["licence"],
        )
        task._check(source)
        return task

    def _check(self, source: str) -> None:
        problems = {
            f"the name {self.name!r} is not allowed": NAME.fullmatch(self.name) is None,
            f"kind {self.kind!r} is unknown": self.kind not in ("classification", "pair"),
            f"readout {self.readout!r} is unknown": self.readout != "similarity",
            "u and v are not two vectors": self.u.ndim != 1 or self.v.ndim != 1 or not (self.u.size and self.v.size),
            "labels and label texts do not pair up": len(self.labels) != len(self.label_texts)
            or len(self.labels) < 2
            or len(set(self.labels)) != len(self.labels)
            or not all(self.label_texts),
            "its own prompt does not fit u and v": self.own_prompt is not None
            and self.own_prompt.shape != (*self.u.shape, *self.v.shape),
            "max_length is below 3": self.max_length < 3,
            "scale is not a positive number": not (np.isfinite(self.scale) and self.scale > 0),
        }
        for problem, found in problems.items():
            if found:
                raise CorruptFileError(f"{source}: {problem}; train or export the task again.")


def _number(metadata: Mapping[str, str], key: str, kind: type[int] | type[float], source: str) -> Any:
    try:
        return kind(metadata[key])
    except (KeyError, ValueError) as error:
        raise CorruptFileError(f"{source}: metadata {key!r} is missing or no number; restore the file.") from error
