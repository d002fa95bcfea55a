"""The bundle folder: a manifest with a hash of every file, read fail-closed.

Nothing in a bundle is unpickled or executed. A file that the manifest does not list is not read, a
listed file must have the listed hash, and no path may leave the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mpt_edge._files import read_small, replacing, sha256
from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.head_types import READOUTS
from mpt_edge.formats.manifest import FileEntry, Manifest
from mpt_edge.formats.prompts import MAX_PROMPT_BYTES, Entry, SharedPrompt
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, TaskFile
from mpt_edge.formats.vectors import SUFFIX, TASKS, prompt_key, task_key, task_names

MANIFEST = "bundle.json"
MODEL = "onnx/model.onnx"

#: What follows the name of a graph in each precision, as in transformers.js and Optimum.
_SUFFIXES = {"float32": "", "int8": "_quantized"}
TOKENIZER = "tokenizer.json"

_MAX_MANIFEST = 8 << 20
_MAX_TOKENIZER = 64 << 20


def graph_names(family: str, precision: str) -> list[str]:
    """Return where a bundle keeps its graphs of a precision: one, or an encoder's and a decoder's."""
    stems = ("encoder_model", "decoder_model") if family == "seq2seq" else ("model",)
    return [f"onnx/{stem}{_SUFFIXES[precision]}.onnx" for stem in stems]


def weights_name(precision: str) -> str:
    """Return where a bundle keeps the weights of its graphs of a precision."""
    return f"onnx/model{_SUFFIXES[precision]}.onnx_data"


@dataclass
class Bundle:
    """An opened bundle folder."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Open a bundle by its folder.

        Raises:
            BundleNotFoundError: there is no bundle.
            CorruptFileError: its manifest cannot be used.
        """
        path = Path(folder)
        file = path / MANIFEST
        if not file.is_file():
            hint = (
                f"build it with `mpt-edge export minilm-l6 --output {path}`"
                if (path / TASKS).is_dir() or not path.exists()
                else "pass the folder that holds bundle.json"
            )
            raise BundleNotFoundError(f"no bundle in {path}; {hint}, or name another with --bundle.")
        return cls(path, Manifest.parse(read_small(file, _MAX_MANIFEST), file))

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks in the manifest, sorted."""
        return task_names(self.manifest.files)

    def task_bytes(self, name: str) -> int:
        """Return the size of a task's file, as the manifest has it."""
        return self.manifest.files[task_key(name)]["size"]

    def reload(self) -> None:
        """Read the manifest again, to see tasks installed since.

        Raises:
            MismatchError: the folder was exported anew, with other prompts or another backbone.
        """
        manifest = Manifest.parse(read_small(self.folder / MANIFEST, _MAX_MANIFEST), self.folder / MANIFEST)
        if replace(manifest, files={}) != replace(self.manifest, files={}):  # what installing changes are files alone
            raise MismatchError(f"{self.folder} was exported anew since it was loaded; load it again.")
        self.manifest = manifest

    def path(self, name: str) -> Path:
        """Return where a listed file lies, and check that it is there with the listed size.

        Raises:
            CorruptFileError: it is not listed, missing, of another size, or leads out of the folder.
        """
        path = self.folder / name
        if name not in self.manifest.files:
            raise CorruptFileError(f"{self.folder / MANIFEST} does not list {name}; export the bundle again.")
        if not path.is_file():
            raise CorruptFileError(f"{path} is missing; export the bundle again or restore the file.")
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise CorruptFileError(f"{path} leads out of the bundle; replace the link by the file.")
        expected = self.manifest.files[name]["size"]
        if path.stat().st_size != expected:
            raise CorruptFileError(
                f"{path} has {path.stat().st_size:,} bytes instead of {expected:,}; restore it or export again."
            )
        return path

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file's bytes after checking them against the manifest."""
        data = read_small(self.path(name), limit)
        self._check(name, _digest(data))
        return data

    def verify(self, name: str) -> Path:
        """Check a file's hash and return its path. Raises CorruptFileError."""
        path = self.path(name)
        self._check(name, sha256(path))
        return path

    @property
    def precisions(self) -> list[str]:
        """What graphs there are: ``"float32"``, ``"int8"`` or both."""
        listed, family = set(self.manifest.files), self.manifest.family
        return [precision for precision in _SUFFIXES if listed.issuperset(graph_names(family, precision))]

    def graph_files(self, precision: str = "") -> list[str]:
        """Return the graphs of a precision, in order, and the weights beside them.

        Args:
            precision: one of `precisions`; empty for the first.

        Raises:
            CorruptFileError: the bundle has no graph at all.
            InputError: it has none of that precision.
        """
        there = self.precisions
        if not there:
            raise CorruptFileError(f"{self.folder / MANIFEST} lists no graph; export the bundle again.")
        precision = precision or there[0]
        if precision not in there:
            fix = "export it again with --precision both" if precision in _SUFFIXES else "choose one of these"
            raise InputError(f"{self.folder} has no {precision} graph, only {' and '.join(there)}; {fix}.")
        graphs, weights = graph_names(self.manifest.family, precision), weights_name(precision)
        # Bundles were once written with the weights inside the graph.
        return [*graphs, weights] if weights in self.manifest.files else graphs

    def graphs(self, precision: str = "", *, verify: bool = True) -> list[Path]:
        """Return where the graphs of a precision lie, after checking them and the weights beside them.

        Args:
            precision: one of `precisions`; empty for the first.
            verify: check each file's hash, not only its size.

        Returns:
            One path, or for ``"seq2seq"`` models the encoder's and the decoder's.

        Raises:
            InputError: the bundle has no graph of that precision.
            CorruptFileError: a file is missing or damaged.
        """
        paths = [(self.verify if verify else self.path)(name) for name in self.graph_files(precision)]
        return [path for path in paths if path.suffix == ".onnx"]

    def tokenizer(self) -> bytes:
        """Return the bytes of tokenizer.json."""
        return self.read(TOKENIZER, _MAX_TOKENIZER)

    def prompt(self, name: str) -> SharedPrompt:
        """Return a shared prompt by name. Raises CorruptFileError."""
        file = prompt_key(name)
        return SharedPrompt.parse(self.read(file, MAX_PROMPT_BYTES), str(self.folder / file))

    def task(self, name: str) -> TaskFile:
        """Return a task of the bundle, checked to belong to it.

        Raises:
            UnknownTaskError: there is none of that name.
            CorruptFileError: its file is missing or damaged.
            MismatchError: it was made for another backbone, tokenizer or prompt.
        """
        if name not in self.task_names:
            raise UnknownTaskError(name, self.task_names, str(self.folder))
        file = task_key(name)
        task = TaskFile.parse(self.read(file, MAX_TASK_BYTES), str(self.folder / file))
        if task.name != name:
            raise CorruptFileError(f"{self.folder / file} holds the task {task.name!r}; install both tasks again.")
        self.check_fit(task)
        return task

    def check_fit(self, task: TaskFile) -> None:
        """Check by fingerprint and shape that a task belongs to this bundle.

        Raises:
            MismatchError: it does not.
        """
        for what in self._misfits(task):
            raise MismatchError(
                f"the task {task.name!r} was made for another {what}; install the task file made for this bundle."
            )

    def _misfits(self, task: TaskFile) -> Iterator[str]:  # noqa: C901 - a list of checks
        """Yield what a task was made for that this bundle has otherwise."""
        manifest = self.manifest
        if task.backbone != manifest.backbone.get("fingerprint"):
            yield f"backbone than {manifest.backbone.get('id')}"
        if task.tokenizer != manifest.tokenizer:
            yield "tokenizer"
        if READOUTS[task.readout].writes == (manifest.family == "encoder"):
            yield f"kind of model than this {manifest.family} one"
        if task.readout == "mask" and not manifest.mask:
            yield "kind of model than this one, which has no masked-LM head"
        if task.v.shape[-1:] != (manifest.hidden_size,):
            yield f"width than {manifest.hidden_size}"
        if manifest.entry == Entry.INPUTS_EMBEDS and len(task.u) > manifest.prompt_length:
            yield f"room than {manifest.prompt_length} prompt rows"
        if manifest.generation is not None and len(task.u) >= manifest.generation.context:
            yield f"room than {manifest.generation.context} rows of prompt and text"
        if task.own_prompt is None:
            prompt = manifest.prompts.get(task.prompt)
            if prompt is None or task.prompt_sha256 != prompt["fingerprint"]:
                yield f"shared prompt than this bundle's {', '.join(manifest.prompts)}"
            elif task.u.shape[0] != prompt["length"]:
                yield f"prompt length than {prompt['length']}"
            return
        if task.entry != manifest.entry:
            yield f"place of its own prompt than {manifest.entry!r}"
        if task.own_prompt.shape[1:-1] not in ((), (manifest.layers,)):
            yield f"number of layers than {manifest.layers}"

    def install(self, source: str | os.PathLike[str]) -> TaskFile:
        """Add a task file to the bundle, or replace one of the same name.

        A replaced task that could be used is kept, for `rollback`.

        Raises:
            CorruptFileError: it is no task file.
            MismatchError: it belongs to another bundle, or is older than the installed version.
        """
        data = read_small(Path(source), MAX_TASK_BYTES)
        task = TaskFile.parse(data, str(source))
        with self._changing():
            self.check_fit(task)
            installed = self._installed(task.name)
            if installed is not None and installed.version > task.version:
                raise MismatchError(
                    f"{task.name!r} is installed in a newer version than {task.version}; remove it first to go back."
                )
            files = {task_key(task.name): data}
            if installed is not None:
                old = self.read(task_key(task.name), MAX_TASK_BYTES)
                if old != data:
                    files[_previous_key(task.name)] = old
            self._put(files)
        return task

    def rollback(self, task: str) -> TaskFile:
        """Put back the task file that the last `install` replaced; a second call undoes the first.

        A file that is missing or damaged is not kept for that second call.

        Raises:
            UnknownTaskError: there is no such task.
            InputError: it was never replaced.
            CorruptFileError: the file that was kept is damaged.
        """
        with self._changing():
            now, before = task_key(task), _previous_key(task)
            if task not in self.task_names:
                raise UnknownTaskError(task, self.task_names, str(self.folder))
            if before not in self.manifest.files:
                raise InputError(f"{task!r} has no earlier version in {self.folder}; install the file you want.")
            old = self.read(before, MAX_TASK_BYTES)
            found = TaskFile.parse(old, str(self.folder / before))
            self.check_fit(found)
            files = {now: old}
            with contextlib.suppress(CorruptFileError):
                files[before] = self.read(now, MAX_TASK_BYTES)
            gone = {before} - set(files)
            self._put(files, gone)
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
        return found

    def remove(self, task: str) -> None:
        """Take a task, and what it replaced, out of the bundle. Raises UnknownTaskError."""
        with self._changing():
            if task not in self.task_names:
                raise UnknownTaskError(task, self.task_names, str(self.folder))
            gone = (task_key(task), _previous_key(task))
            self._write({path: entry for path, entry in self.manifest.files.items() if path not in gone})
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds what other installs replaced, or never was there
                (self.folder / "previous").rmdir()

    def _installed(self, name: str) -> TaskFile | None:
        """Return the installed task of that name; None where there is none, or one that needs repair."""
        try:
            return self.task(name)
        except (UnknownTaskError, CorruptFileError, MismatchError):
            return None

    def _put(self, contents: Mapping[str, bytes], gone: Collection[str] = ()) -> None:
        """Write small files, then the manifest that lists them, and no longer those that are gone."""
        for name, data in contents.items():
            with replacing(self.folder / name) as temporary:
                temporary.write_bytes(data)
        entries = {name: FileEntry(sha256=_digest(data), size=len(data)) for name, data in contents.items()}
        listed = {name: entry for name, entry in self.manifest.files.items() if name not in gone}
        self._write({**listed, **entries})

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the bundle for one writer; the manifest is read again under the lock."""
        lock = self.folder / ".lock"
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL)
        except FileExistsError as error:
            raise InputError(
                f"another process is changing {self.folder}; wait, or delete {lock} if none is."
            ) from error
        try:
            self.reload()
            yield
        finally:
            os.close(handle)
            lock.unlink(missing_ok=True)

    def _write(self, files: Mapping[str, FileEntry]) -> None:
        manifest = replace(self.manifest, files=dict(sorted(files.items())))
        with replacing(self.folder / MANIFEST) as temporary:
            temporary.write_text(manifest.to_json(), encoding="utf-8")
        self.manifest = manifest

    def _check(self, name: str, digest: str) -> None:
        if digest != self.manifest.files[name]["sha256"]:
            raise CorruptFileError(
                f"{self.folder / name} is damaged (its SHA-256 is not the manifest's); restore it or export again."
            )


def _previous_key(task: str) -> str:
    return f"previous/{task}{SUFFIX}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
