"""Tasks with a linear head on one channel, and rows for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpt_edge.formats.linear_head import LinearHead, LinearLayer
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.heads.base import ComposedTask
from mpt_edge.inference.text import Encoded, Offset, Text


def make_file(head_type: str, labels: tuple[str, ...] = (), **changes: object) -> TaskFile:
    """Return a task of pairs with a scale of one."""
    one = np.ones(1, np.float32)
    values = {"name": "t", "head_type": head_type, "inputs": Inputs.PAIR, "labels": labels, "u": one, "v": one}
    return TaskFile(**values | {"backbone": "", "tokenizer": "", "scale": 1.0} | changes)  # type: ignore[arg-type]


def linear_head(outputs: int) -> LinearHead:
    """Return a head that gives each output its index times the channel."""
    weight = np.arange(outputs, dtype=np.float32)[:, None]
    return LinearHead((LinearLayer(weight, np.zeros(outputs, np.float32)),))


def compose(file: TaskFile, head: LinearHead | None, placement: Placement = PEFT_PLACEMENT) -> ComposedTask:
    """Return a task with a prompt of one number."""
    return ComposedTask(file, placement, np.ones((1, 1), np.float32), {}, head)


def make_row(text: Text, offsets: Sequence[tuple[int, int, int]], *, truncated: bool = False) -> Encoded:
    """Return tokens at offsets of a text."""
    nothing = [0] * len(offsets)
    return Encoded(nothing, nothing, truncated, text, [Offset(*offset) for offset in offsets])
