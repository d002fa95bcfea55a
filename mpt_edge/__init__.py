"""mpt-edge: many language tasks on one frozen model, each task two vectors.

>>> import mpt_edge
>>> model = mpt_edge.load("models/minilm-l6")
>>> model.task("sst2")("a gorgeous, witty film").label
'positive'
"""

from mpt_edge.answers import Embedding, Generation, Prediction, Span, Stream, Tagging, TokenLabel
from mpt_edge.encoder_model import EncoderModel
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
from mpt_edge.formats.bundle import Bundle
from mpt_edge.loading import load
from mpt_edge.model import Model, Task
from mpt_edge.text_model import TextModel

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleNotFoundError",
    "CorruptFileError",
    "Embedding",
    "EncoderModel",
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
    "TokenLabel",
    "TrainingError",
    "UnknownTaskError",
    "UnsupportedModelError",
    "__version__",
    "load",
]
