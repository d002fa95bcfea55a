"""Entry point of the command: subcommands, and one clear sentence for every error a user can cause."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any, NoReturn, TextIO

import typer

import mpt_edge
from mpt_edge.cli import output, streams
from mpt_edge.cli.options import Commands
from mpt_edge.errors import MptEdgeError

# Newer versions of typer carry a click of their own, so click's base error is reached through typer.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

#: Exit status after Ctrl-C.
_INTERRUPTED = 130

#: Errors of writing that no other path or permission would mend.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Modules of the commands and groups, in the order of the help.
_MODULES = {
    "run": "run", "export": "export", "export-peft": "peft", "pull": "pull", "push": "push", "bench": "bench",
    "serve": "serve", "sign": "sign", "import": "peft", "keys": "keys", "tasks": "tasks", "train": "train",
}  # fmt: skip

_GROUPS = ("import", "keys", "tasks", "train")


def build_app(*names: str) -> Commands:
    """Return the command with some subcommands, or with all; only their modules are imported."""
    app = Commands(
        name="mpt-edge",
        help="Many language tasks on one frozen model: train, export and run multitask prompts.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names or _MODULES:
        module = import_module(f"mpt_edge.cli.{_MODULES[name]}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            function = getattr(module, name.replace("-", "_"))
            app.command(name, epilog=getattr(module, "EPILOG", None))(function)
    return app


def _version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(mpt_edge.__version__)
        raise typer.Exit


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Many language tasks on one frozen model: train, export and run multitask prompts."""


def main() -> None:
    """Run the command. Exit with 1 on an error of ours, 2 on wrong usage, 130 on Ctrl-C."""
    arguments, debug = _extract_debug(sys.argv[1:])
    stdout = streams.prepare()
    try:
        asked = arguments[0] if arguments else ""  # the modules of all commands take some 60 ms to import
        app = build_app(asked) if asked in _MODULES else build_app()
        status = app(args=arguments, standalone_mode=False)
        stdout.flush()
    except typer.Abort:
        _fail("interrupted.", _INTERRUPTED, debug)
    except _UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _exit_quietly(stdout)
    except SystemExit as error:  # typer or rich has seen the broken pipe; no command of ours exits so
        if error.code != 1:
            raise
        _exit_quietly(stdout)
    except (MptEdgeError, MemoryError, OSError) as error:
        _fail(_sentence(error), 1, debug)
    if status == _INTERRUPTED:  # typer's return value for Ctrl-C
        _fail("interrupted.", _INTERRUPTED, debug)
    sys.exit(status if isinstance(status, int) else 0)


def main_process() -> NoReturn:
    """Run the command as a process, which ends with it.

    After `mpt-edge run` it ends at once. Python's own way out frees each object, a sixth of the time of one answer.
    """
    try:
        main()
    except SystemExit as end:
        is_short = sys.argv[1:2] == ["run"] and "ray" not in sys.modules  # Ray stops its workers on the way out
        if not end.code and is_short:
            streams.settle(sys.stdout)
            streams.settle(sys.stderr)
            os._exit(0)
        raise
    sys.exit()


def _extract_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from the arguments before a ``--``; it may follow a subcommand too."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _sentence(error: Exception) -> str:
    if isinstance(error, MptEdgeError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        fix = "check the path, or free some space" if error.errno in _FULL else "check the path and its permissions"
        return f"{place}{error.strerror or error}; {fix}."
    return "out of memory; lower the batch size or the prompt length."


def _exit_quietly(stdout: TextIO) -> NoReturn:
    """Exit after the reader left (`| head`), which is no error."""
    streams.discard(stdout)
    sys.exit(0)


def _fail(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    output.note(message)
    streams.settle(sys.stdout)
    sys.exit(code)
