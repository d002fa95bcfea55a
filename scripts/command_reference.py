"""Write docs/reference/command.md from the command's own help.

python scripts/command_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from mpt_edge.cli.app import build_app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "command.md"

_HEAD = """\
# Command

`mpt-edge` has these commands, and each has `--help`. `scripts/command_reference.py` writes this page from their help.
"""


def commands(command: Any, name: str = "mpt-edge") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the click command of every command that runs, depth first."""
    if not hasattr(command, "commands"):
        yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}")


def flags(parameter: Any) -> list[str]:
    """Return an option's flags, long ones first; none of an argument."""
    if parameter.param_type_name != "option":
        return []
    return sorted([*parameter.opts, *parameter.secondary_opts], key=lambda flag: (not flag.startswith("--"), flag))


def page() -> str:
    """Return the page as Markdown."""
    root = typer.main.get_command(build_app())
    parts = [_HEAD, _table(root, "Options before a command")]
    for name, command in commands(root):
        usage = " ".join([name, *(_usage(each) for each in command.params if not flags(each)), "[OPTIONS]"])
        parts.append(f"## {name}\n\n{_sentences(command.help)}\n\n```text\n{usage}\n```\n\n{_table(command, 'Option')}")
    return "\n".join(parts)


def _usage(argument: Any) -> str:
    shown = (argument.metavar or argument.name).strip("{}[]").removesuffix("...").upper()
    shown += "..." if argument.nargs == -1 else ""
    return shown if argument.required else f"[{shown}]"


def _table(command: Any, title: str) -> str:
    lines = [f"| {title} | Meaning | Default |", "| --- | --- | --- |"]
    for each in command.params:
        if flags(each):
            shown = ", ".join(f"`{flag}`" for flag in flags(each))
            lines.append(f"| {shown} | {_escaped(_sentences(each.help))} | {_escaped(_default(each))} |")
    return "\n".join(lines) + "\n"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return option.show_default
    if option.is_flag:
        return "on" if option.default and option.secondary_opts else ""
    if option.default is None or option.default in ("", (), []):
        return ""
    return f"`{getattr(option.default, 'value', option.default)}`"


def _sentences(text: str | None) -> str:
    return " ".join((text or "").split())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("$'\\n'", "`$'\\n'`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
