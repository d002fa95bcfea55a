"""A head type from outside the package: registered, installed, mixed with others, and printed by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import mpt_edge
from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats import head_types
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Answer, Prediction
from mpt_edge.inference.heads import register
from mpt_edge.inference.heads.base import ComposedTask, Display
from mpt_edge.inference.heads.encoder_head import EncoderHead, EncoderReader, TextStates
from mpt_edge.inference.model import Model
from mpt_edge.inference.text import Encoded
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import LONG, assert_same
from tests.support.commands import run_here
from tests.support.examples import with_example
from tests.support.outcomes import done


@dataclass(frozen=True, kw_only=True)
class Count(Answer):
    """An answer that no shipped head type gives."""

    value: int

    @property
    def summary(self) -> str:
        return f"{self.value} positive"

    def _content(self) -> dict[str, Any]:
        return {"count": self.value}


class Toy(EncoderHead):
    """Counts the channels of the pooled state that are above a threshold, read from the first label text."""

    name = "toy"
    min_labels = 1
    has_label_texts = True
    answer_type = Count
    display = Display.PHRASE

    def __init__(self, task: TaskFile, threshold: float) -> None:
        super().__init__(task)
        self.threshold = threshold

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:
        del reader
        return cls(task.file, float(task.file.label_texts[0][0]))

    def scores(self, states: TextStates | Floats) -> Floats:
        assert isinstance(states, TextStates)
        return states.pooled - np.float32(self.threshold)

    def answer(self, scores: Floats, row: Encoded) -> Count:
        return Count(task=self.task.name, value=int((scores > 0).sum()), truncated=row.truncated)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Toy]]:
    """Register the type, and take it out again."""
    monkeypatch.setattr(head_types, "_REGISTRY", dict(head_types._REGISTRY))
    yield register(Toy)
    monkeypatch.undo()
    assert head_types.find_head_type("toy") is None


@pytest.fixture
def file(folder: Path, tmp_path: Path, registered: type[Toy], tiny_model: Model) -> Path:
    """Return a task file of the toy type."""
    task = replace(
        Bundle.open(folder).task("topic"), name="channels", head_type="toy", labels=("any",), label_texts=(("0.25",),)
    )
    with_example(tiny_model, task).save(tmp_path / "channels.safetensors")
    assert TaskFile.load(tmp_path / "channels.safetensors").head_class is registered
    return tmp_path / "channels.safetensors"


def test_in_a_mixed_batch(folder: Path, file: Path, tiny: EncoderBackbone) -> None:
    Bundle.open(folder).install_untested(file)
    model = mpt_edge.load(folder, threads=1)
    assert model.tasks == ["channels", "same", "sentiment", "topic"]
    texts = ["a film", ("good", "bad"), "dull", "vote party", LONG]
    names = ["channels", "same", "topic", "channels", "channels"]
    answers = model.run(texts, names, answers=Answer)
    toys = [answer for answer in answers if isinstance(answer, Count)]
    others = [answer for answer in answers if isinstance(answer, Prediction)]
    pooled = model.task("channels").embed(["a film", "vote party", LONG], normalize=False)
    assert [toy.value for toy in toys] == (pooled > 0.25).sum(1).tolist()
    assert [toy.truncated for toy in toys] == [False, False, True]
    assert_same(others, [model.task("same")(texts[1]), model.task("topic")(texts[2])])
    assert isinstance(model.task("channels", answers=Count)("a film"), Count)
    assert repr(model.task("channels")) == "Task('channels', toy, 1 labels)"


def test_in_the_command(folder: Path, file: Path, tmp_path: Path) -> None:
    """Installed, listed, and printed: as a table, as JSON, and in rows of mixed tasks."""
    done(run_here("tasks", "install", file, "--bundle", folder))
    assert "channels" in done(run_here("tasks", "list", "--bundle", folder))
    options = ["--bundle", folder, "--threads", 1]
    answer = mpt_edge.load(folder, threads=1).task("channels", answers=Count)("a film")
    row = done(run_here("run", "--task", "channels", "a film", *options)).splitlines()[1]
    assert row.startswith(f"{answer.value} positive ")
    assert row.split()[2:] == ["-", "a", "film"]
    entry = json.loads(done(run_here("run", "--task", "channels", "--json", "a film", *options)))
    assert (entry["task"], entry["count"]) == ("channels", answer.value)
    rows = [{"text": "a film", "task": name} for name in ("channels", "topic")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = done(run_here("run", "--input", tmp_path / "rows.jsonl", *options))
    assert f"{answer.value} positive" in table
    assert "topic" in table


def test_files_are_refused_without_the_type(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(head_types._REGISTRY, "toy")
    with pytest.raises(CorruptFileError, match="head type 'toy' is unknown"):
        TaskFile.load(file)
