"""Where the bundle is when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

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
