"""Locating and loading bundles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mpt_edge._files import cache_folder, user_path
from mpt_edge.errors import BundleNotFoundError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.hub.repositories import find_repository
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.model import Model
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.selection import MAX_CACHE_BYTES

#: Name of the default bundle.
DEFAULT = "minilm-l6"

#: Environment variable with the bundle's folder.
VARIABLE = "MPT_EDGE_BUNDLE"


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    runs: int = 1,
    providers: Sequence[str] | None = None,
    verify: bool = True,
    digest: str | None = None,
    offline: bool = False,
    max_cache_bytes: int = MAX_CACHE_BYTES,
) -> Model:
    """Load a bundle: an `EncoderModel` or a `GenerativeModel`, by its backbone.

    >>> model = mpt_edge.load("models/minilm-l6", threads=1)
    >>> model.task("sst2")("a gorgeous, witty film").label
    'positive'
    >>> model.providers
    ['CPUExecutionProvider']

    Args:
        path: the bundle's folder, ``~`` allowed; None for ``$MPT_EDGE_BUNDLE``, else ``models/minilm-l6`` in the
            current folder, else the one in the user's cache folder. ``"hf://owner/name"`` is a repository of a model
            hub; so is ``"owner/name"`` where neither that path nor the folder ``owner`` exists. What exists wins.
        revision: branch, tag or commit of a repository.
        precision: ``"float32"``, ``"int8"`` or ``"int4"``; None for the first of these in the bundle.
        threads: CPU threads of one request; None leaves it to ONNX Runtime.
        runs: runs of an encoder's graph side by side, for lists of texts. As many as there are cores, with
            ``threads=1``, answer long lists fastest, and a single text with one core.
        providers: ONNX Runtime's execution providers, the preferred first; None for the CPU.
        verify: check the SHA-256 of the graph and its weights. Without it, files of the right size are
            trusted. Prompts, tasks and the tokenizer are always checked.
        digest: the only digest that the bundle may have, as `mpt-edge tasks digest` prints it; None for any.
        offline: of a repository, use the files in the hub's cache alone.
        max_cache_bytes: memory for selected tasks. Beyond it, those that were not used for longest are let go, and
            selected again when they are asked for.

    Raises:
        BundleNotFoundError: there is no bundle, or none is named and the user has no cache folder.
        CorruptFileError: a file is missing or damaged.
        MismatchError: the bundle has another digest.
        InputError: the bundle has no graph of that precision, or ONNX Runtime no such provider; or the hub cannot be
            reached or refuses.
        MissingExtraError: a repository is named, and `huggingface_hub` is not installed.
    """
    folder = default_bundle() if path is None else path
    repository = find_repository(folder, revision)
    if repository is not None:
        from mpt_edge.hub.fetching import fetch_bundle  # imported here: devices load folders

        fetched = fetch_bundle(repository, precision=precision, digest=digest, offline=offline)
        folder, precision = fetched.folder, fetched.precision
    bundle = Bundle.open(folder, digest=digest)
    options = SessionOptions(threads=threads, providers=providers, runs=runs)
    return open_model(bundle, precision=precision, options=options, verify=verify, max_cache_bytes=max_cache_bytes)


def open_model(
    bundle: Bundle,
    *,
    precision: str | None = None,
    options: SessionOptions | None = None,
    verify: bool = True,
    max_cache_bytes: int = MAX_CACHE_BYTES,
) -> Model:
    """Load an opened bundle; see `load`."""
    family = GenerativeModel if bundle.manifest.is_generative else EncoderModel
    return family(bundle, precision=precision, options=options, verify=verify, max_cache_bytes=max_cache_bytes)


def default_bundle() -> Path:
    """Return ``$MPT_EDGE_BUNDLE``, else ``models/minilm-l6`` here if there, else the user's cache folder.

    Raises:
        BundleNotFoundError: none of them is there, and the user has no cache folder.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return user_path(named)
    local = Path("models") / DEFAULT
    return local if local.is_dir() else cache_bundle()


def cache_bundle() -> Path:
    """Return the default bundle's path in the user's cache folder.

    Raises:
        BundleNotFoundError: the user has no home folder, as in many containers.
    """
    folder = cache_folder()
    if folder is None:
        raise BundleNotFoundError(
            "no folder is named, and there is no home folder with a cache to look into; name the bundle with --bundle "
            f"or ${VARIABLE}, and the folder of an export with --output."
        )
    return folder / DEFAULT
