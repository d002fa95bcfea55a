"""Bundles and tasks to a hub: in one commit, after all files have been verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle_reader import BundleReader
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.formats.prompts import MAX_PROMPT_BYTES
from mpt_edge.formats.taskfile import MAX_TASK_BYTES
from mpt_edge.formats.vectors import INSTALLED, PROMPTS, TASKS, task_key
from mpt_edge.hub.cards import make_card
from mpt_edge.hub.client import asking, connect
from mpt_edge.hub.contents import CARD, as_published
from mpt_edge.hub.pulling import check_contents
from mpt_edge.hub.repositories import Repository

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

#: Folders of a repository that a bundle owns: files in them that it does not list are deleted.
_OWNED = tuple(f"{folder}/" for folder in ("onnx", PROMPTS, TASKS, INSTALLED))


@dataclass(frozen=True)
class Pushed:
    """A commit that was made."""

    commit: str
    files: int
    """Files of the bundle, or tasks."""


def push_bundle(
    bundle: BundleReader, repository: Repository, *, private: bool = False, tag: str | None = None
) -> Pushed:
    """Upload a bundle in one commit: the files that its manifest lists, and the manifest.

    The repository is made if it is not there, and a card if the bundle has none. The history of this folder stays here;
    the digest is the same.

    Args:
        bundle: the bundle.
        repository: the repository, and the branch as its revision.
        private: make a new repository private, and refuse one that is public.
        tag: a tag to give the commit.

    Raises:
        CorruptFileError: a file is missing or damaged; nothing was sent.
        MismatchError: a task does not belong to the bundle, or is not signed as it requires; nothing was sent.
        InputError: there is no token, or the hub cannot be reached or refuses.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    hub = _Target.open(repository, private=private, tag=tag)
    check_contents(bundle)
    files = _verified(bundle)
    manifest = as_published(bundle.manifest)
    made = {MANIFEST: manifest.to_json()}
    if CARD not in files:
        made[CARD] = make_card(repository, manifest, map(bundle.task, bundle.task_names))
    hub.create()
    stale = [name for name in hub.names() if name.startswith(_OWNED) and name not in files]
    commit = hub.commit(
        [*files.values(), *(addition(name, text.encode()) for name, text in made.items())],
        stale,
        f"Push {manifest.name}",
    )
    return Pushed(commit, len(manifest.files))


def push_tasks(
    bundle: BundleReader,
    tasks: Sequence[str],
    repository: Repository,
    *,
    private: bool = False,
    tag: str | None = None,
) -> Pushed:
    """Upload tasks of a bundle alone, in one commit, for bundles that are elsewhere.

    `mpt-edge tasks install hf://owner/name/tasks/NAME.safetensors` takes them. A card is added if there is none.

    Args:
        bundle: the bundle.
        tasks: names of the tasks.
        repository: the repository, and the branch as its revision.
        private: make a new repository private, and refuse one that is public.
        tag: a tag to give the commit.

    Raises:
        UnknownTaskError: the bundle has no such task.
        CorruptFileError: a task is damaged; nothing was sent.
        MismatchError: it does not belong to the bundle, or is not signed as it requires; nothing was sent.
        InputError: the repository holds a bundle, there is no token, or the hub cannot be reached or refuses.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    hub = _Target.open(repository, private=private, tag=tag)
    files = {name: bundle.task(name) for name in dict.fromkeys(tasks)}
    data = {task_key(name): bundle.read(task_key(name), MAX_TASK_BYTES) for name in files}
    hub.create()
    present = hub.names()
    if MANIFEST in present:
        raise InputError(
            f"{repository} holds a bundle, whose manifest would not list {', '.join(files)}; push the whole bundle, or "
            "name another repository."
        )
    if CARD not in present:
        data[CARD] = make_card(repository, bundle.manifest, files.values()).encode()
    commit = hub.commit([*map(addition, data, data.values())], [], f"Push {', '.join(files)}")
    return Pushed(commit, len(files))


def addition(name: str, content: bytes | Path) -> CommitOperationAdd:
    """Return the operation that adds a file; it hashes the content."""
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))


def _verified(bundle: BundleReader) -> dict[str, CommitOperationAdd]:
    """Return the operations that add a bundle's files by the names in its manifest, once their hashes agree.

    Files that an install may delete meanwhile are kept in memory. The weights are read again while they are sent, and
    the hub compares what arrives with the hash.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    result = {}
    for name, entry in as_published(bundle.manifest).files.items():
        path = bundle.path(name)
        is_small = name.startswith((f"{PROMPTS}/", f"{TASKS}/"))
        add = addition(name, bundle.read(name, max(MAX_PROMPT_BYTES, MAX_TASK_BYTES)) if is_small else path)
        if add.upload_info.sha256.hex() != entry["sha256"]:
            raise CorruptFileError(
                f"{path} is damaged (its SHA-256 is not the manifest's), so nothing was sent; restore it or export "
                "again."
            )
        result[name] = add
    return result


@dataclass(frozen=True)
class _Target:
    """A repository to push to."""

    api: HfApi
    repository: Repository
    private: bool
    tag: str | None

    @classmethod
    def open(cls, repository: Repository, *, private: bool, tag: str | None) -> _Target:
        """Return the repository; nothing is sent. Raises InputError without a token or a network."""
        api = connect(repository)
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise InputError("HF_HUB_OFFLINE turns the network off, which a push needs; unset it.")
        if get_token() is None:
            raise InputError("there is no token of the hub; log in by `hf auth login`, or set $HF_TOKEN.")
        if tag is not None:
            Repository.parse(repository.id, tag)  # refuses a name that no tag can have
        return cls(api, repository, private, tag)

    def create(self) -> None:
        """Make the repository and the branch if they are not there. Raises InputError for a public one."""
        name, branch = self.repository.id, self.repository.revision
        with asking(self.repository):
            self.api.create_repo(name, private=self.private or None, exist_ok=True)
            if self.private and not self.api.repo_info(name).private:
                raise InputError(f"{name} is public; make it private on its page of the hub, or leave --private out.")
            if branch != "main":
                self.api.create_branch(name, branch=branch, exist_ok=True)

    def names(self) -> list[str]:
        """Return the paths of all files on the branch."""
        with asking(self.repository):
            return self.api.list_repo_files(self.repository.id, revision=self.repository.revision)

    def commit(self, additions: Sequence[CommitOperationAdd], stale: Sequence[str], message: str) -> str:
        """Upload files and delete others in one commit; return its id."""
        from huggingface_hub import CommitOperationDelete

        name, branch = self.repository.id, self.repository.revision
        with asking(self.repository), _uploading():
            made = self.api.create_commit(
                name,
                [*additions, *map(CommitOperationDelete, stale)],
                commit_message=message,
                revision=branch,
            )
            if self.tag is not None:
                self.api.create_tag(name, tag=self.tag, revision=made.oid)
        return str(made.oid)


@contextmanager
def _uploading() -> Iterator[None]:
    """Turn the client's own errors of an upload into one sentence. Raises InputError."""
    try:
        yield
    except RuntimeError as error:  # of one file; the hub's answer is its cause
        raise error.__cause__ or error from error
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise InputError(f"the hub refuses the card ({' '.join(str(error).split())}); correct {CARD}.") from error
