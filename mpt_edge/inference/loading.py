"""Loading a bundle as the model that its backbone makes it."""

from __future__ import annotations

import os
from pathlib import Path

from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.model import Model


def load(
    path: str | os.PathLike[str] | None = None, *, precision: str = "", threads: int = 0, verify: bool = True
) -> Model:
    """Load a bundle: an `EncoderModel`, or a `GenerativeModel` that writes or chooses, as its backbone can.

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
    family = EncoderModel if bundle.manifest.family == "encoder" else GenerativeModel
    return family(bundle, precision=precision, threads=threads, verify=verify)


#: Name of the default bundle.
DEFAULT = "minilm-l6"

#: Environment variable that names the bundle's folder.
VARIABLE = "MPT_EDGE_BUNDLE"


def default_bundle() -> Path:
    """Return ``$MPT_EDGE_BUNDLE``, else ``models/minilm-l6`` here if there, else the user's cache folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    local = Path("models") / DEFAULT
    return local if local.is_dir() else cache_bundle()


def cache_bundle() -> Path:
    """Return the default bundle's place in the user's cache folder."""
    from platformdirs import user_cache_path  # here, since apps name their bundle

    return user_cache_path("mpt-edge") / DEFAULT
