"""The executor of one process; `test_ray_executor.py` has Ray's."""

from __future__ import annotations

from collections.abc import Iterator

from mpt_edge.batch.executors import LocalExecutor
from mpt_edge.batch.part_worker import PartResult
from mpt_edge.batch.parts import Part
from mpt_edge.formats.records import Format


def test_parts_are_read_one_at_a_time() -> None:
    read: list[int] = []

    def parts() -> Iterator[Part]:
        for i in range(3):
            read.append(i)
            yield Part(i, "f", Format.TEXT, 1, 0, b"", (), 0)

    results = LocalExecutor().run(lambda part: PartResult(part.number, b"", 0, ""), parts())  # type: ignore[arg-type]
    part, result = next(results)
    assert isinstance(result, PartResult)
    assert (part.number, result.number, read) == (0, 0, [0])
    assert [part.number for part, _ in results] == [1, 2]
