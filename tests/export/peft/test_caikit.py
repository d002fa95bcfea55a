"""Prompts that caikit folded for TGIS, written as caikit writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mpt_edge.errors import CorruptFileError
from mpt_edge_export.peft import read_caikit
from mpt_edge_export.peft.task_types import Method
from tests.support import adapters
from tests.support.checkpoints import assert_one_sentence

CONFIG = "base_model_name: google/flan-t5-base\nverbalizer: 'Classify: {{input}} label:'\ntuning_type: MULTITASK\n"


def write(folder: Path, *names: str, rows: int = 4) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(rows, 8, generator=generator) for name in names}
    for name, value in values.items():
        torch.save(value, folder / name)
    return {name: value.numpy() for name, value in values.items()}


@pytest.mark.parametrize(
    ("names", "task_type"),
    [(("decoder.pt",), "CAUSAL_LM"), (("encoder.pt",), "SEQ_2_SEQ_LM"), (("encoder.pt", "decoder.pt"), "SEQ_2_SEQ_LM")],
)
def test_read(tmp_path: Path, names: tuple[str, ...], task_type: str) -> None:
    values = write(tmp_path, *names)
    (tmp_path / "config.yml").write_text(CONFIG)
    result = read_caikit(tmp_path)
    assert (result.method, result.task_type.name, result.length, result.tasks) == (Method.PLAIN, task_type, 4, 1)
    assert np.array_equal(result.shared(), values[names[0]])
    assert result.has_decoder_half == (len(names) == 2)
    assert (result.base_model, result.template) == ("google/flan-t5-base", "Classify: {text} label:")
    assert [part.tolist() for part in result.vectors(0)] == [[1.0] * 4, [1.0] * 8]


def test_half_precision_and_parameters(tmp_path: Path) -> None:
    value = torch.nn.Parameter(torch.randn(3, 8).bfloat16())
    torch.save(value, tmp_path / "decoder.pt")
    result = read_caikit(tmp_path)
    assert np.array_equal(result.shared(), value.detach().float().numpy())
    assert (result.base_model, result.template) == (None, None)


def test_code_is_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save(adapters.Code(made), tmp_path / "decoder.pt")
    with pytest.raises(CorruptFileError, match="is damaged, or holds more than tensors"):
        read_caikit(tmp_path)
    assert not made.exists()
    torch.load(tmp_path / "decoder.pt", weights_only=False)
    assert made.exists()  # so there was code to run


@pytest.mark.parametrize(
    "value",
    [torch.ones(4), torch.ones(0, 8), {"a": torch.ones(2, 2)}, {"": torch.ones(2, 2), "a": torch.ones(2, 2)}],
    ids=["1d", "0", "dict", "two"],
)
def test_file_without_one_matrix(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "encoder.pt")
    with pytest.raises(CorruptFileError, match=r"encoder\.pt is not one matrix of numbers"):
        read_caikit(tmp_path)


def test_halves_that_differ(tmp_path: Path) -> None:
    write(tmp_path, "encoder.pt")
    write(tmp_path, "decoder.pt", rows=5)
    with pytest.raises(CorruptFileError, match="differ in shape"):
        read_caikit(tmp_path)


def test_broken_config(tmp_path: Path) -> None:
    write(tmp_path, "decoder.pt")
    (tmp_path / "config.yml").write_text("a: [")
    with pytest.raises(CorruptFileError, match="is not YAML"):
        read_caikit(tmp_path)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nverbalizer: *b\n", "has YAML aliases; write the values out"),
        ("verbalizer: " + "9" * 5000, "is not YAML"),
        ("verbalizer: " + "[" * 5000, "is not YAML"),
        ("verbalizer: 2001-99-99", "is not YAML"),
        ("verbalizer: !!python/object/apply:os.system [id]", "is not YAML"),
        ("a: 1\n" * 20_000, "more than the 65,536"),
    ],
    ids=["aliases", "number", "nesting", "date", "code", "size"],
)
def test_hostile_config(tmp_path: Path, config: str, part: str) -> None:
    write(tmp_path, "decoder.pt")
    (tmp_path / "config.yml").write_text(config)
    with pytest.raises(CorruptFileError) as caught:
        read_caikit(tmp_path)
    assert_one_sentence(caught.value, "config.yml", part)


def test_forged_strides(tmp_path: Path) -> None:
    torch.save(torch.ones(1).as_strided((40_000, 30_000), (0, 0)), tmp_path / "decoder.pt")
    with pytest.raises(CorruptFileError, match="is damaged, or holds more than tensors"):
        read_caikit(tmp_path)
