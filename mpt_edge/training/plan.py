"""Plans of the training stages: tasks, prompts, and checks before training takes hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import MAX_PROMPT_BYTES, SharedPrompt
from mpt_edge.formats.taskfile import MIN_LENGTH, NAME
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.examples import few_shot, load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.initialization import AVERAGE
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.table import find_objective, make_objectives
from mpt_edge.training.settings import Settings, Trained
from mpt_edge.training.teachers import Teaching

#: Room for the header of a prompt's file.
_HEADER_BYTES = 64 << 10


@dataclass(frozen=True)
class Plan:
    """Tasks, data and settings of a stage."""

    recipes: Sequence[Recipe]
    data: Path
    """Folder that the recipes' paths start from."""
    output: Path
    """Folder for vectors, checkpoint and log."""
    settings: Settings
    _: KW_ONLY
    test: bool = False
    """Whether to measure the test split, once, at the end."""
    shots: int = 0
    """Training and validation examples a label; 0 for all."""
    subset_seed: int = 0
    """Random seed of the choice of those examples."""

    def facts(self, stage: str) -> dict[str, Any]:
        """Return the provenance of the stage's tasks."""
        few = {"shots": self.shots, "subset_seed": self.subset_seed} if self.shots else {}
        return {"stage": stage, "seed": self.settings.seed} | few

    def objectives(self, backbone: AnyBackbone, placement: Placement) -> list[TaskObjective]:
        """Check the recipes, read their data, and tokenize it.

        Raises:
            InputError: a recipe or its data cannot be used with this backbone.
        """
        names = [recipe.name for recipe in self.recipes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"two recipes are named {twice!r}; give each task its own name.")
        for recipe in self.recipes:
            find_objective(backbone, recipe)
        tasks = [load_task(recipe, self.data, test=self.test) for recipe in self.recipes]
        if self.shots:
            tasks = [few_shot(task, self.shots, self.subset_seed) for task in tasks]
        return make_objectives(backbone, tasks, placement)


@dataclass(frozen=True, kw_only=True)
class NewPrompt:
    """The shared prompt that a source stage trains."""

    name: str = "mpt"
    length: int | None = None
    """Number of virtual tokens l; None for `default_length`."""
    layout: Layout = Layout.PREFIX
    position: PromptPosition | None = None
    """None for all layers in the prefix layout, and for the first layer in the joint layout."""
    init: str | None = None
    """``"vocabulary"``, ``"random"``, ``"examples"``, or a text; None for `default_init`."""

    @property
    def placement(self) -> Placement:
        """Layout and position. Raises InputError for all layers in the joint layout."""
        default = PromptPosition.ALL_LAYERS if self.layout is Layout.PREFIX else PromptPosition.FIRST_LAYER
        return Placement(self.layout, self.position or default)


def default_length(backbone: AnyBackbone) -> int:
    """Return the number of virtual tokens of a backbone's prompts: as few as validation allows, or the paper's.

    With an encoder, 4, 8 and 16 were equally accurate (docs/results.md), and 8 cost a request next to nothing.
    """
    return 100 if isinstance(backbone, GenerativeBackbone) else 8


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Prompt and vectors that a target stage starts from."""

    folder: Path
    """A bundle, or the folder of a source run. Its tasks are possible initializations."""
    shared: SharedPrompt
    init: str = AVERAGE
    """Initialization of u and v: ``"average"``, ``"nearest"``, ``"ones"`` or a task of the folder."""
    trained: Trained = Trained.VECTORS
    name: str = "group"
    """Name of a group's new shared prompt."""
    teaching: Teaching | None = None
    """Finished tasks that teach the targets."""

    def placed(self, layout: Layout | None) -> Origin:
        """Return the same prompt in another layout, under another name; for its own layout or None, no change.

        Raises:
            InputError: the prompt has one layout alone.
        """
        own = self.shared
        if layout is None or layout is own.placement.layout:
            return self
        placement = Placement(layout, own.placement.position)
        return replace(self, shared=replace(own, placement=placement, name=f"{own.name}-{layout}"))


def check_prompt_name(name: str) -> None:
    """Refuse a prompt's name that cannot be a file name of a bundle. Raises InputError."""
    if NAME.fullmatch(name) is None:
        raise InputError(
            f"{name!r} cannot name a prompt; use at most 64 letters, digits, dots, dashes and underscores, a letter "
            "or digit first."
        )


def check_file_size(values: int) -> None:
    """Refuse a prompt of so many bytes that no reader would take its file. Raises InputError."""
    limit = MAX_PROMPT_BYTES - _HEADER_BYTES
    if values > limit:
        raise InputError(
            f"the prompt takes {values:,} bytes, more than the {limit:,} that its file has room for; train a shorter "
            "one (--prompt-length), or one that enters the first layer alone (--prompt-position first_layer)."
        )


def check_room(objective: TaskObjective, length: int, placement: Placement) -> None:
    """Refuse texts that do not fit into the model beside a prompt that takes positions.

    In a generative model every prompt does, wherever it enters, since its bundle counts so.

    Raises:
        InputError: they do not fit.
    """
    backbone, recipe, new = objective.backbone, objective.recipe, objective.new_tokens
    if not isinstance(backbone, GenerativeBackbone) and not placement.takes_positions:
        return
    context = backbone.model.max_positions
    taken = f"{backbone.id} has {context} positions and the prompt takes {length} of them"
    room = context - length
    if room < MIN_LENGTH:
        raise InputError(f"{taken}, which leaves no room for text; train a prompt of a lower --prompt-length.")
    taken += f", the output of {recipe.name!r} {new}" if new else ""
    room -= new
    if room < MIN_LENGTH:
        raise InputError(
            f"{taken}, which leaves no room for its text; {objective.longer_text}, or train a prompt of a lower "
            "--prompt-length."
        )
    if objective.max_length > room:
        raise InputError(f"{taken}; lower max_length of {recipe.name!r} to {room} or less.")
