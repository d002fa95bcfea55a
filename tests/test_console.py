"""Consoles: text from files is shown, and neither obeyed nor read as markup."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.text import Text

from mpt_edge._console import PlainConsole, PlainTable, error_console

ROOT = Path(__file__).parents[1]
HOSTILE = "\x1b]0;owned\x9c[red]\x9b31m\u202e:smile:"
SHOWN = "\\x1b]0;owned\\x9c[red]\\x9b31m\\u202e:smile:"

#: Modules that may write without the escapes of `mpt_edge.cli.streams` or of `PlainConsole`.
_WRITERS = ("mpt_edge/_console.py", "mpt_edge/cli/streams.py")


def printed(*things: object, terminal: bool) -> str:
    console = PlainConsole(
        file=io.StringIO(), width=100, force_terminal=terminal, color_system="truecolor" if terminal else None
    )
    for thing in things:
        console.print(thing, style="red" if terminal else None)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("terminal", [False, True])
def test_text_is_shown(terminal: bool) -> None:
    table = PlainTable(HOSTILE)
    table.row(HOSTILE + "\n", 1)
    result = printed(HOSTILE, Text(HOSTILE), table, terminal=terminal)
    assert result.count(SHOWN) == 4
    assert not {"\x9c", "\x9b", "\u202e"} & set(result)
    assert ("\x1b[31m" in result) == ("\x1b" in result) == terminal
    assert f"{SHOWN}\\n" in result


def test_a_status_is_shown() -> None:
    console = PlainConsole(file=io.StringIO(), width=100, force_terminal=True)
    with console.status(Text(HOSTILE)) as status:
        status.update(Text(HOSTILE))
    result = console.file.getvalue()  # type: ignore[attr-defined]
    assert SHOWN in result
    assert not {"\x9c", "\x9b", "\u202e"} & set(result)


def test_the_error_stream_takes_long_lines(capsys: pytest.CaptureFixture[str]) -> None:
    error_console().print("word " * 30)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_in_a_pipe_is_not_cut_at_the_width_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = PlainTable("name", "place")
    table.row("n" * 50, "p" * 50)
    PlainConsole().print(table)
    assert "p" * 50 in capsys.readouterr().out.splitlines()[1]


def offenses(source: str) -> list[str]:
    """Return the ways around the escapes that a module takes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name in {"rich.console.Console", "rich.print", "rich.table.Table"}]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] == "rich"]
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            bad = {"sys.__stdout__", "sys.__stderr__", "sys.stdout.buffer", "sys.stderr.buffer", "os.write"}
            found += [name] if name in bad else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"TextColumn", "Spinner"}:
            keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
            is_fixed = "{" not in ast.unparse(node.args[0])
            found += [] if is_fixed or keywords.get("markup") == "False" else [ast.unparse(node)]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console",
        "from rich import print",
        "import rich.table",
        "import sys\nsys.stdout.buffer.write(b'')",
        "import sys\nprint('a', file=sys.__stderr__)",
        "TextColumn('{task.description}')",
    ],
)
def test_the_check_sees_every_way_around(source: str) -> None:
    assert len(offenses(source)) == 1


def test_nobody_writes_around_the_escapes() -> None:
    files = [path for folder in ("mpt_edge", "export") for path in (ROOT / folder).rglob("*.py")]
    bad = {path.relative_to(ROOT).as_posix(): offenses(path.read_text("utf-8")) for path in files}
    assert {path: names for path, names in bad.items() if names and path not in _WRITERS} == {}
