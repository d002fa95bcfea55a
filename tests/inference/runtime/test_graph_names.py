"""Names of keys and values, against those that transformers and optimum give their graphs."""

from __future__ import annotations

from mpt_edge.inference.runtime.graph_names import PAST, PRESENT, layer_names


def test_decoder_layers() -> None:
    assert layer_names(2, PAST) == [
        "past_key_values.0.key",
        "past_key_values.0.value",
        "past_key_values.1.key",
        "past_key_values.1.value",
    ]


def test_sides_of_encoder_decoders() -> None:
    assert layer_names(1, PRESENT, "decoder") == ["present.0.decoder.key", "present.0.decoder.value"]
    assert layer_names(0, PAST) == []
