"""What graphs are told of themselves, where there is no bundle around them."""

from __future__ import annotations

from typing import Any

from mpt_edge.formats.manifest import GenerationFacts, Manifest
from mpt_edge.formats.prompts import Entry


def described(**entries: Any) -> Manifest:
    """A manifest of a model that writes, 32 channels wide; entries that no graph reads are empty."""
    empty: dict[str, Any] = dict.fromkeys(Manifest.__dataclass_fields__, "")
    return Manifest(**empty | {"hidden_size": 32, "entry": Entry.FIRST_LAYER, "generation": facts()} | entries)


def facts(*, positions_from_zero: bool = False, start_id: int = 0) -> GenerationFacts:
    """What a manifest says of a model that writes."""
    return GenerationFacts(
        eos_ids=(), vocabulary=96, context=64, positions_from_zero=positions_from_zero, start_id=start_id
    )
