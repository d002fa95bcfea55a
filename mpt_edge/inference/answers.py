"""What tasks answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats


@dataclass(frozen=True)
class Prediction:
    """The answer to one text.

    Attributes:
        task: the task that answered.
        label: the likeliest label.
        score: its probability.
        scores: the probability of every label; they sum to one.
        similarities: cosine similarity of the text to every label, -1 to 1; empty for tasks with a head.
        truncated: whether the text was longer than the task reads.
    """

    task: str
    label: str
    score: float
    scores: Mapping[str, float] = field(default_factory=dict, repr=False)
    similarities: Mapping[str, float] = field(default_factory=dict, repr=False)
    truncated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as `mpt-edge run --json` prints it, ready for JSON; ``truncated`` only where it is true."""
        scores = {label: round(score, 6) for label, score in self.scores.items()}
        found = {"task": self.task, "label": self.label, "score": round(self.score, 6), "scores": scores}
        return found | ({"truncated": True} if self.truncated else {})


@dataclass(frozen=True)
class TokenLabel:
    """One token's label.

    Attributes:
        text: the token, as it stands in the text.
        start: its first character.
        end: the character behind it.
        label: its likeliest label.
        score: the label's probability.
    """

    text: str
    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True)
class Tagging(Prediction):
    """A label for every token; `label` has them all, with spaces between, and `score` the least sure one's.

    Attributes:
        tokens: the tokens in order.
    """

    tokens: tuple[TokenLabel, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Add the tokens."""
        return super().to_dict() | {"tokens": [asdict(token) for token in self.tokens]}


@dataclass(frozen=True)
class Span(Prediction):
    """An answer that stands in the second text; `label` is its wording.

    Attributes:
        start: its first character there.
        end: the character behind it.
    """

    start: int = 0
    end: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Add the place."""
        return super().to_dict() | {"start": self.start, "end": self.end}


@dataclass(frozen=True, eq=False)  # a vector has no single answer to ==
class Embedding(Prediction):
    """The text's vector; there is no label.

    Attributes:
        vector: the pooled hidden states, ``(d,)``, of length one.
    """

    vector: Floats = field(default_factory=lambda: np.empty(0, np.float32), repr=False)

    def __eq__(self, other: object) -> bool:
        """Compare the vectors too."""
        same = super().__eq__(other) is True
        return same and isinstance(other, Embedding) and np.array_equal(self.vector, other.vector)

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Add the vector."""
        return super().to_dict() | {"vector": [round(float(value), 6) for value in self.vector]}


@dataclass(frozen=True)
class Generation(Prediction):
    """A text that was written; `label` and `text` are the same.

    Attributes:
        text: the text.
        tokens: how many tokens it has.
        finish: why it ended: ``"eos"``, ``"stop"`` or ``"length"``.
    """

    text: str = ""
    tokens: int = 0
    finish: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the text, its length and why it ended, in place of a label and scores."""
        written = {"task": self.task, "output": self.text, "new_tokens": self.tokens, "finish": self.finish}
        return written | ({"truncated": True} if self.truncated else {})


class Stream(Iterator[str]):
    """A text that comes piece by piece: iterate over it, and `close` it, or use ``with``, to leave before its end.

    Attributes:
        truncated: whether the input is longer than the task reads; known before the first piece.
        answer: the whole text and why it ended, once the last piece has come; None before.
    """

    def __init__(self, pieces: Generator[str], finished: Callable[[], Generation], *, truncated: bool) -> None:
        """Hand out ``pieces``, then ask ``finished`` for the whole."""
        self._pieces, self._finished, self.truncated = pieces, finished, truncated
        self.answer: Generation | None = None

    def __next__(self) -> str:
        """Return the next piece, at least one character."""
        try:
            return next(self._pieces)
        except StopIteration:
            self.answer = self._finished()
            raise

    def close(self) -> None:
        """Write no more, and let go of the text's cache."""
        self._pieces.close()

    def __enter__(self) -> Stream:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
