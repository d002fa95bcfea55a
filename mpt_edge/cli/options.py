"""Options that several commands share, and commands that read paths as the Python API does."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from mpt_edge._files import user_path
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.taskfile import MAX_VERSION

BundleFolder = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", help="The bundle's folder.", show_default="$MPT_EDGE_BUNDLE, models/minilm-l6, ..."),
]

PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="Graph to use, if the bundle has several.", show_default="float32, if there"),
]

RequireKey = Annotated[
    list[str] | None,
    typer.Option(help="A public key that must have signed each task; repeatable, for one of several."),
]

DigestOption = Annotated[
    str | None, typer.Option("--digest", help="Refuse the bundle unless `mpt-edge tasks digest` prints this.")
]

TaskVersion = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_VERSION,
        help="Version of the tasks; a bundle takes rising ones.",
        show_default="the recipe's, or 1",
    ),
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="automatic")]


class Commands(typer.Typer):
    """A group of commands that replace the ``~`` of their paths; shells leave that of ``--output=~/x`` in place."""

    def command(self, *args: Any, **options: Any) -> Callable[[_Function], _Function]:
        """Declare a command; see `typer.Typer.command`."""
        declare = super().command(*args, **options)

        def declared(function: _Function) -> _Function:
            hints = get_type_hints(function, include_extras=True)
            for hint in hints.values():
                for info in getattr(hint, "__metadata__", ()):
                    info.readable = False  # typer would refuse an output that one may write and not read
            function.__annotations__ = hints  # as text, each would be read anew

            @wraps(function)
            def with_paths(**given: Any) -> Any:
                return function(**{name: _expanded(value) for name, value in given.items()})

            declare(with_paths)
            return function

        return declared


def _expanded(value: Any) -> Any:
    """Replace the ``~`` of paths. Raises InputError for a path from a home folder where there is none."""
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return user_path(value) if isinstance(value, Path) else value
