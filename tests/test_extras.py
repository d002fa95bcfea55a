"""Optional dependencies: the sentence of a missing one, and no import before all are found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mpt_edge._extras import check_installed, require
from mpt_edge.errors import MissingExtraError


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module that can be imported, and one that needs a module which is not there."""
    (tmp_path / "whole_extra.py").write_text("")
    (tmp_path / "half_extra.py").write_text("import part_of_half_extra")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "whole_extra", raising=False)


@pytest.mark.usefixtures("modules")
def test_installed_modules_are_not_imported_by_the_check() -> None:
    check_installed("train", "whole_extra", "half_extra")
    assert "whole_extra" not in sys.modules


@pytest.mark.usefixtures("modules")
def test_modules_are_imported_where_they_are_required() -> None:
    require("train", "whole_extra")
    assert "whole_extra" in sys.modules


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("missing", ["no_extra", "no_extra.part"])
def test_missing_module_is_found_before_any_import(missing: str) -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("train", "whole_extra", missing)
    assert str(caught.value) == (
        f"{missing} is not installed; run: pip install 'mpt-edge[train]' (in a clone: pip install '.[train]')"
    )
    assert "whole_extra" not in sys.modules


@pytest.mark.usefixtures("modules")
def test_module_that_another_needs() -> None:
    with pytest.raises(MissingExtraError, match=r"part_of_half_extra is not installed; run: pip install 'mpt-edge\["):
        require("export", "half_extra")
