"""Models that a process loads once, whoever asks for them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from mpt_edge._files import user_path
from mpt_edge.inference.loading import default_bundle, load
from mpt_edge.inference.model import Model

_LOADING = threading.Lock()


@dataclass(frozen=True)
class ModelSettings:
    """Arguments of `mpt_edge.load`, to be sent to other processes."""

    bundle: str
    precision: str | None = None
    threads: int | None = 1
    """CPU threads; one, since workers run side by side."""
    providers: tuple[str, ...] | None = None
    digest: str | None = None

    @classmethod
    def of(cls, bundle: object = None, **settings: object) -> Self:
        """Return settings with the absolute path of a bundle that is here: workers have other current folders."""
        path = default_bundle() if bundle is None else user_path(bundle)
        return cls(str(Path(path).absolute() if path.exists() else path), **settings)  # type: ignore[arg-type]


def shared_model(settings: ModelSettings) -> Model:
    """Load a model, or return the one that this process has loaded with the same settings.

    Raises:
        MptEdgeError: it cannot be loaded; see `mpt_edge.load`.
    """
    with _LOADING:  # threads that ask at once would load it twice
        return _load(settings)


@lru_cache(maxsize=2)
def _load(settings: ModelSettings) -> Model:
    return load(
        settings.bundle,
        precision=settings.precision,
        threads=settings.threads,
        providers=settings.providers,
        digest=settings.digest,
    )
