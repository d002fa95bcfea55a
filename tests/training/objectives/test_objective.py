"""Identity of a task, and batches that leave no row out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mpt_edge.formats.placement import Layout, Placement
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.objectives.objective import in_batches
from mpt_edge.training.objectives.similarity import SimilarityObjective
from tests.support.runs import toy

WORDS = [["sport"], ["vote"]]


@pytest.mark.parametrize("count", [0, 1, 32, 33, 70])
def test_batches_hold_every_row_once_and_in_order(count: int) -> None:
    batches = in_batches(list(range(count)))
    assert [row for batch in batches for row in batch] == list(range(count))
    assert all(0 < len(batch) <= 32 for batch in batches)


def test_identity_is_json_of_all_but_the_test_split(tiny: EncoderBackbone) -> None:
    """A finished run that is started again with --test is not another run."""
    task = toy("mood", ("dull",), ("witty",))

    def identity(task: object = task, words: object = WORDS, **options: object) -> str:
        return json.dumps(SimilarityObjective(tiny, task, words, **options).identity(), sort_keys=True)

    assert identity() == identity(replace(task, test=task.validation))
    others = [
        identity(replace(task, recipe=replace(task.recipe, version=2))),
        identity(replace(task, labels=("high", "low"))),
        identity(replace(task, validation=task.train)),
        identity(words=WORDS[::-1]),
        identity(placement=Placement(Layout.JOINT)),
    ]
    assert len({identity(), *others}) == 6
