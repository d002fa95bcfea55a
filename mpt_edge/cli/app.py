"""Entry point of the command: subcommands, and one clear sentence for every error a user can cause."""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Annotated, Any, NoReturn, TextIO

import typer

import mpt_edge
from mpt_edge.cli import bench, export, keys, output, peft, pull, push, run, serve, sign, streams, tasks, train
from mpt_edge.cli.options import Commands
from mpt_edge.errors import MptEdgeError

# Newer versions of typer carry a click of their own, so click's base error is reached through typer.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

#: Exit status after Ctrl-C.
_INTERRUPTED = 130

#: Errors of writing that no other path or permission would mend.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = Commands(
    name="mpt-edge",
    help="Many language tasks on one frozen model: train, export and run multitask prompts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=run.EPILOG)(run.run)
app.command("export", epilog=export.EPILOG)(export.export)
app.command("export-peft")(peft.export_peft)
app.command("pull", epilog=pull.EPILOG)(pull.pull)
app.command("push", epilog=push.EPILOG)(push.push)
app.command("bench", epilog=bench.EPILOG)(bench.bench)
app.command("serve", epilog=serve.EPILOG)(serve.serve)
app.command("sign", epilog=sign.EPILOG)(sign.sign)
app.add_typer(peft.app, name="import")
app.add_typer(keys.app, name="keys")
app.add_typer(tasks.app, name="tasks")
app.add_typer(train.app, name="train")


def _version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(mpt_edge.__version__)
        raise typer.Exit


@app.callback()
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
