"""mpt-edge: many language tasks on one frozen model, each task two vectors.

>>> import mpt_edge
>>> model = mpt_edge.load("models/minilm-l6")
>>> model.task("sst2")("a gorgeous, witty film").label
'positive'
"""

from mpt_edge.answers import Embedding, Generation, Prediction, Span, Tagging, TokenLabel
from mpt_edge.errors import (
    BundleNotFoundError,
    CorruptFileError,
    InputError,
    MismatchError,
    MissingExtraError,
    MptEdgeError,
    ParityError,
    TrainingError,
    UnknownTaskError,
    UnsupportedModelError,
)
from mpt_edge.model import Model, Task, load
from mpt_edge.writing import Stream, TextModel, TextTask

__version__ = "0.1.0"

__all__ = [
    "BundleNotFoundError",
    "CorruptFileError",
    "Embedding",
    "Generation",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "Model",
    "MptEdgeError",
    "ParityError",
    "Prediction",
    "Span",
    "Stream",
    "Tagging",
    "Task",
    "TextModel",
    "TextTask",
    "TokenLabel",
    "TrainingError",
    "UnknownTaskError",
    "UnsupportedModelError",
    "__version__",
    "load",
]
