"""Which objective goes with which family of backbones."""

from __future__ import annotations

from collections.abc import Sequence

from mpt_edge.errors import InputError
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.rows import TaskData
from mpt_edge.training.objectives.generative import TextObjective
from mpt_edge.training.objectives.mask import MaskObjective
from mpt_edge.training.objectives.objective import Distillation, TaskObjective
from mpt_edge.training.objectives.similarity import SimilarityObjective


def new_objective(
    backbone: AnyBackbone,
    tasks: Sequence[TaskData],
    label_texts: Sequence[Sequence[Sequence[str]]],
    distillation: Distillation | None = None,
    layout: Layout = Layout.PREFIX,
    entry: Entry = Entry.FIRST_LAYER,
) -> TaskObjective:
    """Return the objective of a backbone's family; arguments are those of `TaskObjective`.

    Raises:
        InputError: a task is to write text, and the backbone cannot.
    """
    if isinstance(backbone, GenerativeBackbone):
        for task in tasks:
            if task.recipe.readout:
                raise InputError(
                    f"{task.recipe.name!r} states readout = {task.recipe.readout!r}, which is for encoders, and "
                    f"{backbone.id} writes text; leave readout out of the recipe."
                )
        return TextObjective(backbone, tasks, label_texts, distillation, layout, entry)
    for task in tasks:
        if task.recipe.kind == "generation":
            raise InputError(
                f"{task.recipe.name!r} generates text and {backbone.id} is an encoder; pass a decoder-only model with "
                "--backbone, or a recipe with labels."
            )
    masked = {task.recipe.readout == "mask" for task in tasks}
    if len(masked) > 1:
        raise InputError("some recipes have readout = 'mask' and some not; train the two kinds in runs of their own.")
    family = MaskObjective if True in masked else SimilarityObjective
    return family(backbone, tasks, label_texts, distillation, layout, entry)
