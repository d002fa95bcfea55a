"""Folders of regular files, made of what a hub has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpt_edge._files import atomic_write, open_regular, read_small
from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, SignatureError
from mpt_edge.formats.bundle_reader import BundleReader
from mpt_edge.formats.manifest import MANIFEST, FileEntry, Manifest
from mpt_edge.formats.staging import check_output, replacing_folder
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, TaskFile
from mpt_edge.formats.vectors import task_key
from mpt_edge.hub.contents import as_published
from mpt_edge.hub.fetching import FetchedTask, fetch_bundle, fetch_task
from mpt_edge.hub.repositories import Repository

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """A bundle that was pulled."""

    commit: str
    digest: str
    """Digest of the folder; another than the repository's where the folder has fewer precisions."""
    files: int
    size: int
    """Bytes of all files."""


@dataclass(frozen=True)
class PulledTask:
    """A task file that was pulled."""

    file: TaskFile
    path: Path
    commit: str


def pull_bundle(
    repository: Repository,
    output: Path,
    *,
    precision: str | None = None,
    digest: str | None = None,
    offline: bool = False,
    force: bool = False,
) -> Pulled:
    """Write a bundle of a hub to a folder, whole and verified or not at all.

    The files are copies and no links into the hub's cache: a bundle changes in place, and outlives the cache.

    Args:
        repository: the repository and its revision.
        output: the folder.
        precision: the only precision to fetch; None for all.
        digest: the only digest that the repository's bundle may have.
        offline: use the hub's cache alone.
        force: replace a bundle in the folder, with the tasks that were installed there.

    Raises:
        BundleNotFoundError: there is no such repository, or it holds no bundle.
        MismatchError: the bundle has another digest.
        SignatureError: the folder's bundle pins keys, and the new one does not pin the same.
        CorruptFileError: a file is not the one that the manifest lists.
        InputError: the folder cannot be written, or the hub cannot be reached or refuses.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    check_output(output, force=force)
    fetched = fetch_bundle(repository, precision=precision, has_all=True, digest=digest, offline=offline)
    _check_keys(output, fetched.manifest, repository)
    manifest = as_published(fetched.manifest, fetched.precision)
    with replacing_folder(output) as staging:
        for name, entry in manifest.files.items():
            _copy(fetched.folder / fetched.manifest.stored(name), staging / name, entry)
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        check_contents(BundleReader.open(staging))
    return Pulled(
        fetched.commit, manifest.digest, len(manifest.files), sum(each["size"] for each in manifest.files.values())
    )


def pull_tasks(
    repository: Repository, tasks: Sequence[str], folder: Path, *, offline: bool = False, force: bool = False
) -> list[PulledTask]:
    """Write task files of a hub below ``tasks/`` of a folder, all of one commit, once all of them are here.

    Args:
        repository: the repository and its revision.
        tasks: names of the tasks.
        folder: the folder; made if it is not there.
        offline: use the hub's cache alone.
        force: replace other files of the same names.

    Raises:
        BundleNotFoundError: there is no such repository.
        UnknownTaskError: it has no such task.
        CorruptFileError: a file is no task file.
        InputError: another file is there, or the hub cannot be reached or refuses.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    fetched: list[FetchedTask] = []
    for task in dict.fromkeys(tasks):
        at = repository if not fetched else Repository(repository.id, fetched[0].commit)
        fetched.append(fetch_task(at, task, offline=offline))
    pulled = [PulledTask(each.file, folder / task_key(each.file.name), each.commit) for each in fetched]
    for one, each in zip(pulled, fetched, strict=True):
        if one.path.exists() and not force and read_small(one.path, MAX_TASK_BYTES) != each.data:
            raise InputError(f"{one.path} is another file; pass --force to replace it.")
    for one, each in zip(pulled, fetched, strict=True):
        with atomic_write(one.path) as temporary:
            temporary.write_bytes(each.data)
    return pulled


def check_contents(bundle: BundleReader) -> None:
    """Check that all parts of a bundle can be read and belong together; hashes of the weights are left to others.

    Raises:
        CorruptFileError: a part is missing or damaged.
        MismatchError: a task was made for another bundle, or is not signed as the bundle requires.
    """
    bundle.tokenizer()
    for name in bundle.manifest.prompts:
        bundle.prompt(name)
    for name in bundle.task_names:
        bundle.task(name)
    for precision in bundle.precisions:
        bundle.graphs(precision, verify=False)


def _check_keys(output: Path, manifest: Manifest, repository: Repository) -> None:
    """Keep an update from dropping the keys that a device trusts. Raises SignatureError."""
    try:
        pinned = BundleReader.open(output).manifest.keys
    except (BundleNotFoundError, CorruptFileError):
        return
    if pinned is not None and (manifest.keys is None or not set(manifest.keys.keys) <= set(pinned.keys)):
        raise SignatureError(
            f"{output} pins keys, and {repository} does not pin the same; pull it into another folder, or unpin them "
            "with `mpt-edge keys unpin`."
        )


def _copy(source: Path, target: Path, entry: FileEntry) -> None:
    """Copy a file while its hash is computed, and flush it to disk. Raises CorruptFileError for another file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open_regular(source) as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != entry["sha256"]:
        raise CorruptFileError(
            f"{source} is not the file that {MANIFEST} lists; delete {source.resolve()} from the hub's cache, pull "
            "again, and if that does not help, ask the repository's owner."
        )
