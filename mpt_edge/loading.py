"""Loading a bundle as the model that its backbone makes it."""

from __future__ import annotations

import os

from mpt_edge.encoder_model import EncoderModel
from mpt_edge.formats.bundle import Bundle
from mpt_edge.locate import default_bundle
from mpt_edge.model import Model
from mpt_edge.text_model import TextModel


def load(
    path: str | os.PathLike[str] | None = None, *, precision: str = "", threads: int = 0, verify: bool = True
) -> Model:
    """Load a bundle: an `EncoderModel`, or a `TextModel` that writes or chooses, as its backbone can.

    Args:
        path: the bundle's folder; None for ``$MPT_EDGE_BUNDLE``, else ``models/minilm-l6`` in the
            current folder, else the one in the user's cache folder.
        precision: ``"float32"`` or ``"int8"``, as the bundle has it; empty for float32 where it is there.
        threads: CPU threads of one request; 0 leaves it to ONNX Runtime.
        verify: check the model file's SHA-256 too, not only its size. Prompts, tasks and the
            tokenizer are always checked.

    Raises:
        BundleNotFoundError: there is no bundle.
        CorruptFileError: a file is missing or damaged.
        InputError: the bundle has no graph of that precision.
    """
    bundle = Bundle.open(default_bundle() if path is None else path)
    return open_model(bundle, precision=precision, threads=threads, verify=verify)


def open_model(bundle: Bundle, *, precision: str = "", threads: int = 0, verify: bool = True) -> Model:
    """Load a bundle that has been opened; see `load`."""
    family = EncoderModel if bundle.manifest.family == "encoder" else TextModel
    return family(bundle, precision=precision, threads=threads, verify=verify)
