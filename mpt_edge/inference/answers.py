"""Answers of tasks: labels, texts, vectors, tags and spans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.inference.arguments import check_count


@dataclass(frozen=True, kw_only=True)
class Answer(ABC):
    """Base of all answers to one text."""

    task: str
    """Name of the task that answered."""
    truncated: bool = False
    """Whether the text was longer than the task reads."""
    unknown: bool = False
    """Whether the text has no token that the tokenizer knows, so that the answer says nothing about it."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The answer as one text, for tables."""

    @property
    def confidence(self) -> float | None:
        """Probability of the answer, 0 to 1; None for answers without."""
        return None

    def _notes(self) -> dict[str, Any]:
        """Return the fields that all answers have."""
        return {"task": self.task, "truncated": self.truncated, "unknown": self.unknown}

    def to_dict(self) -> dict[str, Any]:
        """Return the answer ready for JSON, as `mpt-edge run --json` prints it.

        ``truncated`` and ``unknown`` are there only where they are true.
        """
        notes = {"truncated": self.truncated, "unknown": self.unknown}
        return {"task": self.task} | self._content() | {name: True for name, is_true in notes.items() if is_true}

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """Return the entries that this kind of answer adds."""


@dataclass(frozen=True, kw_only=True)
class Prediction(Answer):
    """The likeliest label."""

    label: str
    score: float
    """Probability of the label."""
    scores: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Probability of every label; they sum to one."""
    similarities: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Cosine similarity of the text to every label, -1 to 1; empty for head types that compare nothing."""
    abstain: bool = field(default=False, repr=False)
    """Whether the score is below the task's threshold, so that the label is a guess."""

    def top_k(self, k: int) -> list[tuple[str, float]]:
        """Return the ``k`` likeliest labels with their probabilities, best first. Raises InputError for no number."""
        k = check_count(k, "number of labels")
        return sorted(self.scores.items(), key=lambda item: -item[1])[:k]

    @property
    def summary(self) -> str:
        """The label."""
        return self.label

    @property
    def confidence(self) -> float | None:
        """Probability of the label."""
        return self.score

    def _content(self) -> dict[str, Any]:
        scores = {label: round(score, 6) for label, score in self.scores.items()}
        unsure = {"abstain": True} if self.abstain else {}
        return {"label": self.label, "score": round(self.score, 6), "scores": scores} | unsure

    def withheld(self) -> Answer:
        """Return the answer without its label where that is a guess, else the answer itself."""
        return Abstention(prediction=self, **self._notes()) if self.abstain else self


@dataclass(frozen=True, kw_only=True)
class Abstention(Answer):
    """A prediction whose label is withheld, since its score is below the task's threshold."""

    prediction: Prediction

    @property
    def summary(self) -> str:
        """A question mark."""
        return "?"

    @property
    def confidence(self) -> float | None:
        """Probability of the label that is withheld."""
        return self.prediction.score

    def _content(self) -> dict[str, Any]:
        return self.prediction._content() | {"label": None}


@dataclass(frozen=True)
class TokenLabel:
    """Label of one token."""

    text: str
    """The token, as the text spells it."""
    start: int
    """Offset of its first character."""
    end: int
    """Offset after its last character."""
    label: str
    score: float
    """Probability of the label."""


@dataclass(frozen=True, kw_only=True)
class Tagging(Answer):
    """A label for every token."""

    tokens: tuple[TokenLabel, ...]

    @property
    def summary(self) -> str:
        """All labels, separated by spaces."""
        return " ".join(token.label for token in self.tokens)

    @property
    def confidence(self) -> float | None:
        """Lowest probability of a token's label."""
        return min((token.score for token in self.tokens), default=0.0)

    def _content(self) -> dict[str, Any]:
        return {"tokens": [asdict(token) for token in self.tokens]}


@dataclass(frozen=True, kw_only=True)
class Span(Answer):
    """A passage of the second text."""

    text: str
    """The passage; empty where there is none."""
    score: float
    """Its probability."""
    start: int = 0
    """Offset of its first character in the second text."""
    end: int = 0
    """Offset after its last character."""

    @property
    def summary(self) -> str:
        """The passage."""
        return self.text

    @property
    def confidence(self) -> float | None:
        """Probability of the passage."""
        return self.score

    def _content(self) -> dict[str, Any]:
        return {"output": self.text, "score": round(self.score, 6), "start": self.start, "end": self.end}


@dataclass(frozen=True, kw_only=True, eq=False)  # == of arrays gives no single truth value
class Embedding(Answer):
    """The vector of a text."""

    vector: Floats = field(repr=False)
    """Pooled hidden states ``(d,)``, float32, of length one."""

    def __eq__(self, other: object) -> bool:
        """Compare all fields, the vector by its values."""
        if not isinstance(other, Embedding):
            return NotImplemented
        same = (self.task, self.truncated, self.unknown) == (other.task, other.truncated, other.unknown)
        return same and np.array_equal(self.vector, other.vector)

    __hash__ = None  # type: ignore[assignment]

    @property
    def summary(self) -> str:
        """Number of channels, and the first few of them."""
        first = ", ".join(f"{value:.3f}" for value in self.vector[:3])
        return f"({len(self.vector)}) {first}, ..."

    def _content(self) -> dict[str, Any]:
        return {"vector": [round(float(value), 6) for value in self.vector]}


@dataclass(frozen=True, kw_only=True)
class Generation(Answer):
    """A generated text."""

    text: str
    input_tokens: int
    """Number of tokens of the input with its template, without the prompt's virtual tokens."""
    new_tokens: int
    """Number of generated tokens, without one that ends the text."""
    finish: str
    """Reason for the end: ``"eos"``, ``"stop"`` or ``"length"``. A text under a schema or an expression matches it at
    ``"eos"``, and does not at ``"length"``."""
    first_token_seconds: float = field(default=0.0, compare=False, repr=False)
    """Seconds from the beginning of its batch, or of its stream, to its first token."""
    seconds: float = field(default=0.0, compare=False, repr=False)
    """Seconds to its end."""

    @property
    def summary(self) -> str:
        """The text."""
        return self.text

    def _content(self) -> dict[str, Any]:
        return {
            "output": self.text,
            "input_tokens": self.input_tokens,
            "new_tokens": self.new_tokens,
            "finish": self.finish,
            "first_token_seconds": round(self.first_token_seconds, 6),
            "seconds": round(self.seconds, 6),
        }


class Stream(Iterator[str]):
    """A text that arrives in pieces. Iterate over it; use ``with``, or `close`, to stop early.

    Attributes:
        truncated: whether the input is longer than the task reads; known before the first piece.
        unknown: whether the input has no token that the tokenizer knows; as early.
        answer: the whole text, once the last piece has come; None before.
    """

    def __init__(
        self, pieces: Generator[str], finish: Callable[[], Generation], *, truncated: bool, unknown: bool = False
    ) -> None:
        """Yield ``pieces``, then ask ``finish`` for the whole text."""
        self._pieces, self._finish, self.truncated, self.unknown = pieces, finish, truncated, unknown
        self.answer: Generation | None = None

    def __next__(self) -> str:
        """Return the next piece, at least one character."""
        try:
            return next(self._pieces)
        except StopIteration:
            self.answer = self._finish()
            raise

    def close(self) -> None:
        """Stop generation and free its cache."""
        self._pieces.close()

    def __enter__(self) -> Stream:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()
