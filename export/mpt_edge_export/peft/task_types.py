"""PEFT's methods and task types, and their counterparts here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.manifest import Family
from mpt_edge.inference.heads import Choice, Classifier, Embedding, Similarity, Span, TextGeneration, Tokens


class Method(StrEnum):
    """PEFT's ``peft_type`` of the adapters that can be read and written."""

    MULTITASK = "MULTITASK_PROMPT_TUNING"
    PLAIN = "PROMPT_TUNING"


@dataclass(frozen=True, kw_only=True)
class TaskType:
    """One of PEFT's task types."""

    name: str
    """PEFT's ``task_type``."""
    family: Family
    """Family of the base model."""
    head_types: tuple[type[HeadType], ...]
    """Head type that an import gives tasks, then others that are exported as this task type."""
    auto_class: str
    """Class of transformers that loads the base model."""
    output_module: str | None = None
    """Linear layer that the adapter saved and that reads every token."""
    is_sequence: bool = False
    """Whether the adapter saved a head that reads the whole text."""
    loses_task_ids: bool = False
    """Whether PEFT's forward takes segment ids and task ids and drops both. Such adapters were trained without
    segments, and PEFT cannot run one of several tasks."""


TASK_TYPES = {
    each.name: each
    for each in (
        TaskType(
            name="CAUSAL_LM",
            family=Family.CAUSAL,
            head_types=(TextGeneration, Choice),
            auto_class="AutoModelForCausalLM",
        ),
        TaskType(
            name="SEQ_2_SEQ_LM",
            family=Family.SEQ2SEQ,
            head_types=(TextGeneration, Choice),
            auto_class="AutoModelForSeq2SeqLM",
        ),
        TaskType(
            name="SEQ_CLS",
            family=Family.ENCODER,
            head_types=(Classifier,),
            auto_class="AutoModelForSequenceClassification",
            is_sequence=True,
        ),
        TaskType(
            name="TOKEN_CLS",
            family=Family.ENCODER,
            head_types=(Tokens,),
            auto_class="AutoModelForTokenClassification",
            output_module="classifier",
        ),
        TaskType(
            name="QUESTION_ANS",
            family=Family.ENCODER,
            head_types=(Span,),
            auto_class="AutoModelForQuestionAnswering",
            output_module="qa_outputs",
            loses_task_ids=True,
        ),
        TaskType(
            name="FEATURE_EXTRACTION",
            family=Family.ENCODER,
            head_types=(Embedding, Similarity),
            auto_class="AutoModel",
            loses_task_ids=True,
        ),
    )
}


def find_task_type(head_type: type[HeadType], family: Family) -> TaskType | None:
    """Return the task type for a head type on a model of a family; None where PEFT has none."""
    return next((each for each in TASK_TYPES.values() if each.family is family and head_type in each.head_types), None)
