"""Jobs over files larger than memory: finished parts are files, and a job that was killed goes on after them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mpt_edge
from mpt_edge._files import atomic_write, read_small, sync_folder, temporary_target
from mpt_edge.batch.executors import Executor
from mpt_edge.batch.part_worker import PartResult, PartWorker
from mpt_edge.batch.parts import Part, read_parts
from mpt_edge.errors import CorruptFileError, InputError, MptEdgeError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.locks import locked
from mpt_edge.formats.records import Format

#: File that says which job the parts of a folder belong to.
MANIFEST = "job.json"

_LOCK = ".job.lock"
_SCHEMA = 1

#: Bytes that a manifest may have: a million input files.
_MAX_MANIFEST = 256 << 20

#: Seconds to wait for another process in the same folder.
_WAIT = 1.0

#: Reason to refuse a folder, by the entry that differs.
_CHANGES = {
    "inputs": "its input was changed since, or is another",
    "bundle": "its bundle was changed since, or is another",
    "tasks": "its tasks were changed since",
}


@dataclass
class JobResult:
    """Counts of a finished job."""

    parts: int = 0
    reused: int = 0
    """Parts that an earlier run finished."""
    rows: int = 0
    skipped: int = 0
    """Rows without an answer."""
    first_error: str = ""
    """Sentence about the first such row of this run."""


class Job:
    """A folder of finished parts, and the files whose rows they answer."""

    def __init__(self, folder: Path, files: Sequence[tuple[Path, Format]], worker: PartWorker, part_rows: int) -> None:
        """Describe a job; nothing is read but the bundle's manifest and task files.

        Args:
            folder: output folder, absent, empty or of the same job.
            files: input files with their formats, in order.
            worker: answers parts.
            part_rows: maximum rows of a part.

        Raises:
            MptEdgeError: the bundle or a task cannot be read.
            OSError: an input cannot be read.
        """
        self._folder, self._files, self._worker, self._part_rows = folder, files, worker, part_rows
        self._suffix = "parquet" if any(form is Format.PARQUET for _, form in files) else "jsonl"
        self._entries = _entries(files, worker, part_rows)

    @property
    def input_bytes(self) -> int:
        """Size of all input files."""
        return sum(each["bytes"] for each in self._entries["inputs"])

    def run(self, executor: Executor, advance: Callable[[int], None] = lambda _: None) -> JobResult:
        """Answer all parts that are not finished. Each becomes a file by one rename.

        Args:
            executor: runs the parts.
            advance: called with the bytes of input up to the last finished part.

        Raises:
            InputError: the folder belongs to another job or process, a row cannot be answered, or there are none.
            MptEdgeError: the model or a task cannot be loaded.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / _LOCK, _WAIT):
            self._begin()
            result = JobResult()
            with contextlib.closing(executor.run(self._worker, self._pending(result))) as results:
                for part, answers in results:
                    if isinstance(answers, MptEdgeError):
                        raise answers
                    self._finish(part, answers, result)
                    advance(part.position)
            if not result.rows:
                raise InputError(f"{self._files[0][0]} holds no rows; write one row a line, after a header in CSV.")
            counts = {"parts": result.parts, "rows": result.rows, "skipped": result.skipped}
            self._write_manifest(finished=counts)
        return result

    def path(self, number: int) -> Path:
        """Return the file of a part. The names sort as the parts do."""
        return self._folder / f"part-{number:06}.{self._suffix}"

    def _begin(self) -> None:
        """Check that the folder is of this job, or start it. Raises InputError."""
        manifest = self._folder / MANIFEST
        others = [each for each in self._folder.iterdir() if each.name not in (_LOCK, MANIFEST)]
        leftover = [each for each in others if (temporary_target(each.name) or "").startswith(("part-", MANIFEST))]
        for each in leftover:  # of a process that was killed while it wrote
            each.unlink()
        if manifest.exists():
            self._check(manifest)
        elif len(others) > len(leftover):
            raise InputError(f"{self._folder} has files of something else; pass an empty or a new folder as --output.")
        else:
            self._write_manifest(finished=None)

    def _check(self, manifest: Path) -> None:
        stored = _read_manifest(manifest)
        changed = [key for key in self._entries if stored.get(key) != self._entries[key]]
        if changed:
            reason = _CHANGES.get(changed[0], f"its {', '.join(map(_words, changed))} differ")
            raise InputError(
                f"{self._folder} has parts of another job: {reason}; pass another folder, or delete this one."
            )

    def _write_manifest(self, finished: dict[str, int] | None) -> None:
        content = {"schema": _SCHEMA, "job": self._entries, "finished": finished}
        with atomic_write(self._folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        sync_folder(self._folder)

    def _pending(self, result: JobResult) -> Iterator[Part]:
        """Yield the parts that have no file, and count the others."""
        for part in read_parts(self._files, self._part_rows):
            result.parts += 1
            result.rows += part.rows
            path = self.path(part.number)
            if not path.exists():
                yield part
                continue
            result.reused += 1
            missing = part.rows - _count_rows(path)
            if missing and not self._worker.skips:
                raise InputError(
                    f"{path} lacks {missing:,} rows that an earlier run skipped; pass --on-error skip, or delete it."
                )
            result.skipped += missing

    def _finish(self, part: Part, answers: PartResult, result: JobResult) -> None:
        with atomic_write(self.path(part.number)) as temporary:
            temporary.write_bytes(answers.data)
        result.skipped += answers.skipped
        result.first_error = result.first_error or answers.first_error


def _entries(files: Sequence[tuple[Path, Format]], worker: PartWorker, part_rows: int) -> dict[str, Any]:
    """Return all that the answers and their division into parts depend on."""
    bundle = Bundle.open(worker.model.bundle, digest=worker.model.digest)
    names = bundle.task_names if worker.task is None else [worker.task]
    inputs = []
    for path, form in files:
        status = path.stat()
        inputs.append({"name": path.name, "format": form, "bytes": status.st_size, "modified": status.st_mtime_ns})
    return {
        "inputs": inputs,
        "bundle": bundle.digest,
        "tasks": {name: bundle.task(name).version for name in names},
        "task": worker.task,
        "precision": worker.model.precision,
        "columns": asdict(worker.columns),
        "answer_prefix": worker.prefix,
        "options": {key: value for key, value in worker.options.items() if value is not None},
        "part_rows": part_rows,
        "version": mpt_edge.__version__,
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the entries of a job. Raises InputError for a file that is no manifest."""
    try:
        content = json.loads(read_small(path, _MAX_MANIFEST))
        if content["schema"] != _SCHEMA or not isinstance(content["job"], dict):
            raise ValueError("another schema")
    except (CorruptFileError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f"{path} is no manifest of a job; pass another folder, or delete this one.") from error
    return dict(content["job"])


def _count_rows(path: Path) -> int:
    """Return the number of answers in the file of a part. Raises InputError for damaged Parquet."""
    with path.open("rb") as stream:
        if path.suffix == ".parquet":
            from mpt_edge.formats.parquet import open_parquet

            return int(open_parquet(stream, path).metadata.num_rows)
        return sum(1 for _ in stream)


def _words(key: str) -> str:
    return key.replace("_", " ")
