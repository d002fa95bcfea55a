"""mpt-edge: many language tasks on one frozen model, each task two vectors.

>>> import mpt_edge
>>> model = mpt_edge.load("models/minilm-l6")
>>> model.task("sst2")("a gorgeous, witty film").label
'positive'
"""

from mpt_edge.errors import (
    BundleNotFoundError,
    CorruptFileError,
    InputError,
    MismatchError,
    MissingExtraError,
    MptEdgeError,
    ParityError,
    SignatureError,
    TrainingError,
    UnknownTaskError,
    UnsupportedModelError,
)
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import (
    Abstention,
    Answer,
    Embedding,
    Generation,
    Prediction,
    Span,
    Stream,
    Tagging,
    TokenLabel,
)
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.loading import load
from mpt_edge.inference.model import Model
from mpt_edge.inference.task import Task

__version__ = "0.1.0"

__all__ = [
    "Abstention",
    "Answer",
    "Bundle",
    "BundleNotFoundError",
    "CorruptFileError",
    "Embedding",
    "EncoderModel",
    "Generation",
    "GenerationOptions",
    "GenerativeModel",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "Model",
    "MptEdgeError",
    "ParityError",
    "Prediction",
    "SharedPrompt",
    "SignatureError",
    "Span",
    "Stream",
    "Tagging",
    "Task",
    "TaskFile",
    "TokenLabel",
    "TrainingError",
    "UnknownTaskError",
    "UnsupportedModelError",
    "__version__",
    "load",
]
