"""The task file: two vectors and everything needed to use them.

A task file is one safetensors file with tensors ``u`` and ``v`` (``prompt`` too where a task carries
its own shared prompt, ``head.*`` where PEFT saved a head) and string metadata. With l = 100, d = 384,
float16 and up to ten labels it stays below 4 KB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import tensors
from mpt_edge.formats.generation_options import NAMES, GenerationOptions
from mpt_edge.formats.head_types import READOUTS
from mpt_edge.formats.linear_head import Head
from mpt_edge.formats.metrics import are_figures
from mpt_edge.formats.prompts import (
    MAX_PROMPT_BYTES,
    Entry,
    Layout,
    SharedPrompt,
    dimensions,
    goes_together,
    rows_and_width,
    scaled_shape,
)

FORMAT = "mpt-edge task 1"

#: Largest task file that is read: one that carries a prompt of the largest size, with its vectors and texts.
MAX_TASK_BYTES = MAX_PROMPT_BYTES + (1 << 20)

#: Largest scale; trained ones are below 200, and what is far above this overflows float32.
MAX_SCALE = 1_000_000

#: Task names are file names, so they stay in one folder on every system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_STRINGS = (
    "task",
    "kind",
    "readout",
    "template",
    "prompt",
    "prompt_sha256",
    "backbone",
    "tokenizer",
    "license",
    "layout",
    "entry",
)


@dataclass(frozen=True)
class TaskFile:
    """One task, as it lies in ``tasks/<name>.safetensors``.

    Attributes:
        name: the task's name, ``[A-Za-z0-9._-]``, at most 64 characters.
        kind: ``"classification"`` (one text), ``"pair"`` (two) or ``"generation"`` (one text, and one is written).
        readout: how the answer is read, one of `READOUTS`.
        labels: what predictions are called.
        label_texts: for each label the texts whose mean embedding stands for it.
        template: text with ``{text}`` and ``{text_pair}``; empty for the texts as they are.
        max_length: longest input in tokens, special tokens included.
        scale: cosine similarities, or a head's logits, are multiplied by this before the softmax.
        u: row scales, shape ``(l,)``; ``(l, r)`` for r pairs of vectors, which PEFT calls ranks.
        v: channel scales, shape ``(d,)``; ``(r, d)`` for r pairs.
        own_prompt: a shared prompt that only this task uses, shape ``(l, d)`` or ``(l, layers, d)``, or None.
        prompt: name of the shared prompt in the bundle.
        prompt_sha256: fingerprint of the shared prompt that u and v scale.
        backbone: fingerprint of the frozen model.
        tokenizer: fingerprint of the tokenizer.
        version: number that grows with each release of the task.
        reference_example: ``{"text": a text or a list of two, "label": ..., "score": ...}``, checked by `mpt-edge tasks verify`.
        metrics: measured figures, such as ``{"test": {"accuracy": 0.83}}``.
        training: how it was made.
        license: license of the data it was trained on.
        layout: attention layout of its own prompt; empty where it has none.
        entry: where its own prompt enters; empty where it has none.
        head: layers of its own that it answers by; None where it needs none, or the shared prompt has them.
        generation: entries of `GenerationOptions` for tasks that write text, and ``cut`` (see `cut`).
        token_types: whether segment ids tell the second text of a pair from the first, where the model reads them.
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
    reference_example: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    license: str = ""
    layout: str = ""
    entry: str = ""
    head: Head | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    token_types: bool = True

    @property
    def two_vectors(self) -> bool:
        """Whether the task is u and v alone, on a prompt shared with others."""
        return self.own_prompt is None

    @property
    def carries(self) -> str:
        """What the task is made of, in words."""
        pairs = "u, v" if self.u.ndim == 1 else f"{self.v.shape[0]} pairs of u, v"
        extra = [name for name, has in (("its own prompt", not self.two_vectors), ("a head", self.head)) if has]
        return " and ".join([pairs, *extra]) if len(extra) < 2 else f"{pairs}, its own prompt and a head"

    def fits(self, head: Head) -> bool:
        """Whether a head has as many outputs as the readout needs."""
        return READOUTS[self.readout].head and head.outputs == (2 if self.readout == "span" else len(self.labels))

    def whole_prompt(self) -> SharedPrompt | None:
        """Return the prompt and the head that the task carries; None where it scales a shared prompt."""
        if self.own_prompt is None:
            return None
        return SharedPrompt(
            name=self.name,
            values=self.own_prompt,
            layout=Layout(self.layout),
            backbone=self.backbone,
            training=self.training,
            license=self.license,
            entry=Entry(self.entry),
            head=self.head,
        )

    @property
    def written(self) -> dict[str, Any]:
        """How text is written, by the names of `GenerationOptions`, unless a request says otherwise."""
        return {name: value for name, value in self.generation.items() if name in NAMES}

    @property
    def cut(self) -> str:
        """Which side a text that is too long loses where its template must stay whole: ``"right"`` or ``"left"``."""
        return str(self.generation.get("cut", "right"))

    def save(self, path: Path) -> None:
        """Write the task as one safetensors file, atomically."""
        arrays = {"u": self.u, "v": self.v}
        if self.own_prompt is not None:
            arrays["prompt"] = self.own_prompt
        if self.head is not None:
            arrays |= self.head.tensors()
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
            "reference_example": dict(self.reference_example),
            "metrics": dict(self.metrics),
            "training": dict(self.training),
            "license": self.license,
        }
        metadata |= {key: value for key, value in (("layout", self.layout), ("entry", self.entry)) if value}
        metadata |= {} if self.token_types else {"token_types": "ignored"}
        if self.head is not None:
            metadata["head"] = self.head.activations
        if self.generation:
            metadata["generation"] = dict(self.generation)
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
        u, v = (arrays.get(name, np.empty(0, np.float32)) for name in ("u", "v"))
        activations = tensors.structured(metadata, "head", list, source)
        task = cls(
            name=strings["task"],
            kind=strings["kind"],
            readout=strings["readout"],
            labels=tuple(map(str, labels)),
            label_texts=tuple(tuple(map(str, group)) if isinstance(group, list) else () for group in texts),
            template=strings["template"],
            max_length=_number(metadata, "max_length", int, source),
            scale=_number(metadata, "scale", float, source),
            u=u,
            v=v,
            own_prompt=arrays.get("prompt"),
            prompt=strings["prompt"],
            prompt_sha256=strings["prompt_sha256"],
            backbone=strings["backbone"],
            tokenizer=strings["tokenizer"],
            version=_number(metadata, "version", int, source),
            reference_example=tensors.structured(metadata, "reference_example", dict, source),
            metrics=tensors.structured(metadata, "metrics", dict, source),
            training=tensors.structured(metadata, "training", dict, source),
            license=strings["license"],
            layout=strings["layout"],
            entry=strings["entry"],
            token_types=metadata.get("token_types") != "ignored",
            generation=tensors.structured(metadata, "generation", dict, source),
            head=Head.parse(arrays, activations, v.shape[-1] if v.ndim else 0, source),
        )
        task._check(source)
        return task

    def _check(self, source: str) -> None:
        for problem in self._problems():
            raise CorruptFileError(f"{source}: {problem}; train or export the task again.")

    def _problems(self) -> Iterator[str]:  # noqa: C901, PLR0912 - a list of checks
        """Yield what a task file says that contradicts itself."""
        if NAME.fullmatch(self.name) is None:
            yield f"the name {self.name!r} is not allowed"
        if self.kind not in ("classification", "pair", "generation"):
            yield f"kind {self.kind!r} is unknown"
        if self.readout not in READOUTS:
            yield f"readout {self.readout!r} is unknown"
        if self.layout and self.entry and not goes_together(self.layout, self.entry):
            yield "layout or entry of its own prompt is unknown, or they do not go together"
        if scaled_shape(self.u, self.v) is None:
            yield "u and v are not two vectors"
        wanted = ("{text}", "{text_pair}") if self.kind == "pair" else ("{text}",)
        if self.template and not all(part in self.template for part in wanted):
            yield f"its template lacks {' or '.join(wanted)}"
        if not self._labeled():
            yield "labels and label texts do not pair up"
        if not self._headed():
            yield "its head does not fit the readout"
        if self.own_prompt is not None:
            fits = self.own_prompt.ndim == dimensions(self.entry)
            if not fits or rows_and_width(self.own_prompt) != scaled_shape(self.u, self.v):
                yield "its own prompt does not fit u and v"
            if not self.layout or not self.entry:
                yield "it has a prompt of its own and does not say in which layout, or where it enters"
        if not self._writable():
            yield "its generation entries cannot be used"
        if self.max_length < 3:
            yield "max_length is below 3"
        if not 0 < self.scale <= MAX_SCALE:
            yield f"scale is not a positive number up to {MAX_SCALE}"
        if not are_figures(self.metrics):
            yield "its metrics are not numbers by name"

    def _labeled(self) -> bool:
        """Whether there are the labels and label texts that the readout needs."""
        readout = READOUTS[self.readout]
        # Groups that are there are read whatever the readout, and each has to say something.
        paired = len(self.labels) == len(self.label_texts) and all(self.label_texts)
        if (readout.label_texts or self.label_texts) and not paired:
            return False
        return len(self.labels) >= readout.least_labels and len(set(self.labels)) == len(self.labels)

    def _writable(self) -> bool:
        """Whether what is said about generation can be done."""
        try:
            GenerationOptions.of({name: value for name, value in self.generation.items() if name != "cut"})
        except InputError:
            return False
        return self.cut in ("left", "right")

    def _headed(self) -> bool:
        """Whether there is a head where the readout needs one, which may lie with the shared prompt."""
        if self.head is None:
            return not READOUTS[self.readout].head or self.two_vectors
        return self.fits(self.head)


def _number(metadata: Mapping[str, str], key: str, kind: type[int] | type[float], source: str) -> Any:
    try:
        return kind(metadata[key])
    except (KeyError, ValueError) as error:
        raise CorruptFileError(f"{source}: metadata {key!r} is missing or no number; restore the file.") from error
