"""Input and output names of the graphs, shared by exporter and runtime; Hugging Face's own where it has some."""

from __future__ import annotations

#: Cached keys and values, and those of the current rows.
PAST, PRESENT = "past_key_values.", "present."

#: Cross-attention keys and values for each decoder layer, as an encoder-decoder model's encoder returns them.
CROSS = "cross."

#: Number of used rows in a preallocated cache.
PAST_LENGTH = "past_length"


def layer_names(layers: int, prefix: str, side: str | None = None) -> list[str]:
    """Return ``0.key, 0.value, 1.key, …`` after a prefix; with a side, as in ``0.decoder.key``."""
    middle = "" if side is None else f"{side}."
    return [f"{prefix}{layer}.{middle}{part}" for layer in range(layers) for part in ("key", "value")]
