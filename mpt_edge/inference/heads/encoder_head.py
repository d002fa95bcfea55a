"""Base of the head types of encoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from mpt_edge._arrays import Floats, Ids
from mpt_edge.errors import MismatchError
from mpt_edge.formats.linear_head import LinearHead
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Answer
from mpt_edge.inference.heads.base import ComposedTask, Head
from mpt_edge.inference.text import Encoded, TextEncoder


@dataclass(frozen=True)
class TextStates:
    """Output of the backbone for one text."""

    row: Encoded
    first: Floats
    """State at the first position, ``(d,)``; a virtual token in the joint layout."""
    tokens: Floats
    """Last hidden states, ``(tokens, d)``."""
    pooled: Floats
    """Pooled hidden states, ``(d,)``, not normalized."""


@dataclass(frozen=True)
class WordQuery:
    """Masked-LM logits that a head asks for in place of hidden states."""

    positions: Ids
    """Position of the mask in each row, ``(rows,)``."""
    words: Ids
    """Token ids of the words, ``(words,)``."""


class EncoderReader(Protocol):
    """Access of a head to the model while it is prepared."""

    texts: TextEncoder
    manifest: Manifest

    def embed_under(self, task: ComposedTask, rows: Sequence[Encoded]) -> Floats:
        """Return the unit embeddings ``(rows, d)`` of texts read under a task's prompt."""


class EncoderHead(Head):
    """Answers from an encoder's hidden states, or from its masked-LM logits."""

    asks_words: ClassVar[bool] = False
    """Whether it answers from masked-LM logits. Such a task shares no run with others."""
    keeps_template: ClassVar[bool] = False
    """Whether a long text is cut so that the template stays whole."""
    needs_offsets: ClassVar[bool] = False
    """Whether `answer` reads the tokens' offsets."""

    def __init__(self, task: TaskFile) -> None:
        """Keep the task file."""
        self.task = task

    @classmethod
    @abstractmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:
        """Compute once whatever the task needs for every text.

        Raises:
            MismatchError: the prompt or its head does not suit this head type, or labels are alike.
        """

    def word_query(self, rows: Sequence[Encoded]) -> WordQuery:
        """Return the masked-LM logits to compute for rows, where the head `asks_words`."""
        raise NotImplementedError

    @abstractmethod
    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the raw scores of one text: similarities or logits.

        Args:
            states: the backbone's output, or the logits ``(words,)`` of a word query.
        """

    @abstractmethod
    def answer(self, scores: Floats, row: Encoded) -> Answer:
        """Return the answer for one text's `scores`."""


class LinearHeadType(EncoderHead):
    """Answers by the linear head that PEFT saved with the task or its shared prompt."""

    def __init__(self, task: TaskFile, head: LinearHead) -> None:
        """Keep the task file and its head."""
        super().__init__(task)
        self.head = head

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:  # noqa: ARG003
        """Take the head; see `EncoderHead.prepare`."""
        file, head, outputs = task.file, task.linear_head, cls.outputs(len(task.file.labels))
        if head is None or head.outputs != outputs:
            found = "none" if head is None else f"one of {head.outputs}"
            raise MismatchError(
                f"{file.name!r} answers by a head of {outputs} outputs, and its prompt has {found}; "
                "import the adapter again."
            )
        return cls(file, head)

    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the logits of each token, ``(tokens, outputs)``."""
        assert isinstance(states, TextStates)
        return self.head(states.tokens)
