"""The bundle folder: a manifest with a hash of every file, read fail-closed.

Nothing in a bundle is unpickled or executed. A file that the manifest does not list is not read, a
listed file must have the listed hash, and no path may leave the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mpt_edge._files import read_small, replacing, sha256
from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.prompts import LAYOUTS, MAX_PROMPT_BYTES, SharedPrompt
from mpt_edge.taskfile import MAX_TASK_BYTES, TaskFile

#: Version of bundle.json that this code writes, and the newest it reads.
SCHEMA = 1

MANIFEST = "bundle.json"
MODEL = "onnx/model.onnx"
TOKENIZER = "tokenizer.json"

_ALLOWED: dict[str, tuple[str | bool, ...]] = {
    "family": ("encoder",),
    "readout": ("similarity",),
    "layout": LAYOUTS,
    "entry": ("first_layer",),
    "pooling": ("mean", "cls", "max"),
    "token_types": (True, False),
}

_MAX_MANIFEST = 8 << 20
_MAX_TOKENIZER = 64 << 20
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Manifest:
    """What ``bundle.json`` says.

    Attributes:
        name: the bundle's name.
        family: ``"encoder"``.
        readout: ``"similarity"``.
        layout: attention layout of the tasks, ``"prefix"`` or ``"joint"``.
        entry: where prompts enter, ``"first_layer"`` (behind the embeddings' norm).
        prompt_length: rows l of the shared prompt.
        hidden_size: channels d.
        layers: layers of the backbone.
        heads: attention heads of a layer.
        head_size: channels of a head.
        pooling: ``"mean"``, ``"cls"`` or ``"max"`` over text tokens.
        token_types: whether the graph reads ``token_type_ids``.
        max_length: longest text in tokens.
        pad_id: id of the padding token.
        backbone: id, revision, licence and fingerprint of the frozen model.
        tokenizer: fingerprint of tokenizer.json.
        prompts: shared prompts by name, with fingerprint, layout and length.
        parity: largest difference between ONNX Runtime and PyTorch when the bundle was made.
        files: path -> sha256 and size of every file.
        made_by: version of mpt-edge that wrote it.
    """

    name: str
    family: str
    readout: str
    layout: str
    entry: str
    prompt_length: int
    hidden_size: int
    layers: int
    heads: int
    head_size: int
    pooling: str
    token_types: bool
    max_length: int
    pad_id: int
    backbone: Mapping[str, str]
    tokenizer: str
    prompts: Mapping[str, Mapping[str, Any]]
    parity: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    made_by: str

    def to_json(self) -> str:
        """Return the manifest as indented JSON, the schema version first."""
        return json.dumps({"schema": SCHEMA} | self.__dict__, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, data: bytes, source: Path) -> Manifest:
        """Read a manifest's bytes.

        Raises:
            CorruptFileError: no manifest, an incomplete one, or one of a newer version.
        """
        try:
            entries = json.loads(data)
            schema = entries.pop("schema")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptFileError(f"{source} is not a bundle manifest; export the bundle again.") from error
        if type(schema) is not int or schema < 1:
            raise CorruptFileError(f"{source} states the schema {schema!r}, which never was; export the bundle again.")
        if schema > SCHEMA:
            raise CorruptFileError(
                f"{source} was written by a newer mpt-edge (schema {schema}; this one reads {SCHEMA}); upgrade it."
            )
        known = cls.__dataclass_fields__
        missing = [name for name in known if name not in entries]
        if missing:
            raise CorruptFileError(f"{source} lacks the entry {missing[0]!r}; export the bundle again.")
        manifest = cls(**{name: entries[name] for name in known})
        for name in manifest._wrong():
            raise CorruptFileError(f"{source}: the entry {name!r} is not what it should be; export the bundle again.")
        for path in manifest.files:
            if _PATH.fullmatch(path) is None or ".." in PurePosixPath(path).parts:
                raise CorruptFileError(f"{source} lists the path {path!r}, which is not allowed; export it again.")
        return manifest

    def _wrong(self) -> list[str]:
        """Return the names of entries that have the wrong type or an unknown value."""
        texts = {"name": self.name, "tokenizer": self.tokenizer, "made_by": self.made_by}
        counts = {"prompt_length": self.prompt_length, "pad_id": self.pad_id}
        sizes = {name: getattr(self, name) for name in ("hidden_size", "layers", "heads", "head_size", "max_length")}
        good = {name: isinstance(value, str) for name, value in texts.items()}
        good |= {name: type(value) is int and value >= 0 for name, value in counts.items()}
        good |= {name: type(value) is int and value > 0 for name, value in sizes.items()}
        good |= {name: _is_one_of(getattr(self, name), allowed) for name, allowed in _ALLOWED.items()}
        good["backbone"] = isinstance(self.backbone, dict)
        good["parity"] = isinstance(self.parity, dict)
        good["prompts"] = isinstance(self.prompts, dict) and all(
            isinstance(p, dict) and type(p.get("length")) is int and isinstance(p.get("fingerprint"), str)
            for p in self.prompts.values()
        )
        good["files"] = isinstance(self.files, dict) and all(
            isinstance(f, dict) and type(f.get("size")) is int and isinstance(f.get("sha256"), str)
            for f in self.files.values()
        )
        return [name for name, is_good in good.items() if not is_good]


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
                if (path / "tasks").is_dir() or not path.exists()
                else "pass the folder that holds bundle.json"
            )
            raise BundleNotFoundError(f"no bundle in {path}; {hint}, or name another with --bundle.")
        return cls(path, Manifest.parse(read_small(file, _MAX_MANIFEST), file))

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks in the manifest, sorted."""
        return sorted(
            p.name.removesuffix(".safetensors")
            for p in map(PurePosixPath, self.manifest.files)
            if p.parts[0] == "tasks"
        )

    def reload(self) -> None:
        """Read the manifest again, to see tasks installed since.

        Raises:
            MismatchError: the folder holds another backbone by now.
        """
        manifest = Manifest.parse(read_small(self.folder / MANIFEST, _MAX_MANIFEST), self.folder / MANIFEST)
        if manifest.backbone != self.manifest.backbone:
            raise MismatchError(f"{self.folder} holds another backbone than when it was loaded; load it again.")
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

    def tokenizer(self) -> bytes:
        """Return the bytes of tokenizer.json."""
        return self.read(TOKENIZER, _MAX_TOKENIZER)

    def prompt(self, name: str) -> SharedPrompt:
        """Return a shared prompt by name. Raises CorruptFileError."""
        file = f"prompts/{name}.safetensors"
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
        file = _task_path(name)
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
        manifest = self.manifest
        prompt = manifest.prompts.get(task.prompt, {})
        problems = {
            f"backbone than {manifest.backbone.get('id')}": task.backbone != manifest.backbone.get("fingerprint"),
            "tokenizer": task.tokenizer != manifest.tokenizer,
            f"shared prompt than this bundle's {', '.join(manifest.prompts)}": task.two_vectors
            and task.prompt_sha256 != prompt.get("fingerprint"),
            f"width than {manifest.hidden_size}": task.v.shape != (manifest.hidden_size,),
            f"prompt length than {prompt.get('length')}": task.two_vectors and task.u.shape != (prompt.get("length"),),
        }
        for what, differs in problems.items():
            if differs:
                raise MismatchError(
                    f"the task {task.name!r} was made for another {what}; install the task file made for this bundle."
                )

    def install(self, source: Path) -> TaskFile:
        """Add a task file to the bundle, or replace one of the same name.

        A replaced task that could be used is kept, for `rollback`.

        Raises:
            CorruptFileError: it is no task file.
            MismatchError: it belongs to another bundle, or is older than the installed version.
        """
        task = TaskFile.load(source)
        self.check_fit(task)
        with self._changing():
            installed = self._installed(task.name)
            if installed is not None and installed.version > task.version:
                raise MismatchError(
                    f"{task.name!r} is installed in a newer version than {task.version}; remove it first to go back."
                )
            files = {_task_path(task.name): read_small(source, MAX_TASK_BYTES)}
            if installed is not None:
                old = self.read(_task_path(task.name), MAX_TASK_BYTES)
                if old != files[_task_path(task.name)]:
                    files[_previous_path(task.name)] = old
            self._put(files)
        return task

    def rollback(self, task: str) -> TaskFile:
        """Put back the task file that the last `install` replaced; a second call undoes the first.

        Raises:
            UnknownTaskError: there is no such task.
            InputError: it was never replaced.
            CorruptFileError: the file that was kept is damaged.
        """
        with self._changing():
            now, before = _task_path(task), _previous_path(task)
            if task not in self.task_names:
                raise UnknownTaskError(task, self.task_names, str(self.folder))
            if before not in self.manifest.files:
                raise InputError(f"{task!r} has no earlier version in {self.folder}; install the file you want.")
            old = self.read(before, MAX_TASK_BYTES)
            found = TaskFile.parse(old, str(self.folder / before))
            self.check_fit(found)
            self._put({now: old, before: read_small(self.folder / now, MAX_TASK_BYTES)})
        return found

    def remove(self, task: str) -> None:
        """Take a task, and what it replaced, out of the bundle. Raises UnknownTaskError."""
        with self._changing():
            if task not in self.task_names:
                raise UnknownTaskError(task, self.task_names, str(self.folder))
            gone = (_task_path(task), _previous_path(task))
            self._write({path: entry for path, entry in self.manifest.files.items() if path not in gone})
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)

    def _installed(self, name: str) -> TaskFile | None:
        """Return the installed task of that name; None where there is none, or one that needs repair."""
        try:
            return self.task(name)
        except (UnknownTaskError, CorruptFileError, MismatchError):
            return None

    def _put(self, contents: Mapping[str, bytes]) -> None:
        """Write small files, then the manifest that lists them."""
        for name, data in contents.items():
            with replacing(self.folder / name) as temporary:
                temporary.write_bytes(data)
        entries = {name: {"sha256": _digest(data), "size": len(data)} for name, data in contents.items()}
        self._write({**self.manifest.files, **entries})

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

    def _write(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        manifest = replace(self.manifest, files=dict(sorted(files.items())))
        with replacing(self.folder / MANIFEST) as temporary:
            temporary.write_text(manifest.to_json(), encoding="utf-8")
        self.manifest = manifest

    def _check(self, name: str, digest: str) -> None:
        if digest != self.manifest.files[name]["sha256"]:
            raise CorruptFileError(
                f"{self.folder / name} is damaged (its SHA-256 is not the manifest's); restore it or export again."
            )


def _is_one_of(value: object, allowed: tuple[str | bool, ...]) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in allowed)


def _task_path(task: str) -> str:
    return f"tasks/{task}.safetensors"


def _previous_path(task: str) -> str:
    return f"previous/{task}.safetensors"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
