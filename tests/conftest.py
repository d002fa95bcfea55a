"""A tiny backbone with a tokenizer and two tasks, exported once a session: real code, no network.

Fixtures import what they need. The process of pytest-xdist that only starts others reads this file too, and would
spend five seconds on PyTorch and transformers before it starts them.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mpt_edge.formats.prompts import SharedPrompt
    from mpt_edge.inference.model import Model
    from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
    from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone

#: Files that take longest. They begin first, or one process would be at them while others have no more.
_LONGEST = (
    "test_docs_app.py", "test_readme.py", "test_causal_graph.py", "test_hardware.py", "test_seq2seq_graph.py",
    "test_encoder_decoder.py", "test_all_layers.py", "test_generative.py", "test_docs_peft.py", "test_wheel.py",
    "test_docs_generation.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files in front; all others stay in order."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules and tests, a million objects that stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _shared_exports(common_folder: Path) -> Iterator[None]:
    """Export each model once; see `tests.support.exports`."""
    from tests.support import exports

    with pytest.MonkeyPatch.context() as patch:
        exports.share_exports(patch, common_folder)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder of a small random BERT."""
    import torch
    from transformers import BertConfig, BertModel

    from tests.support.encoders import save_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.4,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> EncoderBackbone:
    """Return the small backbone, loaded."""
    from mpt_edge.training.backbones.encoder_backbone import load_encoder

    return load_encoder(str(tiny_folder))


@pytest.fixture(scope="session")
def shared_prompt(tiny: EncoderBackbone) -> SharedPrompt:
    """Return a shared prompt for the small backbone."""
    import numpy as np

    from mpt_edge.formats.placement import Placement
    from mpt_edge.formats.prompts import SharedPrompt
    from tests.support.encoders import LENGTH

    values = np.random.default_rng(0).standard_normal((LENGTH, tiny.model.hidden_size)).astype(np.float16)
    return SharedPrompt("mpt", values, Placement(), tiny.fingerprint)


@pytest.fixture(scope="session")
def tiny_vectors(tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the prompt and three tasks: sentiment, topic, and pairs."""
    from mpt_edge.formats.taskfile import Inputs
    from tests.support.encoders import make_task

    folder = tmp_path_factory.mktemp("vectors")
    shared_prompt.save(folder / "prompts" / "mpt.safetensors")
    tasks = [
        make_task(tiny, shared_prompt, "sentiment", {"bad": "bad dull film", "good": "great witty film"}),
        make_task(tiny, shared_prompt, "topic", {"sport": "ball game", "law": "vote party", "science": "atom cell"}),
        make_task(tiny, shared_prompt, "same", {"no": "bad", "yes": "good"}, inputs=Inputs.PAIR),
    ]
    for task in tasks:
        task.save(folder / "tasks" / f"{task.name}.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny: EncoderBackbone, tiny_vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of the small backbone. Do not change it; copy it."""
    from mpt_edge_export import ExportPlan, export_bundle

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(ExportPlan(tiny, [tiny_vectors], output))
    return output


@pytest.fixture(scope="session")
def long_prompt_task(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the file of a task with an own prompt of eleven virtual tokens; the shared one has six."""
    import numpy as np

    from tests.support.encoders import make_task

    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("own") / "longer.safetensors"
    make_task(
        tiny, shared_prompt, "longer", {"no": "bad dull", "maybe": "text", "yes": "good great"},
        own_prompt=replace(shared_prompt, values=rng.standard_normal((11, 32)).astype(np.float32)),
        u=rng.normal(1, 0.3, 11).astype(np.float16),
    ).save(path)  # fmt: skip
    return path


@pytest.fixture(scope="session")
def mixed(tiny_bundle: Path, long_prompt_task: Path) -> Model:
    """Return the small encoder's model with that task added."""
    import mpt_edge

    model = mpt_edge.load(tiny_bundle, threads=1)
    model.add_task(long_prompt_task)
    return model


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> GenerativeBackbone:
    """Return a small decoder-only model with a tokenizer trained here, which knows a few sentences."""
    from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
    from mpt_edge.training.backbones.opening import open_backbone
    from tests.support import writers

    backbone = open_backbone(str(writers.save_writer(tmp_path_factory.mktemp("writer") / "tiny-llama")))
    assert isinstance(backbone, GenerativeBackbone)
    return backbone


@pytest.fixture(scope="session")
def writer_bundle(writer: GenerativeBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of it with three tasks that generate text and one that chooses. Do not change it; copy it."""
    from tests.support import writers

    return writers.export_writer(writer, writers.LENGTH, tmp_path_factory.mktemp("writer"))


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of the small bundle, to change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path) -> Model:
    """Return the small encoder's model, to record examples with."""
    import mpt_edge

    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture
def task_file(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path, tiny_model: Model
) -> Callable[..., Path]:
    """Return a function that writes a task file, with a reference example, outside any bundle."""
    from tests.support.encoders import make_task
    from tests.support.examples import with_example

    def make(name: str = "fresh", **changes: object) -> Path:
        path = tmp_path / f"{name}.safetensors"
        task = replace(make_task(tiny, shared_prompt, name, {"no": "bad", "yes": "good"}), **changes)
        with_example(tiny_model, task).save(path)
        return path

    return make
