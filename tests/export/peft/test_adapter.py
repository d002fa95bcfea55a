"""Reading adapters: all that PEFT writes, and one sentence for anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, T5Config, T5ForConditionalGeneration

from mpt_edge.errors import CorruptFileError, InputError, UnsupportedModelError
from mpt_edge.formats.prompts import compose
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge_export.peft import read_adapter
from mpt_edge_export.peft.task_types import TASK_TYPES, Method
from tests.support import adapters


@pytest.fixture(scope="module")
def base(bert: EncoderBackbone) -> Path:
    return bert.folder


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_multitask(base: Path, tmp_path: Path, ranks: int, safe: bool) -> None:
    model = adapters.make_adapter(base, "SEQ_CLS", tmp_path, num_ranks=ranks, safe_serialization=safe)
    assert (tmp_path / "adapter_model.safetensors").is_file() == safe
    result = read_adapter(str(tmp_path))
    assert (result.method, result.task_type) == (Method.MULTITASK, TASK_TYPES["SEQ_CLS"])
    assert (result.length, result.tasks) == (5, 3)
    assert result.base_model == str(base)
    encoder = model.prompt_encoder["default"]
    assert np.array_equal(result.shared(), encoder.embedding.weight.detach().numpy())
    assert set(result.modules) == {"classifier.weight", "classifier.bias"}
    for task in range(3):
        u, v = result.vectors(task)
        assert (u.shape, v.shape) == (((5,), (32,)) if ranks == 1 else ((5, ranks), (ranks, 32)))
        with torch.no_grad():
            expected = encoder(torch.arange(5)[None], torch.tensor([task]))[0].numpy()
        np.testing.assert_allclose(compose(result.shared(), u, v), expected, rtol=1e-6, atol=1e-7)
        assert ranks > 1 or np.array_equal(compose(result.shared(), u, v), expected)


def test_plain_prompt_tuning(base: Path, tmp_path: Path) -> None:
    model = adapters.make_adapter(base, "FEATURE_EXTRACTION", tmp_path, multitask=False)
    result = read_adapter(str(tmp_path))
    assert (result.method, result.tasks, result.modules) == (Method.PLAIN, 1, {})
    expected = model.prompt_encoder["default"].embedding.weight.detach().numpy()
    assert np.array_equal(compose(result.shared(), *result.vectors(0)), expected)


def test_source_file_that_is_gone(base: Path, tmp_path: Path) -> None:
    """PEFT reads the file of the source prompt again on every load; the adapter holds all of it."""
    adapters.make_adapter(base, "SEQ_CLS", tmp_path / "source")
    gone = tmp_path / "source" / "adapter_model.safetensors"
    options = {"prompt_tuning_init": "AVERAGE_SOURCE_TASKS", "prompt_tuning_init_state_dict_path": str(gone)}
    target = adapters.make_adapter(base, "SEQ_CLS", tmp_path / "target", num_tasks=1, **options)
    gone.unlink()
    with pytest.raises(FileNotFoundError):
        type(target).from_pretrained(target.get_base_model(), tmp_path / "target")
    expected = target.prompt_encoder["default"].embedding.weight.detach().numpy()
    assert np.array_equal(read_adapter(str(tmp_path / "target")).shared(), expected)


@pytest.mark.parametrize("submodules", [None, 1, 2])
def test_decoder_half(tmp_path: Path, submodules: int | None) -> None:
    from peft import MultitaskPromptTuningConfig

    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0)
    model = get_peft_model(
        T5ForConditionalGeneration(config),
        MultitaskPromptTuningConfig(
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, num_tasks=2, num_transformer_submodules=submodules
        ),
    )
    model.save_pretrained(tmp_path)
    result = read_adapter(str(tmp_path))
    assert result.has_decoder_half == (submodules != 1)
    weights = model.prompt_encoder["default"].embedding.weight.detach().numpy()
    assert np.array_equal(result.shared(), weights[:4])
    assert result.vectors(1)[0].shape == (4,)


def edited(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return change


def saved(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        values = load_file(path)
        change(values)
        save_file(values, path)

    return save


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"prompt_embeddings": adapters.Code(folder / "made")}, folder / "adapter_model.bin")


BROKEN = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), InputError, "holds no adapter_config.json"),
    "config": (lambda f: (f / "adapter_config.json").write_text("{"), CorruptFileError, "is not JSON"),
    "list": (lambda f: (f / "adapter_config.json").write_text("[]"), CorruptFileError, "is not a JSON object"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), CorruptFileError, "holds neither"),
    "damage": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"nonsense" * 9),
        CorruptFileError,
        "is damaged, or holds more than tensors",
    ),
    "pickle": (pickled, CorruptFileError, "is damaged, or holds more than tensors"),
    "method": (edited("peft_type", "P_TUNING"), UnsupportedModelError, "is a P_TUNING adapter; only MULTITASK"),
    "task type": (edited("task_type", None), UnsupportedModelError, "states the task type None"),
    "length": (edited("num_virtual_tokens", "many"), CorruptFileError, "num_virtual_tokens is 'many'"),
    "rows": (edited("num_virtual_tokens", 4), CorruptFileError, "has 5 rows where 4 virtual tokens"),
    "no prompt": (saved(lambda v: v.pop("prompt_embeddings")), CorruptFileError, "'prompt_embeddings' is missing"),
    "no cols": (saved(lambda v: v.pop("prefix_task_cols")), CorruptFileError, "'prefix_task_cols' or"),
    "cols": (
        saved(lambda v: v.update(prefix_task_cols=torch.ones(2, 5, 1))),
        CorruptFileError,
        "do not scale a prompt of shape",
    ),
    "rows of another width": (
        saved(lambda v: v.update(prefix_task_rows=torch.ones(3, 1, 31))),
        CorruptFileError,
        "do not scale a prompt of shape",
    ),
    "decoder half": (
        saved(lambda v: v.update(prompt_embeddings=torch.ones(10, 32), prefix_task_cols=torch.ones(3, 10, 1))),
        CorruptFileError,
        "has 10 rows where 5 virtual tokens",
    ),
    "nan": (saved(lambda v: v["prompt_embeddings"].fill_(torch.nan)), CorruptFileError, "holds NaN or infinity"),
    "integers": (
        saved(lambda v: v.update(prompt_embeddings=torch.ones(5, 32, dtype=torch.long))),
        CorruptFileError,
        "no tensor of numbers",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_adapter_is_refused_in_one_sentence(base: Path, tmp_path: Path, case: str) -> None:
    adapters.make_adapter(base, "SEQ_CLS", tmp_path)
    damage, error, message = BROKEN[case]
    damage(tmp_path)
    with pytest.raises(error, match=message) as caught:
        read_adapter(str(tmp_path))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_safetensors_take_precedence(base: Path, tmp_path: Path) -> None:
    adapters.make_adapter(base, "SEQ_CLS", tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"nonsense")
    assert read_adapter(str(tmp_path)).tasks == 3


def test_names_of_wrapped_heads(base: Path, tmp_path: Path) -> None:
    adapters.make_adapter(base, "SEQ_CLS", tmp_path)

    def wrap(values: dict[str, Any]) -> None:
        for name in [name for name in values if "classifier" in name]:
            part = name.rpartition(".")[2]
            values[f"base_model.model.classifier.modules_to_save.default.{part}"] = values.pop(name)

    given = read_adapter(str(tmp_path)).modules
    saved(wrap)(tmp_path)
    result = read_adapter(str(tmp_path)).modules
    assert result.keys() == given.keys() == {"classifier.weight", "classifier.bias"}
    assert all(np.array_equal(result[name], given[name]) for name in given)


def test_lora_is_refused(base: Path, tmp_path: Path) -> None:
    get_peft_model(AutoModel.from_pretrained(base), LoraConfig(target_modules=["query"])).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="is a LORA adapter"):
        read_adapter(str(tmp_path))


def test_neither_folder_nor_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="no adapter 'nobody/nothing': it is no folder here"):
        read_adapter("nobody/nothing")


def test_unknown_task_id(base: Path, tmp_path: Path) -> None:
    adapters.make_adapter(base, "SEQ_CLS", tmp_path)
    with pytest.raises(InputError, match="has no task 3; its ids are 0 to 2"):
        read_adapter(str(tmp_path)).vectors(3)
