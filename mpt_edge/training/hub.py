"""The Hugging Face hub's cache: where downloads lie, and what a folder in it is a copy of."""

from __future__ import annotations

from pathlib import Path

from mpt_edge.errors import InputError

#: Folder of a commit in the cache: ``models--org--name/snapshots/<commit>``.
_REPOSITORY, _SNAPSHOTS = "models--", "snapshots"


def check_cache() -> None:
    """Check that downloads have a folder; the hub's library would make one named ``~`` in the current folder.

    Raises:
        InputError: the user has no home folder.
    """
    from huggingface_hub import constants

    if Path(constants.HF_HUB_CACHE).parts[:1] == ("~",):
        raise InputError(
            "there is no home folder to keep downloads in; set HOME or HF_HOME, or pass the folder of a local copy."
        )


def cached_origin(folder: Path) -> tuple[str, str | None]:
    """Return the hub id and commit of a folder in the cache; the name of any other folder, and None."""
    path = folder.resolve()
    repository = path.parent.parent.name
    if path.parent.name != _SNAPSHOTS or not repository.startswith(_REPOSITORY):
        return path.name, None
    return repository.removeprefix(_REPOSITORY).replace("--", "/", 1), path.name


def newest_commit(folder: Path) -> Path:
    """Return the folder of ``main`` in a repository's folder of the cache; any other folder as it is."""
    main = folder / "refs" / "main"
    if not folder.resolve().name.startswith(_REPOSITORY) or not main.is_file():
        return folder
    return folder / _SNAPSHOTS / main.read_text(encoding="utf-8", errors="replace").strip()
