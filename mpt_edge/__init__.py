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
    TrainingError,
    UnknownTaskError,
    UnsupportedModelError,
)
from mpt_edge.model import Model, Prediction, Task, load

__version__ = "0.1.0"

__all__ = [
    "BundleNotFoundError",
    "CorruptFileError",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "Model",
    "MptEdgeError",
    "ParityError",
    "Prediction",
    "Task",
    "TrainingError",
    "UnknownTaskError",
    "UnsupportedModelError",
    "__version__",
    "load",
]
