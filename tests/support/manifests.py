"""Manifests of graphs without a bundle."""

from __future__ import annotations

from typing import Any

from mpt_edge.formats.manifest import GenerationFacts, Manifest
from mpt_edge.formats.placement import Placement
from mpt_edge_export.dimensions import Dimensions


def graph_manifest(size: Dimensions, **entries: Any) -> Manifest:
    """Return the manifest of a generative model; entries that no graph reads are empty."""
    empty: dict[str, Any] = dict.fromkeys(Manifest.__dataclass_fields__, "")
    return Manifest(**empty | vars(size) | {"placement": Placement(), "generation": facts()} | entries)


def facts(*, positions_from_zero: bool = False, start_id: int = 0) -> GenerationFacts:
    """Return the properties of a generative model with 96 tokens."""
    return GenerationFacts(
        eos_ids=(), vocabulary=96, context=64, positions_from_zero=positions_from_zero, start_id=start_id
    )
