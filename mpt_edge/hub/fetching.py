"""Files of a repository in the hub's cache: what is asked for, of one commit, compared with the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.manifest import MANIFEST, MAX_MANIFEST, FileEntry, Manifest, Precision, read_manifest
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, NAME, TaskFile
from mpt_edge.formats.vectors import task_key, task_names
from mpt_edge.hub.client import asking, connect, not_a_bundle, not_cached
from mpt_edge.hub.contents import as_published, choose_precision
from mpt_edge.hub.repositories import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile


@dataclass(frozen=True)
class FetchedBundle:
    """A bundle in the hub's cache, of which other precisions may be missing."""

    folder: Path
    commit: str
    manifest: Manifest
    precision: Precision | None
    """The only precision that was asked for; None for all."""


@dataclass(frozen=True)
class FetchedTask:
    """A task file in the hub's cache."""

    file: TaskFile
    data: bytes
    commit: str


def fetch_bundle(
    repository: Repository,
    *,
    precision: str | None = None,
    has_all: bool = False,
    digest: str | None = None,
    offline: bool = False,
) -> FetchedBundle:
    """Bring a bundle's files into the hub's cache, those that are not there yet.

    The commit is the revision's at the time of the call. Sizes, and hashes where the hub knows them, are compared with
    the manifest before anything large is fetched. Whoever reads the files compares all hashes.

    Args:
        repository: the repository and its revision.
        precision: graphs to fetch; None for the most exact ones in the bundle.
        has_all: fetch the graphs of all precisions if none is named.
        digest: the only digest that the bundle may have.
        offline: use the cache alone.

    Raises:
        BundleNotFoundError: there is no such repository, or it holds no bundle.
        MismatchError: the bundle has another digest.
        CorruptFileError: its manifest cannot be used, or its files are not those of its manifest.
        InputError: the hub cannot be reached or refuses, or there is no graph of that precision.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    hub = _Hub(connect(repository), repository, offline)
    path = hub.file(MANIFEST, MAX_MANIFEST)
    if path is None:
        raise not_a_bundle(repository)
    manifest = read_manifest(path)
    if digest is not None and manifest.digest != digest:
        raise MismatchError(
            f"{repository} has the digest {manifest.digest}, and {digest} is required; name the revision that has it."
        )
    chosen = None if has_all and precision is None else choose_precision(manifest, precision, repository)
    files = {manifest.stored(name): manifest.files[name] for name in as_published(manifest, chosen).files}
    folder = path.parent
    hub = hub.at(folder.name)
    hub.fetch({name: entry for name, entry in files.items() if not (folder / name).exists()})
    return FetchedBundle(folder, folder.name, manifest, chosen)


def fetch_task(repository: Repository, task: str, *, offline: bool = False) -> FetchedTask:
    """Bring a task file of a repository into the hub's cache, and read it.

    Raises:
        BundleNotFoundError: there is no such repository.
        UnknownTaskError: it has no such task.
        CorruptFileError: the file is no task file, or that of another task.
        InputError: the hub cannot be reached or refuses.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    if NAME.fullmatch(task) is None:
        raise InputError(f"{task!r} is no name of a task; see the repository's files in tasks/.")
    hub = _Hub(connect(repository), repository, offline)
    path = hub.file(task_key(task), MAX_TASK_BYTES)
    if path is None:
        raise UnknownTaskError(task, task_names(hub.names()), str(repository))
    data = read_small(path, MAX_TASK_BYTES)
    file = TaskFile.parse(data, f"{repository}/{task_key(task)}")
    if file.name != task:
        raise CorruptFileError(f"{repository} has the task {file.name!r} in {task_key(task)}; ask its owner.")
    return FetchedTask(file, data, path.parents[1].name)


@dataclass(frozen=True)
class _Hub:
    """A repository, and whether the cache alone may be used."""

    api: HfApi
    repository: Repository
    offline: bool

    def at(self, commit: str) -> _Hub:
        """Return the repository at a commit, which no push moves."""
        return replace(self, repository=replace(self.repository, revision=commit))

    def file(self, name: str, limit: int) -> Path | None:
        """Return a small file's path in the cache; None if the repository has no such file.

        Raises:
            CorruptFileError: it is larger than the limit, which is found before it is fetched.
            BundleNotFoundError: there is no such repository.
            InputError: the hub cannot be reached or refuses.
        """
        from huggingface_hub.errors import RemoteEntryNotFoundError

        given: dict[str, Any] = {"revision": self.repository.revision, "local_files_only": self.offline}
        with asking(self.repository, offline=self.offline):
            try:
                facts = self.api.hf_hub_download(self.repository.id, name, dry_run=True, **given)
                if (facts.file_size or 0) > limit:
                    raise CorruptFileError(
                        f"{name} of {self.repository} has {facts.file_size:,} bytes, more than the {limit:,} such a "
                        "file may have; ask its owner."
                    )
                return Path(self.api.hf_hub_download(self.repository.id, name, **given))
            except RemoteEntryNotFoundError:
                return None

    def names(self) -> list[str]:
        """Return the paths of all files."""
        with asking(self.repository, offline=self.offline):
            return self.api.list_repo_files(self.repository.id, revision=self.repository.revision)

    def fetch(self, files: Mapping[str, FileEntry]) -> None:
        """Fetch files that are not in the cache, after comparing what the hub says about them with the manifest.

        Raises:
            CorruptFileError: the hub has others, or lacks one.
            InputError: the hub cannot be reached or refuses.
        """
        if not files:
            return
        if self.offline:
            raise not_cached(self.repository)
        from huggingface_hub import RepoFile

        with asking(self.repository):
            known = self.api.get_paths_info(self.repository.id, list(files), revision=self.repository.revision)
            self._compare(files, {each.path: each for each in known if isinstance(each, RepoFile)})
            self.api.snapshot_download(
                self.repository.id, revision=self.repository.revision, allow_patterns=list(files)
            )

    def _compare(self, files: Mapping[str, FileEntry], known: Mapping[str, RepoFile]) -> None:
        for name, entry in files.items():
            if name not in known:
                raise CorruptFileError(f"{self.repository} lacks {name}, which its {MANIFEST} lists; ask its owner.")
            hashes = known[name].lfs
            if known[name].size != entry["size"] or (hashes and hashes.sha256 != entry["sha256"]):
                raise CorruptFileError(
                    f"{name} of {self.repository} is not the file that its {MANIFEST} lists; ask its owner, or name "
                    "another revision."
                )
