"""PEFT's task types, as transformers and PEFT name them."""

from __future__ import annotations

import transformers
from peft import PeftType, TaskType

from mpt_edge.formats.manifest import Family
from mpt_edge.inference.heads import HEAD_TYPES, Choice, LabelVectorHead, Mask, Similarity, TextGeneration
from mpt_edge_export.peft.task_types import TASK_TYPES, Method, find_task_type


def test_names_are_those_of_peft() -> None:
    assert set(TASK_TYPES) == {task_type.value for task_type in TaskType}
    assert all(PeftType(method) for method in Method)
    assert all(hasattr(transformers, task_type.auto_class) for task_type in TASK_TYPES.values())


def test_head_types_and_families_agree() -> None:
    for task_type in TASK_TYPES.values():
        assert {head_type.is_generative for head_type in task_type.head_types} == {
            task_type.family is not Family.ENCODER
        }
        for head_type in task_type.head_types:
            assert find_task_type(head_type, task_type.family) is task_type


def test_head_types() -> None:
    found = {head_type for head_type in HEAD_TYPES for family in Family if find_task_type(head_type, family)}
    assert found == {*HEAD_TYPES} - {Mask, LabelVectorHead}
    for head_type in (TextGeneration, Choice):
        assert find_task_type(head_type, Family.CAUSAL) is TASK_TYPES["CAUSAL_LM"]
        assert find_task_type(head_type, Family.SEQ2SEQ) is TASK_TYPES["SEQ_2_SEQ_LM"]
    assert find_task_type(Similarity, Family.ENCODER) is TASK_TYPES["FEATURE_EXTRACTION"]
    assert find_task_type(Similarity, Family.CAUSAL) is None
