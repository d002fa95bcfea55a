"""The limits that docs/security.md and SECURITY.md state are those of the code, and their scripts are there."""

from __future__ import annotations

import importlib
import re

from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

_LIMIT = re.compile(r"^\| [^|]+ \| ([\d,.]+) \| `([\w.]+)` \|$", re.MULTILINE)


def test_limits() -> None:
    rows = _LIMIT.findall(PAGE)
    assert len(rows) >= 8
    table = PAGE.partition("\n## Limits\n")[2].partition("\n## ")[0]
    assert len(rows) == table.count("\n| ") - 2  # head and rule
    for number, name in rows:
        module, _, constant = name.rpartition(".")
        assert getattr(importlib.import_module(module), constant) == float(number.replace(",", "")), name


def test_scripts_of_attacks() -> None:
    scripts = {path.name for path in (ROOT / "attacks").glob("*.py") if "typer.run(main)" in path.read_text("utf-8")}
    readme = (ROOT / "attacks" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+\.py)` \|", readme, re.MULTILINE))
    assert len(scripts) >= 3
    assert scripts <= listed
    assert scripts <= set(re.findall(r"^\| `python attacks/(\w+\.py)` \|", PAGE, re.MULTILINE))
    assert all((ROOT / "tests" / "attacks" / f"test_{name}").is_file() for name in scripts)
