"""Names of repositories on a model hub, told apart from paths on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mpt_edge.errors import InputError

#: Start of a name that is never a path.
SCHEME = "hf://"

_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w.+-]*(?:/[A-Za-z0-9_][\w.+-]*)*", re.ASCII)

#: Longest id that the hub takes, in characters.
_MAX_ID = 96

#: Folder of our own default bundle, and a page of the hub that no user can be named after.
_OWN_FOLDER = "models"


@dataclass(frozen=True)
class Repository:
    """A repository, and its revision: a branch, a tag or a commit."""

    id: str
    revision: str = "main"
    is_explicit: bool = True
    """Whether it was named as a repository, and is no path that is missing."""

    def __str__(self) -> str:
        """Return the id, with the revision if it is no default."""
        return self.id if self.revision == "main" else f"{self.id}@{self.revision}"

    @property
    def else_path(self) -> str:
        """Start of an error for a name that may have been meant as a path."""
        return "" if self.is_explicit else f"there is no folder {self.id} here, and "

    @classmethod
    def parse(cls, source: str, revision: str | None = None, *, is_explicit: bool = True) -> Repository:
        """Read ``owner/name``, ``owner/name@revision``, or either behind ``hf://``.

        Raises:
            InputError: it names no repository, or names two revisions.
        """
        name, mark, written = source.removeprefix(SCHEME).partition("@")
        if _ID.fullmatch(name) is None or "--" in name or ".." in name or len(name) > _MAX_ID:
            raise InputError(f"{source!r} names no repository of a hub; write owner/name, or hf://owner/name.")
        if mark and revision is not None and written != revision:
            raise InputError(f"{source!r} and the revision {revision!r} disagree; name one revision.")
        chosen = written if mark else "main" if revision is None else revision
        if not isinstance(chosen, str) or _REVISION.fullmatch(chosen) is None or ".." in chosen:
            raise InputError(f"{chosen!r} is no revision; pass a branch, a tag or a commit.")
        return cls(name, chosen, is_explicit)


def find_repository(source: str | os.PathLike[str], revision: str | None = None) -> Repository | None:
    """Return the repository that a bundle's name stands for; None for a path.

    ``hf://owner/name`` is always a repository, and a `pathlib.Path` always a path. Of other texts, ``owner/name`` is a
    repository where neither that path nor the folder ``owner`` is here. What exists wins. ``models/…`` is a path.

    Raises:
        InputError: a path has a revision, or the name is no repository's.
    """
    if isinstance(source, str) and (source.startswith(SCHEME) or not _is_path(source)):
        return Repository.parse(source, revision, is_explicit=source.startswith(SCHEME) or revision is not None)
    if revision is not None:
        raise InputError(
            f"{str(source)!r} is a path, which has no revision; write hf://owner/name for a repository of the hub, or "
            "leave the revision out."
        )
    return None


def _is_path(text: str) -> bool:
    name = text.partition("@")[0]
    owner = name.partition("/")[0]
    return _ID.fullmatch(name) is None or owner == _OWN_FOLDER or any(map(os.path.lexists, (text, name, owner)))
