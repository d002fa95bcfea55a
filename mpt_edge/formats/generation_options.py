"""Options for text generation, in task files and requests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypedDict

from mpt_edge.errors import InputError
from mpt_edge.formats.strict_json import parse_json

#: Largest beam width. Each beam is a row of the model's cache, and a task file may ask for any number.
MAX_BEAMS = 256

#: Largest repetition penalty, and the reciprocal of the smallest; beyond, likelihoods leave the range of float32.
MAX_REPETITION_PENALTY = 100

#: Largest exponent of a length; far beyond it, powers of a length leave the range of floats.
MAX_LENGTH_PENALTY = 10


#: Maximum characters of a JSON schema or a regular expression, which requests may send to a server.
MAX_CONSTRAINT = 1 << 16


class GenerationKwargs(TypedDict, total=False):
    """Keyword arguments of a request; see `GenerationOptions`. None leaves an option to the task."""

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
    json_schema: str | Mapping[str, Any] | None
    regex: str | None


@dataclass(frozen=True)
class GenerationOptions:
    """Options for text generation, with the names and meanings of transformers' ``generate``."""

    max_new_tokens: int = 64
    """Maximum length of the new text, in tokens."""
    min_new_tokens: int = 0
    """Minimum length; no end token is taken before it."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0, tokens are sampled."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 samples from all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Divides the likelihood of tokens that came before; 1 does nothing."""
    num_beams: int = 1
    """Beam width, up to `MAX_BEAMS`; 1 is greedy search or sampling."""
    length_penalty: float = 1.0
    """Beam scores are divided by the length to this power."""
    early_stopping: bool | str = False
    """Whether beam search ends once ``num_beams`` texts are complete. ``"never"`` goes on until no longer text can win
    either."""
    seed: int = 0
    """Random seed of every row, so a text gets the same answer alone or in a batch."""
    stop: tuple[str, ...] = ()
    """Texts that end generation; they are not part of the result."""
    json_schema: str | None = None
    """JSON schema, as a dict or a JSON text, that the text is valid under. A text that ends by its length is not
    complete."""
    regex: str | None = None
    """Regular expression that the whole text matches; its end by length is as above."""

    @property
    def is_constrained(self) -> bool:
        """Whether there is a schema or an expression."""
        return self.json_schema is not None or self.regex is not None

    def __post_init__(self) -> None:
        """Make a tuple of the stop texts, and refuse impossible options. Raises InputError."""
        object.__setattr__(self, "stop", _texts(self.stop))
        object.__setattr__(self, "json_schema", _schema(self.json_schema))
        for name, allowed in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise InputError(f"{name} must be {_WORDS[allowed]}, not {value!r}; correct it.")
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) for text in self.stop):
            raise InputError(f"stop must be a text or a list of texts, not {self.stop!r}; correct it.")
        problem = next(self._problems(), None)
        if problem is not None:
            raise InputError(f"{problem}.")

    def _problems(self) -> Iterator[str]:  # noqa: C901 - a list of checks
        """Yield impossible values of options that have the right types, each with its fix."""
        low, high = 1 / MAX_REPETITION_PENALTY, MAX_REPETITION_PENALTY
        if self.max_new_tokens < 1:
            yield f"a limit of {self.max_new_tokens} new tokens leaves nothing to write; pass 1 or more"
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            yield "min_new_tokens must lie between 0 and max_new_tokens; correct it"
        if not 0 <= self.temperature <= sys.float_info.max:
            yield f"a temperature of {self.temperature} is not possible; pass 0 for the likeliest token, or more"
        if self.top_k < 0:
            yield f"top_k must be 0 or more, not {self.top_k}; pass 0 to sample from all tokens"
        if not 0 < self.top_p <= 1:
            yield f"top_p must be above 0 and at most 1, not {self.top_p}; pass 1 to sample from all tokens"
        if not low <= self.repetition_penalty <= high:
            yield f"the repetition penalty must lie between {low} and {high}; pass 1 for none"
        if not 1 <= self.num_beams <= MAX_BEAMS:
            yield f"{self.num_beams} beams are not possible; pass 1 to {MAX_BEAMS}"
        if self.num_beams > 1 and self.temperature > 0:
            yield "beam search samples nothing; pass a temperature of 0"
        if not abs(self.length_penalty) <= MAX_LENGTH_PENALTY:
            limits = f"between -{MAX_LENGTH_PENALTY} and {MAX_LENGTH_PENALTY}"
            yield f"the length penalty must lie {limits}; pass 1 for the mean"
        early_stopping = self.early_stopping
        if not isinstance(early_stopping, bool) and not (isinstance(early_stopping, str) and early_stopping == "never"):
            yield 'early_stopping must be true, false or "never"; correct it'
        if self.seed < 0:
            yield "the seed must be 0 or more; correct it"
        if not all(self.stop):
            yield "a stop text is empty; leave it out"
        yield from self._constraint_problems()

    def _constraint_problems(self) -> Iterator[str]:
        constraint = self.regex if self.json_schema is None else self.json_schema
        if constraint is None:
            return
        if self.json_schema is not None and self.regex is not None:
            yield "there are both json_schema and regex; pass one of them"
        if not isinstance(constraint, str):
            yield f"regex must be a text, not {type(constraint).__name__}; correct it"
        elif len(constraint) > MAX_CONSTRAINT:
            yield f"the schema or expression has more than {MAX_CONSTRAINT:,} characters; shorten it"
        if self.stop:
            yield "a text that must match ends by itself; leave out stop, or json_schema and regex"

    @classmethod
    def parse(cls, entries: Mapping[str, Any]) -> GenerationOptions:
        """Make options of a request's or a task file's entries; ``stop`` may be one text.

        Raises:
            InputError: an entry is unknown, or cannot be used.
        """
        if not isinstance(entries, Mapping):
            raise InputError(f"the options are {entries!r}; pass a dict by name.")
        unknown = [name for name in entries if name not in NAMES]
        if unknown:
            raise InputError(f"there is no option {unknown[0]!r}; use one of {', '.join(sorted(NAMES))}.")
        return cls(**entries)


def _texts(stop: Any) -> Any:
    """Return stop texts as a tuple; an object that is neither text nor list is left for the check."""
    return (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop


def _schema(schema: Any) -> str | None:
    """Return a JSON schema as a text with its properties in their order. Raises InputError for other objects."""
    if schema is None:
        return None
    if isinstance(schema, str) and len(schema) > MAX_CONSTRAINT:  # refused by the checks, and not parsed before
        return schema
    try:
        content = parse_json(schema if isinstance(schema, str) else json.dumps(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"json_schema is no JSON ({error}); correct it.") from error
    if not isinstance(content, dict):
        raise InputError('json_schema is no JSON object; pass a schema such as {"type": "object"}.')
    return json.dumps(content)


#: Options that state what a text may be.
CONSTRAINTS = frozenset({"json_schema", "regex"})

#: Names of all options.
NAMES = frozenset(field.name for field in fields(GenerationOptions))

_WORDS: dict[type, str] = {Integral: "a whole number", Real: "a number"}

_TYPES: dict[str, type] = {
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "top_k", "num_beams", "seed"), Integral),
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "length_penalty"), Real),
}
