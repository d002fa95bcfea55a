"""The ways to answer, and what each needs of a task file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Readout:
    """A way to answer.

    Attributes:
        writes: whether it is one of models that write; the others are of encoders.
        head: whether a head that was saved answers, the task's own or its shared prompt's.
        label_texts: whether each label needs texts.
        least_labels: fewest labels.
    """

    writes: bool = False
    head: bool = False
    label_texts: bool = False
    least_labels: int = 2


#: By the names in task files.
READOUTS: dict[str, Readout] = {
    "similarity": Readout(label_texts=True),  # likeness of the pooled text to label texts
    "mask": Readout(label_texts=True),  # label words at a mask
    "embedding": Readout(least_labels=0),  # the pooled vector itself
    "classifier": Readout(head=True),  # a head on the first row
    "tokens": Readout(head=True),  # a head on each token
    "span": Readout(head=True, least_labels=0),  # a head for the start and the end of an answer
    "generation": Readout(writes=True, least_labels=0),  # text
    "choice": Readout(writes=True, label_texts=True),  # the likeliest label text
}
