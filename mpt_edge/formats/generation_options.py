"""What a request may say about the text it wants."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypedDict

from mpt_edge.errors import InputError

#: Most beams. Each is a row of the model's cache, and a task file may ask for any number.
MAX_BEAMS = 256

#: Largest repetition penalty, and the least one's reciprocal; beyond, likelihoods leave the range of float32.
MAX_REPETITION_PENALTY = 100

#: Largest exponent of a length, either way; far beyond it powers of a length leave the range of floats.
MAX_LENGTH_PENALTY = 10


class GenerationKwargs(TypedDict, total=False):
    """What a request may pass by name; `GenerationOptions` says what each means. None leaves it to the task."""

    max_new_tokens: int | None
    min_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    seed: int | None
    stop: str | Sequence[str] | None


@dataclass(frozen=True)
class GenerationOptions:
    """How text is written; names and meanings are those of transformers' ``generate``.

    Attributes:
        max_new_tokens: longest text, in tokens.
        min_new_tokens: shortest text; before that no token that ends it is taken.
        temperature: 0 takes the likeliest token, above that tokens are drawn.
        top_k: draw from this many likeliest tokens; 0 draws from all.
        top_p: draw from the likeliest tokens that together have this probability.
        repetition_penalty: divides the likelihood of tokens that were there before; 1 does nothing.
        num_beams: texts that are followed side by side, at most `MAX_BEAMS`; 1 follows one.
        length_penalty: exponent of the length that beams' scores are divided by.
        early_stopping: whether beams end as soon as ``num_beams`` texts are complete; ``"never"`` follows them
            until no longer text can win either.
        seed: fixes what is drawn. Every row begins with it, so the same text with the same seed gets the same
            answer, alone or in a batch.
        stop: texts that end the text; they are not part of it.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be done. Raises InputError."""
        for name, allowed in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise InputError(f"{name} must be {_WORDS[allowed]}, not {value!r}; correct it.")
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) for text in self.stop):
            raise InputError(f"stop must be a text or a list of texts, not {self.stop!r}; correct it.")
        for problem in self._problems():
            raise InputError(f"{problem}.")

    def _problems(self) -> Iterator[str]:  # noqa: C901 - a list of checks
        """Yield what is wrong with entries that have the right types, each with its fix."""
        if self.max_new_tokens < 1:
            yield f"a limit of {self.max_new_tokens} new tokens leaves nothing to write; pass 1 or more"
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            yield "min_new_tokens must lie between 0 and max_new_tokens; correct it"
        if not 0 <= self.temperature <= sys.float_info.max:
            yield f"a temperature of {self.temperature} is not possible; pass 0 for the likeliest token, or more"
        if self.top_k < 0:
            yield f"top_k must be 0 or more, not {self.top_k}; pass 0 to draw from all tokens"
        if not 0 < self.top_p <= 1:
            yield f"top_p must be above 0 and at most 1, not {self.top_p}; pass 1 to draw from all tokens"
        if not 1 / MAX_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY:
            yield f"the repetition penalty must lie between {1 / MAX_REPETITION_PENALTY} and {MAX_REPETITION_PENALTY}; pass 1 for none"
        if not 1 <= self.num_beams <= MAX_BEAMS:
            yield f"{self.num_beams} beams are not possible; pass 1 to {MAX_BEAMS}"
        if self.num_beams > 1 and self.temperature > 0:
            yield "beams follow the likeliest tokens and none are drawn; pass a temperature of 0"
        if not abs(self.length_penalty) <= MAX_LENGTH_PENALTY:
            limits = f"between -{MAX_LENGTH_PENALTY} and {MAX_LENGTH_PENALTY}"
            yield f"the length penalty must lie {limits}; pass 1 for the mean"
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            yield 'early_stopping must be true, false or "never"; correct it'
        if self.seed < 0:
            yield "the seed must be 0 or more; correct it"
        if not all(self.stop):
            yield "a stop text is empty; leave it out"

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> GenerationOptions:
        """Make options of entries by name, such as a request's or a task file's; ``stop`` may be one text.

        Raises:
            InputError: an entry is unknown, or cannot be used.
        """
        unknown = [name for name in entries if name not in NAMES]
        if unknown:
            raise InputError(f"there is no option {unknown[0]!r}; use one of {', '.join(sorted(NAMES))}.")
        stop = entries.get("stop", ())
        texts = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop
        return cls(**{**entries, "stop": texts})


#: What options are called.
NAMES = frozenset(field.name for field in fields(GenerationOptions))

_WORDS: dict[type, str] = {Integral: "a whole number", Real: "a number"}

_TYPES: dict[str, type] = {
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "top_k", "num_beams", "seed"), Integral),
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "length_penalty"), Real),
}
