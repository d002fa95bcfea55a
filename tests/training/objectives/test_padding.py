"""Which texts are read together, against all splits there are, and what is read against each text by itself."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from mpt_edge.inference.batching import length_buckets
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.initialization import initial_prompt
from mpt_edge.training.objectives.encoder_reading import Context, read


def cost(reads: list[list[int]], read_cost: int) -> int:
    return sum(len(part) * max(part) + read_cost for part in reads)


def cheapest(lengths: list[int], read_cost: int) -> int:
    """Return the least cost over all splits of the sorted lengths."""
    ordered, count = sorted(lengths), len(lengths)
    cuts = (inner for k in range(count) for inner in combinations(range(1, count), k))
    return min(
        cost([ordered[a:b] for a, b in zip((0, *inner), (*inner, count), strict=True)], read_cost) for inner in cuts
    )


@pytest.mark.parametrize("read_cost", [0, 5, 40, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_no_split_costs_less(seed: int, read_cost: int) -> None:
    lengths = np.random.default_rng(seed).integers(3, 60, 9).tolist()
    reads = length_buckets(lengths, read_cost)
    assert sorted(np.concatenate(reads).tolist()) == list(range(9))
    assert cost([[lengths[i] for i in part] for part in reads], read_cost) == cheapest(lengths, read_cost)


def test_texts_of_one_length_are_read_at_once_in_their_order() -> None:
    (one,) = length_buckets([7] * 50)
    assert one.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("layout", "entry"),
    [("prefix", "first_layer"), ("prefix", "every_layer"), ("joint", "first_layer"), ("none", "first_layer")],
)
def test_texts_read_apart_are_as_if_each_was_read_alone(
    tiny: EncoderBackbone, layout: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mpt_edge.training.objectives.encoder_reading.length_buckets", lambda lengths: length_buckets(lengths, 0)
    )
    rows = tiny.texts.encode(
        ["a good film", "bad", "the witty and gorgeous sport movie is dull", "great game", "law"], 40
    )
    assert len(length_buckets([len(row.ids) for row in rows], 0)) > 2
    prompt = None if layout == "none" else initial_prompt(tiny, 6, 0, "vocabulary", entry)
    with torch.no_grad():
        context = Context.of(tiny, prompt, layout, entry)
        found = read(tiny, rows, context)
        for i, row in enumerate(rows):
            alone = read(tiny, [row], context)
            length = len(row.ids)
            assert found.mask[i].tolist() == [1] * length + [0] * (found.mask.shape[1] - length)
            torch.testing.assert_close(found.embeddings[i], alone.embeddings[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(found.first[i], alone.first[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(found.hidden[i, :length], alone.hidden[0], rtol=0, atol=1e-5)
    some = found.part(slice(0, 2))
    assert some.hidden.shape[:2] == some.mask.shape == (2, len(rows[0].ids))
