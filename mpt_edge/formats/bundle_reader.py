"""Reading a bundle folder: a manifest with a hash of every file, read fail-closed.

Nothing in a bundle is unpickled or executed. A file that the manifest does not list is not read, and
a listed file must have the listed hash. So a file may be a link to anywhere, as in the hub's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from mpt_edge._files import check_readable, read_small, sha256, unreadable, user_path
from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.graph_files import check_weights
from mpt_edge.formats.manifest import MANIFEST, Family, Manifest, Precision, read_manifest
from mpt_edge.formats.prompts import MAX_PROMPT_BYTES, SharedPrompt
from mpt_edge.formats.public_keys import check_keys
from mpt_edge.formats.signature import check_signature, today
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, NAME, TaskFile
from mpt_edge.formats.vectors import TASKS, prompt_key, task_key, task_names

TOKENIZER, MODEL = "tokenizer.json", "onnx/model.onnx"

_MAX_TOKENIZER = 64 << 20

_DIGEST = re.compile("[0-9a-f]{64}")

#: Largest number of changes by other processes during one read; each takes longer than the read.
_MAX_ATTEMPTS = 100

_Result = TypeVar("_Result")

#: Device, inode, size, and times of change, which no two versions of a file share.
_FileState = tuple[int, int, int, int, int]


def graph_names(family: Family, precision: Precision) -> list[str]:
    """Return the paths of a bundle's graphs: one, or an encoder's and a decoder's."""
    stems = ("encoder_model", "decoder_model") if family is Family.SEQ2SEQ else ("model",)
    return [f"onnx/{stem}{precision.suffix}.onnx" for stem in stems]


def weights_name(precision: Precision) -> str:
    """Return the path of the weights of a bundle's graphs."""
    return f"onnx/model{precision.suffix}.onnx_data"


def hash_bytes(data: bytes) -> str:
    """Return the hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class BundleReader:
    """An opened bundle folder."""

    folder: Path
    manifest: Manifest
    pins: frozenset[str] = frozenset()
    """Digests that the bundle may have; empty for any."""
    _last_read: tuple[_FileState, Manifest] | None = field(default=None, compare=False, repr=False)
    """State of bundle.json and the manifest that `reload` then read; in one value, so that threads mix no reads."""

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, digest: str | None = None) -> Self:
        """Open a bundle by its folder.

        Args:
            folder: the folder.
            digest: the only `digest` that the bundle may have, now and whenever it is read again. A change through
                this object moves it.

        Raises:
            BundleNotFoundError: there is no bundle.
            CorruptFileError: its manifest cannot be used.
            MismatchError: it has another digest.
            InputError: ``digest`` is none.
        """
        if digest is not None and (not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None):
            raise InputError(f"{digest!r} is no digest; pass the 64 digits of `mpt-edge tasks digest`.")
        path = user_path(folder)
        file = path / MANIFEST
        if _file_size(file) is None:
            hint = (
                f"build it with `mpt-edge export minilm-l6 --output {path}`"
                if (path / TASKS).is_dir() or not path.exists()
                else "pass the folder that holds bundle.json"
            )
            raise BundleNotFoundError(f"no bundle in {path}; {hint}, or name another with --bundle.")
        result = cls(path, read_manifest(file), frozenset() if digest is None else frozenset({digest}))
        result._check_pin(result.manifest)
        return result

    @property
    def digest(self) -> str:
        """One hash for all that answers depend on, to pin; see `Manifest.digest`."""
        return self.manifest.digest

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks in the manifest, sorted."""
        return task_names(self.manifest.files)

    def has_task(self, name: str) -> bool:
        """Whether the manifest lists a task; as fast with thousands of them as with one."""
        return isinstance(name, str) and NAME.fullmatch(name) is not None and task_key(name) in self.manifest.files

    def task_bytes(self, name: str) -> int:
        """Return the size of a task's file in bytes, as the manifest has it."""
        return self.manifest.files[task_key(name)]["size"]

    def reload(self) -> None:
        """Read the manifest again if its file has changed, to see tasks installed since.

        With 10,000 tasks reading takes 110 ms, on one thread of an AMD EPYC.

        Raises:
            MismatchError: the folder was exported again, with other prompts or another backbone, or it has another
                digest than the pinned one.
        """
        state = _file_state(self.folder / MANIFEST)
        if self._last_read is not None and (state, self.manifest) == self._last_read:
            return
        manifest = read_manifest(self.folder / MANIFEST)
        if not manifest.is_same_export(self.manifest):
            raise MismatchError(f"{self.folder} was exported anew since it was loaded; load it again.")
        self._check_pin(manifest)
        self.manifest, self._last_read = manifest, state and (state, manifest)

    def _check_pin(self, manifest: Manifest) -> None:
        if self.pins and manifest.digest not in self.pins:
            raise MismatchError(
                f"{self.folder} has the digest {manifest.digest}, and another is pinned; restore the bundle, or pin "
                "this digest."
            )

    def path(self, name: str) -> Path:
        """Return the path of a listed file, after checking that it is there with the listed size.

        Raises:
            CorruptFileError: it is not listed, missing, unreadable, or of another size.
        """
        if name not in self.manifest.files:
            raise CorruptFileError(f"{self.folder / MANIFEST} does not list {name}; export the bundle again.")
        path = self._stored(name)
        size = _file_size(path)
        if size is None:
            raise CorruptFileError(f"{path} is missing; export the bundle again or restore the file.")
        if size != (expected := self.manifest.files[name]["size"]):
            raise CorruptFileError(f"{path} has {size:,} bytes instead of {expected:,}; restore it or export again.")
        return path

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file's bytes, after comparing them with the manifest. Raises CorruptFileError."""
        data = read_small(self.path(name), limit)
        self._check(name, hash_bytes(data))
        return data

    def verify(self, name: str) -> Path:
        """Check a file's hash and return its path. Raises CorruptFileError."""
        path = self.path(name)
        self._check(name, sha256(path))
        return path

    def verify_files(self) -> None:
        """Check the hash of every listed file. Raises CorruptFileError."""
        for name in self.manifest.files:
            self._retry(partial(self._verify_if_listed, name))

    @property
    def precisions(self) -> list[Precision]:
        """Precisions of the graphs in the bundle, the most exact first."""
        listed, family = set(self.manifest.files), self.manifest.family
        return [each for each in Precision if listed.issuperset([*graph_names(family, each), weights_name(each)])]

    def choose_precision(self, precision: str | None = None) -> Precision:
        """Return the precision to use: the given one, else the most exact that is there.

        Raises:
            CorruptFileError: the bundle has no graph at all.
            InputError: it has none of that precision.
        """
        available = self.precisions
        if not available:
            raise CorruptFileError(f"{self.folder / MANIFEST} lists no graph; export the bundle again.")
        if precision is None:
            return available[0]
        if precision not in available:
            names = " and ".join(available)
            raise InputError(f"{self.folder} has no {precision} graph, only {names}; choose one, or export again.")
        return Precision(precision)

    def graph_files(self, precision: str | None = None) -> list[str]:
        """Return the listed paths of the graphs, in order, and of their weights; raises as `choose_precision`."""
        chosen = self.choose_precision(precision)
        return [*graph_names(self.manifest.family, chosen), weights_name(chosen)]

    def graphs(self, precision: str | None = None, *, verify: bool = True) -> list[Path]:
        """Return the paths of the graphs, after checking them and their weights.

        Args:
            precision: one of `precisions`; None for the first.
            verify: check each file's hash. Without it, any file of the right size is trusted, wherever a link
                leads.

        Returns:
            One path, or for encoder-decoder models the encoder's and the decoder's.

        Raises:
            InputError: the bundle has no graph of that precision.
            CorruptFileError: a file is missing or damaged, or a graph reads its weights from any other file.
        """
        names = self.graph_files(precision)
        *graphs, weights = [(self.verify if verify else self.path)(name) for name in names]
        for graph in graphs:
            check_weights(graph, weights.name)
        return graphs

    @contextlib.contextmanager
    def opening_graphs(self, precision: str | None = None, *, verify: bool = True) -> Iterator[list[Path]]:
        """Yield the paths of `graphs` at once; the weights' hash is computed in a thread meanwhile.

        The graphs themselves are checked before. Nothing may be run before the block has ended.

        Raises:
            CorruptFileError: at the block's end, the weights are damaged.
        """
        paths, weights = self.graphs(precision, verify=False), self.graph_files(precision)[-1]
        if not verify:
            yield paths
            return
        for name in self.graph_files(precision)[:-1]:
            self.verify(name)
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
            check = hasher.submit(self.verify, weights)
            try:
                yield paths
            finally:
                check.result()  # it explains what else may have failed

    def tokenizer(self) -> bytes:
        """Return the bytes of tokenizer.json. Raises CorruptFileError."""
        data = self.read(TOKENIZER, _MAX_TOKENIZER)
        if self.manifest.files[TOKENIZER]["sha256"] != self.manifest.tokenizer:
            raise _other_file(self.folder / TOKENIZER)
        return data

    def prompt(self, name: str | None) -> SharedPrompt:
        """Return a shared prompt by name. Raises CorruptFileError."""
        file = prompt_key(name or "")
        prompt = SharedPrompt.parse(self.read(file, MAX_PROMPT_BYTES), str(self.folder / file))
        entry = {"fingerprint": prompt.fingerprint, "layout": prompt.placement.layout, "length": prompt.length}
        if prompt.name != name or self.manifest.prompts.get(prompt.name) != entry:
            raise _other_file(self.folder / file)
        return prompt

    def task(self, name: str) -> TaskFile:
        """Return a task of the bundle, after checking that it belongs to it.

        Raises:
            UnknownTaskError: there is none of that name.
            CorruptFileError: its file is missing or damaged.
            MismatchError: it was made for another backbone, tokenizer or prompt.
            SignatureError: the bundle pins keys, and none of them signed it.
        """
        return self._retry(partial(self._task, name))

    def _task(self, name: str) -> TaskFile:
        self._check_known(name)
        key = task_key(name)
        task = TaskFile.parse(self.read(key, MAX_TASK_BYTES), str(self._stored(key)))
        if task.name != name:
            raise CorruptFileError(f"{self._stored(key)} holds the task {task.name!r}; install both tasks again.")
        self.check_fit(task)
        return task

    def _retry(self, read: Callable[[], _Result]) -> _Result:
        """Read; repeat it with the new manifest if it fails because another process changed the bundle."""
        for _ in range(_MAX_ATTEMPTS):
            used = self.manifest
            try:
                return read()
            except CorruptFileError:
                self.reload()
                if self.manifest == used:
                    raise
        return read()

    def check_fit(self, task: TaskFile) -> None:
        """Check by fingerprint and shape that a task belongs to this bundle, and that a pinned key signed it.

        Raises:
            MismatchError: it does not.
            SignatureError: the bundle pins keys, and none of them signed it.
        """
        misfit = next(self._misfits(task), None)
        if misfit is not None:
            raise MismatchError(
                f"the task {task.name!r} was made for another {misfit}; install the task file made for this bundle."
            )
        self.check_signer(task)

    def check_signer(self, task: TaskFile, keys: Sequence[str] = (), *, is_new: bool = False) -> None:
        """Check a task's signature, if this bundle pins keys or some are required.

        Args:
            task: the task.
            keys: keys one of which is required, whatever the bundle pins.
            is_new: the task arrives just now, so its signature must not have expired.

        Raises:
            SignatureError: the task is not signed as required.
            MissingExtraError: `cryptography` is not installed.
        """
        pinned = self.manifest.keys.keys if self.manifest.keys else ()
        for required in filter(None, (pinned, check_keys(keys))):
            check_signature(task.name, task.signature, required, today() if is_new else None)

    def _misfits(self, task: TaskFile) -> Iterator[str]:
        """Yield differences between the task's origin and this bundle, as the rest of "made for another ..."."""
        manifest, length = self.manifest, len(task.u)
        if task.backbone != manifest.backbone.get("fingerprint"):
            yield f"backbone than {manifest.backbone.get('id')}"
        if task.tokenizer != manifest.tokenizer:
            yield "tokenizer"
        yield from task.head_class.misfits(manifest)
        if task.v.shape[-1:] != (manifest.hidden_size,):
            yield f"width than {manifest.hidden_size}"
        if manifest.placement.takes_positions and length > manifest.prompt_length:
            yield f"room than {manifest.prompt_length} virtual tokens"
        if manifest.generation is not None and length >= manifest.generation.context:
            yield f"room than {manifest.generation.context} positions of prompt and text"
        yield from self._own_misfits(task.own_prompt) if task.own_prompt else self._shared_misfits(task)

    def _shared_misfits(self, task: TaskFile) -> Iterator[str]:
        prompts = self.manifest.prompts
        prompt = prompts.get(task.prompt or "")
        if prompt is None or task.prompt_sha256 != prompt["fingerprint"]:
            yield f"shared prompt than this bundle's {', '.join(prompts)}"
        elif len(task.u) != prompt["length"]:
            yield f"prompt length than {prompt['length']}"

    def _own_misfits(self, own: SharedPrompt) -> Iterator[str]:
        if own.placement.position is not self.manifest.placement.position:
            yield f"position of its own prompt than {self.manifest.placement.position.value!r}"
        if own.values.shape[1:-1] not in ((), (self.manifest.layers,)):
            yield f"number of layers than {self.manifest.layers}"

    def _check_known(self, task: str) -> None:
        if not self.has_task(task):
            raise UnknownTaskError(task, self.task_names, str(self.folder))

    def _check(self, name: str, digest: str) -> None:
        if digest != self.manifest.files[name]["sha256"]:
            raise CorruptFileError(
                f"{self._stored(name)} is damaged (its SHA-256 is not the manifest's); restore it or export again."
            )

    def _verify_if_listed(self, name: str) -> None:
        if name in self.manifest.files:  # a task may have been removed since
            self.verify(name)

    def _stored(self, name: str) -> Path:
        return self.folder / self.manifest.stored(name)


def _other_file(path: Path) -> CorruptFileError:
    """Return the error for a file that is listed, and is not the one that the manifest describes."""
    return CorruptFileError(f"{path} is not the file that {MANIFEST} describes; export the bundle again.")


def _file_state(path: Path) -> _FileState | None:
    """Return the state of a file; None where it cannot be found out, which reading it will explain."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return None


def _file_size(path: Path) -> int | None:
    """Return a file's size; None if there is none. Raises CorruptFileError for one that may not be read."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        return None
    check_readable(path)
    return status.st_size
