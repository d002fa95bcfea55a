"""What the graphs' inputs and outputs of keys and values are called, as Hugging Face's exports call them.

The exporter gives these names, and the runtime asks for them.
"""

from __future__ import annotations

#: Keys and values that were read before, and those of the rows at hand.
PAST, PRESENT = "past_key_values.", "present."

#: What each decoder layer of an encoder-decoder model sees of the encoder's rows, as the encoder's graph gives it.
CROSS = "cross."

#: How many rows of a cache with room are taken.
PAST_LENGTH = "past_length"


def layer_names(layers: int, prefix: str, side: str = "") -> list[str]:
    """Return ``0.key, 0.value, 1.key, …`` behind a prefix; with a side as in ``0.decoder.key``."""
    side = f"{side}." if side else ""
    return [f"{prefix}{layer}.{side}{part}" for layer in range(layers) for part in ("key", "value")]
