"""How a prompt meets the text: attention layout and prompt position."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mpt_edge.errors import InputError


class Layout(StrEnum):
    """Attention between prompt and text.

    In ``prefix``, prompt tokens attend to prompt tokens only, so their keys and values can be
    cached. In ``joint``, prompt and text attend to each other, as in the paper and in PEFT.
    """

    PREFIX = "prefix"
    JOINT = "joint"


class PromptPosition(StrEnum):
    """Entry point of a prompt into the backbone.

    ``embeddings``: in place of word embeddings, where PEFT feeds it. ``first_layer``: as the first
    layer's input. ``all_layers``: with virtual tokens of its own at every layer's input, in place of
    the previous layer's output (P-tuning v2, arXiv 2110.07602).
    """

    EMBEDDINGS = "embeddings"
    FIRST_LAYER = "first_layer"
    ALL_LAYERS = "all_layers"


@dataclass(frozen=True)
class Placement:
    """Attention layout and prompt position, which are trained, exported and run together.

    Raises:
        InputError: the prompt enters all layers in the joint layout. The text never changes such a
            prompt, so only the prefix layout exists for it.
    """

    layout: Layout = Layout.PREFIX
    position: PromptPosition = PromptPosition.FIRST_LAYER

    def __post_init__(self) -> None:
        """Refuse a combination that no backbone computes."""
        if self.layout is Layout.JOINT and self.position is PromptPosition.ALL_LAYERS:
            raise InputError(
                "a prompt that enters all layers is never changed by a text, so it has the prefix layout alone; leave "
                "out --layout, or pass --prompt-position first_layer."
            )

    @property
    def ndim(self) -> int:
        """Number of a prompt's axes: ``(l, d)``, or ``(l, layers, d)`` where it enters all layers."""
        return 3 if self.position is PromptPosition.ALL_LAYERS else 2

    @property
    def is_joint(self) -> bool:
        """Whether prompt and text attend to each other."""
        return self.layout is Layout.JOINT

    @property
    def takes_positions(self) -> bool:
        """Whether text positions count on from the prompt's, as PEFT has it."""
        return self.position is PromptPosition.EMBEDDINGS

    @classmethod
    def parse(cls, layout: object, position: object) -> Placement | None:
        """Return the placement that a file states; None for values or pairs of values that do not exist."""
        try:
            return cls(Layout(str(layout)), PromptPosition(str(position)))
        except ValueError:  # InputError is one
            return None


#: How PEFT feeds prompts to encoders.
PEFT_PLACEMENT = Placement(Layout.JOINT, PromptPosition.EMBEDDINGS)
