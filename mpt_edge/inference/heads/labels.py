"""Labels that a model cannot tell apart, which would get the same score for every text."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence

from mpt_edge.errors import MismatchError
from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.text import TextEncoder

#: Way out of a task that was made so.
_TRAIN_AGAIN = "train the task again with other label texts"


def label_problem(
    texts: TextEncoder,
    head_type: type[HeadType],
    labels: Sequence[str],
    label_texts: Sequence[Sequence[str]],
    *,
    max_length: int,
    fix: str,
) -> str | None:
    """Return one reason why a model cannot choose between labels, as a sentence; None if it can.

    Args:
        texts: the model's tokenizer.
        head_type: head type of the task.
        labels: names of the labels.
        label_texts: each label's texts; none where the model reads no label texts.
        max_length: maximum tokens of a text.
        fix: way to other label texts, as the end of a sentence without its full stop.
    """
    same = _first_pair(map(_plain, labels))
    if same is not None:
        one, other = (labels[i] for i in same)
        if one == other:
            return f"the label {one!r} is there twice; name each label once."
        return (
            f"the labels {one!r} and {other!r} differ only in spaces or in the encoding of accents; give them one "
            "name, or names of other letters."
        )
    return _token_problem(labels, [_tokens(texts, group, head_type, max_length) for group in label_texts], fix)


def check_task_labels(file: TaskFile, texts: TextEncoder) -> None:
    """Refuse a task whose labels this tokenizer cannot tell apart.

    Raises:
        MismatchError: some are alike, or a label text has no tokens.
    """
    if not file.head_class.has_label_texts:
        return
    problem = label_problem(
        texts,
        file.head_class,
        file.labels,
        file.label_texts,
        max_length=file.max_length,
        fix=_TRAIN_AGAIN,
    )
    if problem is not None:
        raise MismatchError(f"{file.name!r} cannot be used: {problem}")


def check_tokens(file: TaskFile, owners: Iterable[int], tokens: Iterable[Sequence[int]]) -> None:
    """Refuse a task whose label texts have the same tokens, as `check_task_labels` does.

    Args:
        file: the task.
        owners: index of the label of each text.
        tokens: tokens of each text, as the model reads it.

    Raises:
        MismatchError: some labels are alike, or a label text has no tokens.
    """
    groups: list[set[tuple[int, ...]]] = [set() for _ in file.labels]
    for owner, ids in zip(owners, tokens, strict=True):
        groups[owner].add(tuple(ids))
    problem = _token_problem(file.labels, [frozenset(group) for group in groups], _TRAIN_AGAIN)
    if problem is not None:
        raise MismatchError(f"{file.name!r} cannot be used: {problem}")


def _token_problem(labels: Sequence[str], tokens: Sequence[frozenset[tuple[int, ...]]], fix: str) -> str | None:
    """Return why tokens of label texts do not tell labels apart, as a sentence; None if they do."""
    empty = next((labels[i] for i, group in enumerate(tokens) if () in group), None)
    if empty is not None:
        return f"the text of the label {empty!r} has no tokens for this model; {fix}."
    same = _first_pair(tokens)
    if same is not None:
        one, other = (labels[i] for i in same)
        return f"the labels {one!r} and {other!r} have the same tokens; {fix}."
    return None


def _tokens(
    texts: TextEncoder, group: Sequence[str], head_type: type[HeadType], max_length: int
) -> frozenset[tuple[int, ...]]:
    """Return the tokens of each text that stands for a label, as far as the head type reads it."""
    read = group[: head_type.texts_per_label]
    room = None if head_type.is_generative else max(1, max_length - texts.special_tokens(pair=False))
    return frozenset(tuple(ids[:room]) for ids in texts.continuations([_plain(text) for text in read]))


def _plain(text: str) -> str:
    """Return a text without outer and double spaces, and with its accents composed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _first_pair(values: Iterable[Hashable]) -> tuple[int, int] | None:
    """Return the positions of the first two values that are equal; None if all differ."""
    seen = dict[Hashable, int]()
    for i, value in enumerate(values):
        if seen.setdefault(value, i) != i:
            return seen[value], i
    return None
