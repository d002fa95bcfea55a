"""Identity of a task, and batches that leave no row out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Layout, Placement
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.objective import in_batches
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.plan import NewPrompt, Plan
from mpt_edge.training.settings import Settings
from mpt_edge.training.source_stage import train_source
from tests.support.checkpoints import assert_one_sentence
from tests.support.runs import toy
from tests.support.stages import silent

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


ALIKE = {
    "unknown": ("\U0001f600", "\U0001f61e"),
    "case": ("US", "us"),
    "space": ("good", "good "),
    "accents": ("\u00e9", "e\u0301"),
}


@pytest.mark.parametrize("names", ALIKE.values(), ids=list(ALIKE))
def test_labels_that_are_alike_end_a_run_before_it_begins(
    tiny: EncoderBackbone, tmp_path: Path, names: tuple[str, str]
) -> None:
    rows = [{"text": f"a {word} film", "label": name} for word, name in zip(("dull", "witty"), names, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe("mood", "rows.jsonl", "rows.jsonl", max_length=16)
    plan = Plan([recipe], tmp_path, tmp_path / "run", Settings(epochs=1, max_tasks=0))
    with pytest.raises(InputError) as caught:
        train_source(tiny, plan, NewPrompt(name="mpt", length=4), silent)
    one, other = sorted(names)
    assert_one_sentence(caught.value, f"mood: the labels {one!r} and {other!r} ", "; ")
    assert not (tmp_path / "run").exists()


def test_other_words_in_the_recipe_tell_labels_apart(tiny: EncoderBackbone) -> None:
    task = replace(toy("mood", ("dull",), ("witty",)), labels=("\U0001f600", "\U0001f61e"))
    with pytest.raises(
        InputError, match="have the same tokens; use other words under \\[labels\\], which this model's"
    ):
        SimilarityObjective(tiny, task, [[label] for label in task.labels])
    SimilarityObjective(tiny, task, WORDS)
