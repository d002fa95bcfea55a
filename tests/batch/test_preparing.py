"""Requests of rows; `tests/cli/test_run.py` has the message of every bad row."""

from __future__ import annotations

import io

from mpt_edge import Model
from mpt_edge.batch.preparing import Preparer
from mpt_edge.batch.rows import Columns, from_arguments, from_stream
from mpt_edge.errors import InputError, MptEdgeError
from mpt_edge.formats.records import Format
from mpt_edge.inference.heads.base import Request


def test_requests_and_errors_keep_their_places(tiny_model: Model) -> None:
    data = (
        b'{"text": "atom"}\n{"text": " "}\n{"text": 5}\n{"text": "good", "task": "same"}\n{"text": "a", "task": "x"}\n'
    )
    source = from_stream(io.BytesIO(data), "f", Format.JSONL, Columns())
    results = Preparer(tiny_model, source, "topic", {}).prepare(list(source.rows))
    assert isinstance(results[0], Request)
    assert [str(result).partition(";")[0].partition(",")[0] for result in results[1:4]] == [
        "f line 2: the text is empty",
        "f line 3 has 5 where a text belongs",
        "f line 4: 'same' reads pairs",
    ]
    assert isinstance(results[4], InputError)
    assert "f line 5: no task 'x' in" in str(results[4])


def test_hint_to_skip_is_for_rows_of_files(tiny_model: Model) -> None:
    file = Preparer(tiny_model, from_stream(io.BytesIO(b""), "f", Format.TEXT, Columns()), None, {})
    arguments = Preparer(tiny_model, from_arguments(["a"]), None, {})
    assert str(file.with_hint(InputError("it is bad; mend it."))) == "it is bad; mend it; or pass --on-error skip."
    assert str(arguments.with_hint(InputError("it is bad; mend it."))) == "it is bad; mend it."
    damaged = MptEdgeError("damaged.")
    assert file.with_hint(damaged) is damaged
