"""The log: each entry once after a resume, and the same metrics for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from mpt_edge.errors import InputError
from mpt_edge.training.runlog import RunLog, read_log


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Read TensorBoard's record files: length, its checksum, event, its checksum."""
    scalars = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            record, crc = data[12 : 12 + size], int.from_bytes(data[12 + size : 16 + size], "little")
            assert crc == masked_crc32c(record)
            event = Event.FromString(record)
            scalars += [(value.tag, event.step, round(value.simple_value, 5)) for value in event.summary.value]
            data = data[16 + size :]
    return scalars


def test_entries_reach_both_files(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.write({"step": 1, "loss": {"task": 0.5, "total": 0.75}, "tasks": [0, 1]})
    log.write({"step": 2, "mean": 0.25, "validation": {"sst2": 0.5}})
    log.close()
    assert read_log(tmp_path) == [
        {"step": 1, "loss": {"task": 0.5, "total": 0.75}, "tasks": [0, 1]},
        {"step": 2, "mean": 0.25, "validation": {"sst2": 0.5}},
    ]
    assert events(tmp_path / "tensorboard") == [
        ("loss/task", 1, 0.5),
        ("loss/total", 1, 0.75),
        ("mean", 2, 0.25),
        ("validation/sst2", 2, 0.5),
    ]


def test_entries_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "mean": step / 4})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "me')  # killed while writing
    RunLog(tmp_path, 2).write({"step": 3, "mean": 0.5})
    assert [entry["mean"] for entry in read_log(tmp_path)] == [0.25, 0.5, 0.5]
    RunLog(tmp_path, 0)
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_opening_a_log_adds_no_file(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "mean": 0.5}) + "\n")
    RunLog(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("line", ['{"step": 2, "me', "[]", '{"mean": 0.5}', '{"step": "two"}', "\x00\x00", "null"])
def test_a_damaged_log_is_named_when_the_run_resumes(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "mean": 0.5}\n' + line + '\n{"step": 3, "mean": 0.5}\n')
    before = path.read_bytes()
    for read in (lambda: RunLog(tmp_path, 3), lambda: read_log(tmp_path)):
        with pytest.raises(InputError, match=r"log\.jsonl is damaged; delete it, and the log starts with"):
            read()
    assert path.read_bytes() == before


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, writes=False)
    log.write({"step": 1, "mean": 0.5})
    log.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="holds no run"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": true}',
        '{"step": 1.5}',
        '{"step": -1}',
        '{"step": 1e400}',
        '{"step": 1, "loss": [1]}',
        '{"step": 1, "loss": {"total": "1"}}',
        '{"step": 1, "validation": {"a": null}}',
        '{"step": 1, "mean": "high"}',
        '{"step": 1, "mean": 1e200}',
        '{"step": 1, "mean": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_values_that_no_run_writes(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"log\.jsonl is damaged; delete it"):
        read_log(tmp_path)


def test_a_folder_in_place_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder, and the log belongs there; remove it"):
        RunLog(tmp_path, 0)
