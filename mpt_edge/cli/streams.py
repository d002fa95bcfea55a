"""Standard streams as launchers leave them: closed, full, or unable to encode a character."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO, cast

from mpt_edge._escapes import escaped


def prepare() -> TextIO:
    """Make the standard streams usable, and return standard output.

    A closed output takes text and keeps none, as ``/dev/null``. A closed input stays None. Characters
    that a stream cannot encode are replaced. Errors of standard output name it, and those of the error
    stream are ignored. Control characters are escaped, whoever writes them: commands, the parser of the
    options, or Python, as it prints a traceback.
    """
    _occupy_numbers()
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    for stream, replacement in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=replacement)
    sys.stdout = cast("TextIO", _Stream(sys.stdout, _name_output))
    sys.stderr = cast("TextIO", _Stream(sys.stderr, _ignore))
    return sys.stdout


def _occupy_numbers() -> None:
    """Give closed standard streams a file, or the next file that is opened would get their number and their text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - until the process ends


def settle(stdout: TextIO) -> None:
    """Write the text that waits, or drop it where the stream does not take it."""
    try:
        stdout.flush()
    except OSError:
        discard(stdout)


def discard(stdout: TextIO) -> None:
    """Drop text that could not be written, so that Python does not try again as it exits."""
    with contextlib.suppress(OSError, ValueError):  # a stream in memory has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def for_generated_text(stdout: TextIO) -> TextIO:
    """Return the stream of a generated text: a file or a pipe gets the text itself, and a terminal an escaped one."""
    return stdout if stdout.isatty() else getattr(stdout, "rich_proxied_file", stdout)


class _Stream:
    """A text stream that escapes control characters, and calls ``handle`` with an error of writing."""

    def __init__(self, file: TextIO, handle: Callable[[OSError], None], *, escapes: bool = True) -> None:
        self._file, self._handle, self._escapes = file, handle, escapes

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream that consoles of rich write to, whose styles are control characters; they escape text first."""
        return cast("TextIO", _Stream(self._file, self._handle, escapes=False)) if self._escapes else self._file

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            self._file.write(escaped(text) if self._escapes else text)
        except OSError as error:
            self._handle(error)
        return len(text)

    def flush(self) -> None:
        """Pass on the text written so far."""
        try:
            self._file.flush()
        except OSError as error:
            self._handle(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _name_output(error: OSError) -> NoReturn:
    error.filename = "standard output"
    raise error


def _ignore(error: OSError) -> None:
    """Go on: notes that nobody takes are no reason to end the work."""
