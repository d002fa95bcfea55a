"""Base of the head types of generative models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Answer
from mpt_edge.inference.heads.base import ComposedTask, Head, Request
from mpt_edge.inference.runtime.decoding import Decoding, OnnxGenerator
from mpt_edge.inference.text import TextEncoder

#: Reads the inputs of requests; returns the model after them, one row each, and the logits of each row's first token,
#: ``(rows, vocabulary)``.
Opener = Callable[[], tuple[Decoding, Floats]]


class Room(NamedTuple):
    """Positions that an answer takes from the text, with words for an error message."""

    tokens: int
    noun: str
    """Name of these tokens, such as ``"new tokens"``."""
    remedy: str
    """Way to need fewer of them."""


class GenerativeReader(Protocol):
    """Access of a head to the model."""

    texts: TextEncoder
    backbone: OnnxGenerator
    eos_ids: tuple[int, ...]


class GenerativeHead(Head):
    """Answers from a generative model's logits."""

    is_generative = True

    def __init__(self, task: TaskFile, reader: GenerativeReader) -> None:
        """Keep the task file and the model."""
        self.task, self.reader = task, reader

    @classmethod
    def prepare(cls, task: ComposedTask, reader: GenerativeReader) -> Self:
        """Compute once whatever the task needs for every text.

        Raises:
            MismatchError: the task cannot be used with this tokenizer.
        """
        return cls(task.file, reader)

    @abstractmethod
    def room(self, options: GenerationOptions) -> Room:
        """Return the positions that the answer takes."""

    @abstractmethod
    def width(self, options: GenerationOptions) -> int:
        """Return the rows that each request takes in the model's cache."""

    @abstractmethod
    def answer(self, requests: Sequence[Request], open_requests: Opener) -> Sequence[Answer]:
        """Answer requests of one head type and width.

        Args:
            requests: the requests; each may be of another task.
            open_requests: reads their inputs.
        """
