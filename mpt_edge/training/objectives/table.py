"""Table of the training objectives, by head type.

A new head type needs its file in `mpt_edge.inference.heads`, a row in that package, an objective
here, and a row in this table.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Placement
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.examples import TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.generative import ChoiceObjective, GenerationObjective
from mpt_edge.training.objectives.label_texts import collect_label_texts
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.similarity import SimilarityObjective

#: Objectives by the name of their head type.
OBJECTIVES: dict[str, type[TaskObjective]] = {
    objective.head_type.name: objective
    for objective in (SimilarityObjective, LabelVectorObjective, MaskObjective, GenerationObjective, ChoiceObjective)
}


def find_objective(backbone: AnyBackbone, recipe: Recipe) -> type[TaskObjective]:
    """Return the objective of a recipe's head type; for one that states none, the default of the backbone's family.

    Raises:
        InputError: the head type is unknown, belongs to the other family, or does not fit the recipe.
    """
    is_generative = isinstance(backbone, GenerativeBackbone)
    if recipe.head_type is None:
        objective: type[TaskObjective] | None = ChoiceObjective if is_generative else SimilarityObjective
    else:
        objective = OBJECTIVES.get(recipe.head_type)
    if objective is None:
        raise InputError(
            f"{recipe.name}: no training for head_type {recipe.head_type!r}; use one of {', '.join(OBJECTIVES)}, or "
            "leave it out."
        )
    if objective.head_type.is_generative and not is_generative:
        raise InputError(
            f"{recipe.name!r} needs a generative model and {backbone.id} is an encoder; pass a decoder-only or an "
            "encoder-decoder model with --backbone, or leave head_type out of a recipe with labels."
        )
    if is_generative and not objective.head_type.is_generative:
        raise InputError(
            f"{recipe.name!r} states head_type = {recipe.head_type!r}, which is for encoders, and {backbone.id} "
            "is a generative model; leave head_type out of the recipe."
        )
    if recipe.is_chat and not is_generative:
        raise InputError(
            f"{recipe.name!r} states template = 'chat' and {backbone.id} is an encoder; write the template as text, "
            "with {text}."
        )
    objective.check_recipe(recipe)
    return objective


def make_objectives(
    backbone: AnyBackbone, tasks: Sequence[TaskData], placement: Placement | None = None
) -> list[TaskObjective]:
    """Return an objective for each task; raises as `find_objective` and `TaskObjective`."""
    return [
        find_objective(backbone, data.recipe)(backbone, data, collect_label_texts(backbone, data), None, placement)
        for data in tasks
    ]
