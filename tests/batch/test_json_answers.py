"""Answers as JSON lines."""

from __future__ import annotations

import io

import pytest

from mpt_edge import Model
from mpt_edge.batch.json_answers import JsonLines
from mpt_edge.batch.rows import InputRow
from tests.support.rows import rows_of


def test_rows_are_numbered_in_files_alone(tiny_model: Model) -> None:
    rows, answers = [InputRow("atom", None, 7)], tiny_model.run(["atom"], "topic")
    written = []
    for numbered in (False, True):
        lines = JsonLines(file := io.StringIO(), numbered=numbered)
        lines(rows, answers)
        assert lines.rows == 1
        written.append(rows_of(file.getvalue())[0])
    assert written[0] | {"line": 7} == written[1]
    JsonLines(file := io.StringIO(), numbered=True, source="a.csv")(rows, answers)
    assert rows_of(file.getvalue()) == [written[1] | {"file": "a.csv"}]


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "süß"), ("latin-1", "s\\u00fc\\u00df")])
def test_streams_of_other_encodings_get_ascii(tiny_model: Model, encoding: str, expected: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    JsonLines(file, numbered=False)([InputRow("süß", None, 1)], tiny_model.run(["süß"], "topic"))
    assert f'"text": "{expected}"' in file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
