"""Answers as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from mpt_edge._escapes import escaped_json
from mpt_edge._files import error_names
from mpt_edge.batch.rows import InputRow
from mpt_edge.inference.answers import Answer


class JsonLines:
    """Writer of one JSON object per answer.

    Attributes:
        rows: number of rows written.
    """

    def __init__(self, file: TextIO, *, numbered: bool, source: str | None = None) -> None:
        """Write to an open file; ``numbered`` adds each row's line, and ``source`` the name of its file."""
        self.rows = 0
        self._file, self._numbered, self._source = file, numbered, source

    def __call__(self, rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
        """Write the answers to some rows, and flush them."""
        with error_names(str(getattr(self._file, "name", ""))):
            for row, answer in zip(rows, answers, strict=True):
                first, second = (row.text, None) if isinstance(row.text, str) else row.text
                line = row.number if self._numbered else None
                given: dict[str, Any] = {"text": first, "text_pair": second, "file": self._source, "line": line}
                entries = answer.to_dict() | {key: value for key, value in given.items() if value is not None}
                self._file.write(json_text(entries, self._file) + "\n")
            self._file.flush()
        self.rows += len(rows)


def json_text(value: object, file: TextIO, **options: Any) -> str:
    """Return a value as JSON that a stream can encode, without control characters that a terminal would obey."""
    is_utf8 = (file.encoding or "").lower().replace("-", "").startswith("utf8")
    return escaped_json(json.dumps(value, ensure_ascii=not is_utf8, **options))
