"""Parts of a job: a few hundred rows each, read from its files in order."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mpt_edge.batch.parquet_rows import UNIT, from_table
from mpt_edge.batch.rows import Columns, InputRows, format_of, from_stream
from mpt_edge.errors import InputError
from mpt_edge.formats.parquet import open_parquet, read_batches
from mpt_edge.formats.records import PARQUET_SUFFIX, SUFFIXES, Format
from mpt_edge.formats.slices import slices

#: Bytes of lines after which a part ends, however few its rows are.
_MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Part:
    """Rows of one file, with all that a worker needs to read them."""

    number: int
    """Position in the job, from 0."""
    name: str
    """Name of the file in messages."""
    form: Format
    rows: int
    """Number of rows, readable or not."""
    before: int
    """Number of lines of the file before the part; of rows in Parquet."""
    data: bytes
    """The file's lines; an Arrow stream for Parquet."""
    header: tuple[str, ...]
    """Column names of a CSV that are not in ``data``."""
    position: int
    """Bytes of all files up to the end of the part."""

    def open(self, columns: Columns) -> InputRows:
        """Return the rows. Raises InputError if the file lacks the text's column."""
        if self.form is not Format.PARQUET:
            stream = io.BytesIO(self.data)
            return from_stream(stream, self.name, self.form, columns, header=self.header, lines_before=self.before)
        import pyarrow as pa

        table = pa.ipc.open_stream(self.data).read_all()
        return from_table(table, self.name, self.before + 1, columns)

    def __str__(self) -> str:
        """Name the rows in a message."""
        unit = UNIT if self.form is Format.PARQUET else "line"
        return f"the {self.rows:,} rows of {self.name} from {unit} {self.before + 1:,} on"


def find_files(path: Path, form: Format | None) -> list[tuple[Path, Format]]:
    """Return a file, or the files of a folder by name, with their formats.

    Raises:
        InputError: there is none, or Parquet is mixed with other formats.
    """
    if path.is_dir():
        known = {*SUFFIXES, PARQUET_SUFFIX}
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in known and each.is_file())
        if not files:
            raise InputError(f"{path} has no file that ends in {', '.join([*SUFFIXES, PARQUET_SUFFIX])}; pass another.")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path} is no file and no folder; check the path.")
    result = [(each, form or format_of(each)) for each in files]
    if len({each is Format.PARQUET for _, each in result}) > 1:
        raise InputError(f"{path} has Parquet and other files; put one kind into a folder of its own.")
    return result


def read_parts(files: Sequence[tuple[Path, Format]], max_rows: int) -> Iterator[Part]:
    """Yield the parts of files, in order. The same files give the same parts.

    Raises:
        InputError: a file cannot be used as a whole: a CSV without a header, or damaged Parquet.
        OSError: a file cannot be read.
    """
    number = before = 0
    for path, form in files:
        with path.open("rb") as stream:
            size = path.stat().st_size
            read = _parquet if form is Format.PARQUET else _lines
            for part in read(stream, path, form, max_rows, number, before, size):
                number = part.number + 1
                yield part
        before += size


def _lines(
    stream: BinaryIO,
    path: Path,
    form: Format,
    max_rows: int,
    number: int,
    before: int,
    size: int,  # noqa: ARG001
) -> Iterator[Part]:
    with path.open("rb") as scanned:
        for i, each in enumerate(slices(scanned, str(path), form, max_rows, _MAX_BYTES), number):
            stream.seek(each.start)
            data = stream.read(each.end - each.start)
            yield Part(i, str(path), form, each.rows, each.lines_before, data, each.header, before + each.end)


def _parquet(
    stream: BinaryIO, path: Path, form: Format, max_rows: int, number: int, before: int, size: int
) -> Iterator[Part]:
    file = open_parquet(stream, path)
    total, read = max(file.metadata.num_rows, 1), 0
    for i, batch in enumerate(read_batches(file, path, max_rows), number):
        first, read = read, read + batch.num_rows
        position = before + size * read // total
        yield Part(i, str(path), form, batch.num_rows, first, _ipc(batch), (), position)


def _ipc(batch: Any) -> bytes:
    import pyarrow as pa

    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())
