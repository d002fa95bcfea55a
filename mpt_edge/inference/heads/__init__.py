"""Head types: one file and one class for each way to answer.

A head type states its needs of a task file, prepares once per selected task, answers from the
backbone's output, and says how the command prints its answers. `register` adds one.
"""

from mpt_edge.formats.head_types import register
from mpt_edge.inference.heads.choice import Choice
from mpt_edge.inference.heads.classifier import Classifier
from mpt_edge.inference.heads.embedding import Embedding
from mpt_edge.inference.heads.label_vectors import LabelVectorHead
from mpt_edge.inference.heads.mask import Mask
from mpt_edge.inference.heads.similarity import Similarity
from mpt_edge.inference.heads.span import Span
from mpt_edge.inference.heads.text_generation import TextGeneration
from mpt_edge.inference.heads.tokens import Tokens

__all__ = [
    "HEAD_TYPES",
    "Choice",
    "Classifier",
    "Embedding",
    "LabelVectorHead",
    "Mask",
    "Similarity",
    "Span",
    "TextGeneration",
    "Tokens",
    "register",
]

#: All head types that come with mpt-edge.
HEAD_TYPES = (Similarity, LabelVectorHead, Mask, Embedding, Classifier, Tokens, Span, TextGeneration, Choice)

for _head_type in HEAD_TYPES:
    register(_head_type)
