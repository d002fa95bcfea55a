"""Generation options: impossible values, and entries of files and requests."""

from __future__ import annotations

import numpy as np
import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import NAMES, GenerationKwargs, GenerationOptions


def test_requests_take_all_options() -> None:
    assert set(GenerationKwargs.__annotations__) == NAMES


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"max_new_tokens": 0}, "limit of 0 new tokens"),
        ({"min_new_tokens": 70}, "min_new_tokens"),
        ({"temperature": -1.0}, "temperature of -1.0"),
        ({"temperature": float("nan")}, "temperature of nan"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition penalty"),
        ({"num_beams": 0}, "0 beams"),
        ({"num_beams": 257}, "257 beams are not possible; pass 1 to 256"),
        ({"num_beams": 2, "temperature": 1.0}, "beam search samples nothing"),
        ({"seed": -1}, "seed"),
        ({"stop": ("",)}, "stop text is empty"),
        ({"stop": 5}, "stop must be a text or a list of texts, not 5"),
        ({"stop": (".", None)}, "stop must be a text"),
        ({"max_new_tokens": "many"}, "max_new_tokens must be a whole number, not 'many'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, not 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number, not True"),
        ({"seed": None}, "seed must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"length_penalty": float("nan")}, "length penalty must lie between -10 and 10"),
        ({"length_penalty": 2000.0}, "length penalty must lie between -10 and 10"),
        ({"temperature": 10**400}, "a temperature of 10+ is not possible"),
        ({"early_stopping": "soon"}, "early_stopping must be true, false or"),
    ],
)
def test_options_that_cannot_be(values: dict[str, object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        GenerationOptions(**values)  # type: ignore[arg-type]


def test_options_from_entries() -> None:
    options = GenerationOptions.parse({"max_new_tokens": np.int64(4), "temperature": 1, "stop": "."})
    assert (options.max_new_tokens, options.temperature, options.stop) == (4, 1, (".",))
    assert GenerationOptions.parse({"stop": [".", "!"]}).stop == (".", "!")
    with pytest.raises(InputError, match="no option 'beams'"):
        GenerationOptions.parse({"beams": 3})
