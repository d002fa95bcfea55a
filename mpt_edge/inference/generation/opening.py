"""The tokens that every input of a task begins with: an instruction, say, which is read once, with the prompt.

Under causal attention their keys and values depend on the prompt alone. So a request reads its own words only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.runtime.kv_cache import PromptCache
from mpt_edge.inference.text import Encoded, TextEncoder

#: Fewest tokens that are worth a pass of their own when a task is selected.
_MIN_TOKENS = 4

#: Inputs that begin differently to any tokenizer.
_PROBES = ("a", "Z", "7", "(", "\u00e9")


@dataclass(frozen=True)
class Opening:
    """Tokens at the beginning of inputs, and the cache of a task's prompt with them after it."""

    ids: tuple[int, ...]
    """The tokens."""
    cache: PromptCache = field(repr=False)
    """Keys and values of the prompt and these tokens."""

    def begins(self, row: Encoded) -> bool:
        """Return whether a row begins so and goes on: a tokenizer may join an instruction's end and a text."""
        count = len(self.ids)
        return len(row.ids) > count and tuple(row.ids[:count]) == self.ids


def common_beginning(texts: TextEncoder, file: TaskFile) -> tuple[int, ...]:
    """Return the tokens that inputs of a task begin with; none if they are few.

    They are found from a few inputs, so each row has to be compared with them.
    """
    if file.chat is None and (file.template is None or file.template.startswith("{text")):
        return ()
    inputs = _PROBES if file.inputs is Inputs.TEXT else tuple((each, each) for each in _PROBES)
    try:
        rows = [texts.fit(file.template, each, file.max_length, file.truncation_side, file.chat) for each in inputs]
    except InputError:  # the template fills the room, of which each request tells
        return ()
    columns = zip(*(row.ids for row in rows), strict=False)
    ids = tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
    return ids if len(ids) >= _MIN_TOKENS else ()
