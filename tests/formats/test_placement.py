"""Attention layouts and prompt positions, and the one pair that does not exist."""

from __future__ import annotations

from itertools import product

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.placement import PEFT_PLACEMENT, Layout, Placement, PromptPosition


def test_names_in_files() -> None:
    assert [str(layout) for layout in Layout] == ["prefix", "joint"]
    assert [str(position) for position in PromptPosition] == ["embeddings", "first_layer", "all_layers"]


def test_all_layers_have_the_prefix_layout_alone() -> None:
    with pytest.raises(InputError, match=r"it has the prefix layout alone; leave out --layout, or pass"):
        Placement(Layout.JOINT, PromptPosition.ALL_LAYERS)


@pytest.mark.parametrize(("layout", "position"), list(product(Layout, PromptPosition)))
def test_properties(layout: Layout, position: PromptPosition) -> None:
    placement = Placement.parse(layout.value, position.value)
    if (layout, position) == (Layout.JOINT, PromptPosition.ALL_LAYERS):
        assert placement is None
        return
    assert placement == Placement(layout, position)
    assert placement.ndim == (3 if position is PromptPosition.ALL_LAYERS else 2)
    assert placement.is_joint == (layout is Layout.JOINT)
    assert placement.takes_positions == (position is PromptPosition.EMBEDDINGS)


@pytest.mark.parametrize(
    ("layout", "position"),
    [("sideways", "first_layer"), ("prefix", "inputs_embeds"), (None, "first_layer"), ("prefix", None), ([], {})],
)
def test_values_that_do_not_exist(layout: object, position: object) -> None:
    assert Placement.parse(layout, position) is None


def test_peft_feeds_prompts_as_embeddings() -> None:
    assert Placement.parse("joint", "embeddings") == PEFT_PLACEMENT
    assert Placement() == Placement(Layout.PREFIX, PromptPosition.FIRST_LAYER)
