"""Texts read together are as if each was read alone, whatever the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt_edge.formats.manifest import Pooling
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.inference.batching import length_buckets
from mpt_edge.inference.numerics import pool
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.initialization import initialize_prompt
from mpt_edge.training.objectives.encoder_reading import Context, pool_states, read


@pytest.mark.parametrize(
    "placement",
    [
        Placement(),
        Placement(position=PromptPosition.EMBEDDINGS),
        Placement(position=PromptPosition.ALL_LAYERS),
        Placement(Layout.JOINT),
        None,
    ],
)
def test_texts_read_together_are_as_if_each_was_read_alone(
    tiny: EncoderBackbone, placement: Placement | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mpt_edge.training.objectives.encoder_reading.length_buckets", lambda lengths: length_buckets(lengths, 0)
    )
    rows = tiny.texts.encode(
        ["a good film", "bad", "the witty and gorgeous sport movie is dull", "great game", "law"], 40
    )
    assert len(length_buckets([len(row.ids) for row in rows], 0)) > 2
    prompt = placement and initialize_prompt(tiny, 6, 0, "vocabulary", placement.position)
    with torch.no_grad():
        context = Context.of(tiny, prompt, placement or Placement())
        output = read(tiny, rows, context)
        for i, row in enumerate(rows):
            alone = read(tiny, [row], context)
            length = len(row.ids)
            assert output.mask[i].tolist() == [1] * length + [0] * (output.mask.shape[1] - length)
            torch.testing.assert_close(output.embeddings[i], alone.embeddings[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(output.first[i], alone.first[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(output.hidden[i, :length], alone.hidden[0], rtol=0, atol=1e-5)
    some = output.part(slice(0, 2))
    assert some.hidden.shape[:2] == some.mask.shape == (2, len(rows[0].ids))


@pytest.mark.parametrize("pooling", list(Pooling))
def test_pooling_is_the_devices(pooling: Pooling) -> None:
    hidden = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    pooled = pool_states(torch.from_numpy(hidden), torch.from_numpy(mask), pooling)
    np.testing.assert_allclose(pooled.numpy(), pool(hidden, mask, pooling), rtol=1e-5, atol=1e-6)
