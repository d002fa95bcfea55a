"""Every error a user can cause, each with one sentence that names the fix.

::

    MptEdgeError
    ├── BundleNotFoundError   (FileNotFoundError)   no bundle in a folder
    ├── CorruptFileError      (ValueError)          a file is missing, damaged or malformed
    ├── MismatchError         (ValueError)          made for another backbone, tokenizer or prompt
    │   └── SignatureError                          not signed as required
    ├── UnknownTaskError      (LookupError)         no such task in the bundle
    ├── InputError            (ValueError)          text, rows, options or folders that cannot be used
    ├── UnsupportedModelError (ValueError)          an architecture that cannot carry a prompt
    ├── ParityError           (ValueError)          the exported graph disagrees with PyTorch
    ├── TrainingError         (RuntimeError)        training failed at a named step
    └── MissingExtraError     (ImportError)         an optional dependency is not installed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Characters of an unknown name, and number of known ones, that a message shows.
_MAX_SHOWN = 80


class MptEdgeError(Exception):
    """Base of all errors raised on purpose by mpt-edge. All of them can be pickled."""


class BundleNotFoundError(MptEdgeError, FileNotFoundError):
    """No bundle in a folder."""


class CorruptFileError(MptEdgeError, ValueError):
    """A file is missing, damaged, or in another format."""


class MismatchError(MptEdgeError, ValueError):
    """Two artifacts do not belong together, by fingerprint or by shape."""


class SignatureError(MismatchError):
    """A task or a key rotation is not signed as the bundle or its user requires."""


class UnknownTaskError(MptEdgeError, LookupError):
    """The bundle has no task of that name."""

    def __init__(self, name: object, known: Iterable[str], where: str) -> None:
        """Suggest the nearest known task, or list all of them."""
        import difflib  # imported here: it takes longer than the rest of this module

        names = sorted(known)
        name = str(name)
        name = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"  # a long one would take seconds
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif names:
            more = f" and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else ""
            hint = "it has " + ", ".join(names[:_MAX_SHOWN]) + f"{more}."
        else:
            hint = "it has no tasks; add one with `mpt-edge tasks install FILE`."
        super().__init__(f"no task {name!r} in {where}; {hint}")
        self.name, self._known, self._where = name, names, where

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, not the message."""
        return type(self), (self.name, self._known, self._where)


class InputError(MptEdgeError, ValueError):
    """Texts, rows or options that cannot be used as given, or a folder that cannot be changed."""


class UnsupportedModelError(MptEdgeError, ValueError):
    """The architecture cannot carry a prompt."""


class ParityError(MptEdgeError, ValueError):
    """ONNX Runtime and PyTorch disagree about the exported graph."""


class TrainingError(MptEdgeError, RuntimeError):
    """Training failed; the message names the step and the task."""


class MissingExtraError(MptEdgeError, ImportError):
    """An optional dependency is missing; the message is the command that installs it."""

    def __init__(self, module: str, extra: str, before: str = "") -> None:
        """Build the `pip install` line from the extra's name, after the start of a sentence if there is one."""
        super().__init__(
            f"{before}{module} is not installed; run: pip install 'mpt-edge[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')"
        )
        self._arguments = module, extra, before

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, not the message."""
        return type(self), self._arguments
