"""The text around a message."""

from __future__ import annotations

from typing import Any

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.chat_frame import ChatFrame


def test_message_between_two_texts() -> None:
    assert ChatFrame("<", ">").wrap(" {text}\n") == "< {text}\n>"
    assert ChatFrame("<", ">", trims=True).wrap(" a b\n") == "<a b>"


def test_entries() -> None:
    frame = ChatFrame("<", ">", trims=True)
    assert ChatFrame.parse(frame.entries()) == frame


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"before": "<", "after": ">"},
        {"before": "<", "after": ">", "trims": 1},
        {"before": "<", "after": 1, "trims": True},
        {"before": "<", "after": ">", "trims": True, "more": 1},
    ],
)
def test_entries_that_are_no_frame(entries: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a chat frame has the entries before, after, trims"):
        ChatFrame.parse(entries)
