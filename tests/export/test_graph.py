"""Silence during an export, and the caller's logging after it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from mpt_edge_export.graph import quiet


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Restore the level that a failed test would leave."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)


def test_only_errors_are_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    log = logging.getLogger("somewhere")
    with quiet():
        print("step 1 of 3")
        warnings.warn("old", stacklevel=1)
        log.warning("advice")
        log.error("broken")
    assert capsys.readouterr().out == ""
    assert not recwarn
    assert caplog.messages == ["broken"]
    log.warning("heard again")
    assert caplog.messages == ["broken", "heard again"]


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_disabled_logging_stays_disabled(level: int) -> None:
    logging.disable(level)
    with quiet():
        assert logging.root.manager.disable == max(level, logging.WARNING)
    assert logging.root.manager.disable == level
    with pytest.raises(ValueError, match="no graph"), quiet():
        raise ValueError("no graph")
    assert logging.root.manager.disable == level
