"""Windows of rows: their sizes, their order, and when they are read."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpt_edge import Model
from mpt_edge.batch import windows as module
from mpt_edge.batch.preparing import Preparer
from mpt_edge.batch.rows import Columns, InputRow, InputRows, from_stream
from mpt_edge.batch.windows import Window, windows, windows_ahead
from mpt_edge.errors import InputError
from mpt_edge.formats.records import Format
from mpt_edge.inference.heads.base import Request

Read = Callable[[Preparer, int], Iterator[Window]]
BOTH = pytest.mark.parametrize("read", [windows, windows_ahead])


def lines(model: Model, text: str) -> Preparer:
    return Preparer(model, from_stream(io.BytesIO(text.encode()), "f", Format.TEXT, Columns()), "topic", {})


def texts(window: Window) -> list[Any]:
    return [item.text for item in window.items if isinstance(item, InputRow)]


@BOTH
def test_all_rows_come_once_in_order(tiny_model: Model, read: Read) -> None:
    found = list(read(lines(tiny_model, "".join(f"atom {i}\n" for i in range(7))), 3))
    assert [texts(window) for window in found] == [[f"atom {i}" for i in run] for run in ((0, 1, 2), (3, 4, 5), (6,))]
    assert all(isinstance(request, Request) for window in found for request in window.requests)
    assert [window.position for window in found][-1] == 7 * len("atom 0\n")


@BOTH
def test_an_empty_source_has_no_window(tiny_model: Model, read: Read) -> None:
    assert list(read(lines(tiny_model, ""), 3)) == []


@BOTH
def test_long_rows_end_a_window_early(tiny_model: Model, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHARACTERS", 10)
    found = list(read(lines(tiny_model, "atom\natom\natom\natom\n"), 100))
    assert [len(window.items) for window in found] == [3, 1]


@BOTH
def test_rows_before_an_error_of_the_source_are_yielded(tiny_model: Model, read: Read) -> None:
    def rows() -> Iterator[InputRow]:
        yield InputRow("atom", None, 1)
        raise InputError("the rest is damaged.")

    found = read(Preparer(tiny_model, InputRows("f", rows(), lambda: 0), "topic", {}), 1)
    assert texts(next(found)) == ["atom"]
    with pytest.raises(InputError, match="damaged"):
        next(found)


@pytest.mark.parametrize(("read", "is_ahead"), [(windows, False), (windows_ahead, True)])
def test_only_a_file_is_read_ahead(tiny_model: Model, read: Read, is_ahead: bool) -> None:
    second = threading.Event()

    def rows() -> Iterator[InputRow]:
        yield InputRow("atom", None, 1)
        second.set()
        yield InputRow("law", None, 2)

    found = read(Preparer(tiny_model, InputRows("f", rows(), lambda: 0), "topic", {}), 1)
    assert texts(next(found)) == ["atom"]
    assert second.wait(5 if is_ahead else 0.1) == is_ahead
    assert texts(next(found)) == ["law"]
    assert list(found) == []


def test_rows_that_cannot_be_answered_are_skipped_or_stop_the_others(tiny_model: Model) -> None:
    (window,) = windows(lines(tiny_model, "atom\n \nlaw\n"), 10)
    skipped: list[str] = []
    rows, requests, error = window.answerable(skipped.append)
    assert ([row.text for row in rows], len(requests), error) == (["atom", "law"], 2, None)
    assert [sentence.partition(";")[0] for sentence in skipped] == ["f line 2: the text is empty"]
    rows, requests, error = window.answerable(None)
    assert ([row.text for row in rows], len(requests)) == (["atom"], 1)
    assert isinstance(error, InputError)
