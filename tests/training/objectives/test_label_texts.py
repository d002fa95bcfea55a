"""Texts of labels: typical training texts, and embeddings of labels with several texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import Examples, load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.encoder_reading import BARE, embed_all
from mpt_edge.training.objectives.label_texts import LabelTexts, choose_typical, collect_label_texts


def test_label_examples_are_training_texts_of_their_label(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]]
) -> None:
    task = load_task(replace(data[1]["mood"], label_examples=2), data[0])
    texts = collect_label_texts(tiny, task)
    assert [group[:-2] for group in texts] == [["a bad one"], ["a good one", "great"]]
    for label, group in enumerate(texts):
        own = {text for text, other in zip(task.train.texts, task.train.labels, strict=True) if other == label}
        assert set(group[-2:]) <= own
        assert len(set(group[-2:])) == 2


def test_long_texts_stand_for_a_label_only_after_short_ones(tiny: EncoderBackbone) -> None:
    long = "a film that goes on and on " * 4
    examples = Examples([long, "a film", "awful", long + "still"], [0, 0, 1, 0])
    assert choose_typical(tiny, examples, 2, 2)[0][0] == "a film"
    assert set(choose_typical(tiny, examples, 2, 2)[0]) < {"a film", long, long + "still"}
    assert choose_typical(tiny, examples, 2, 9)[1] == ["awful"]


def test_pairs_and_labels_without_texts_have_no_typical_ones(tiny: EncoderBackbone) -> None:
    examples = Examples([("a film", "a game"), "a movie"], [0, 0])
    assert choose_typical(tiny, examples, 2, 2) == [["a movie"], []]


def test_a_label_is_the_mean_of_its_texts(tiny: EncoderBackbone) -> None:
    texts = LabelTexts.encode(tiny, [["bad"], ["a good film", "great"]], 16)
    one, two, three = embed_all(tiny, texts.rows)
    expected = torch.stack([one, functional.normalize(two + three, dim=0)])
    torch.testing.assert_close(texts.embed(tiny, BARE), expected, atol=1e-6, rtol=1e-5)
