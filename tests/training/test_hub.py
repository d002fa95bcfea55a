"""Backbones from the hub: the files that are asked for, and folders in the hub's cache."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.locating import locate_model
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft.adapter import read_adapter
from tests.support.adapters import Code, make_adapter
from tests.support.causal import CONFIGS
from tests.support.checkpoints import WEIGHTS, assert_one_sentence, save_checkpoint
from tests.support.hub import COMMIT, into_cache, serve

BIN = "pytorch_model.bin"
NAME = "someone/tiny-bert"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the small encoder's folder, to change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def pickle_weights(folder: Path, shards: int = 1) -> None:
    """Save the weights as PyTorch does, in one file or in several with an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    if shards == 1:
        torch.save(weights, folder / BIN)
        return
    names = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    for i, name in enumerate(names):
        torch.save(dict(list(weights.items())[i::shards]), folder / name)
    index = {"metadata": {}, "weight_map": {key: names[i % shards] for i, key in enumerate(weights)}}
    (folder / f"{BIN}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 3])
def test_repository_with_pickled_weights_alone(
    tiny: EncoderBackbone, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    pickle_weights(folder, shards)
    (folder / "training_args.bin").write_bytes(b"no weights")
    with serve(folder, NAME, tmp_path / "cache", monkeypatch) as fetched:
        backbone = load_encoder(NAME)
        assert (backbone.name, backbone.id, backbone.revision) == ("tiny-bert", NAME, COMMIT)
        assert backbone.fingerprint == tiny.fingerprint
        assert sum(name.endswith(".bin") for name in fetched) == shards
        assert "training_args.bin" not in fetched
        assert len(fetched) == len(set(fetched))
    manifest = export_bundle(ExportPlan(backbone, [], tmp_path / "bundle"))
    assert manifest.backbone["id"] == NAME


def test_repository_with_both_gives_safetensors_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / BIN)
    with serve(folder, NAME, tmp_path / "cache", monkeypatch) as fetched:
        load_encoder(NAME, "main")
    assert WEIGHTS in fetched
    assert BIN not in fetched


def test_sharded_safetensors_of_a_generative_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(AutoModelForCausalLM.from_config(CONFIGS["llama"]), tmp_path / "model")
    expected = open_backbone(str(folder)).fingerprint
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / WEIGHTS).unlink(missing_ok=True)
    assert len(list(folder.glob("*.safetensors"))) > 1
    (folder / BIN).write_bytes(b"older weights")
    with serve(folder, "someone/llama", tmp_path / "cache", monkeypatch) as fetched:
        assert open_backbone("someone/llama").fingerprint == expected
    assert BIN not in fetched


def test_pickled_weights_on_this_machine(tiny: EncoderBackbone, folder: Path) -> None:
    pickle_weights(folder, 2)
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, f"cannot read the weights in {folder}; download the model again")


def test_code_among_pickled_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / BIN).write_bytes(pickle.dumps({"embeddings": Code(tmp_path / "made")}, protocol=2))
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, f"cannot read the weights in {folder}")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "openvino_model.bin"])
def test_weights_of_other_libraries_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (folder / WEIGHTS).rename(folder / name)
    with (
        serve(folder, NAME, tmp_path / "cache", monkeypatch) as fetched,
        pytest.raises(CorruptFileError) as caught,
    ):
        load_encoder(NAME)
    assert_one_sentence(caught.value, "holds no weights in model.safetensors or pytorch_model.bin; download them too")
    assert name not in fetched


def test_second_run_needs_no_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickle_weights(folder)
    with serve(folder, NAME, tmp_path / "cache", monkeypatch):
        first = load_encoder(NAME)
    assert load_encoder(NAME).fingerprint == first.fingerprint  # the server is gone


def test_unknown_repository(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serve(folder, NAME, tmp_path / "cache", monkeypatch),
        pytest.raises(InputError, match=r"no backbone 'someone/else': .* the hub did not give it"),
    ):
        load_encoder("someone/else")


@pytest.mark.parametrize("repository", ["someone/tiny", "tiny"])
@pytest.mark.parametrize("given", ["snapshot", "repository", "link"])
def test_folder_in_the_hubs_cache_is_named_after_its_repository(
    tiny_folder: Path, tmp_path: Path, repository: str, given: str
) -> None:
    commit = into_cache(tiny_folder, repository, tmp_path / "cache")
    link = tmp_path / "mine"
    link.symlink_to(commit)
    source = locate_model(str({"snapshot": commit, "repository": commit.parents[1], "link": link}[given]))
    assert (source.id, source.revision, source.name) == (repository, COMMIT, repository.rpartition("/")[2])
    assert load_encoder(source.asked).id == repository


def test_other_folders_named_snapshots(tiny_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "models" / "snapshots" / "mine"
    place.parent.mkdir(parents=True)
    place.symlink_to(tiny_folder)
    assert (locate_model(str(place)).id, locate_model(str(place)).revision) == ("tiny-bert", None)


def test_bundle_of_a_folder_in_the_hubs_cache(tiny_folder: Path, tmp_path: Path) -> None:
    commit = into_cache(tiny_folder, NAME, tmp_path / "cache")
    manifest = export_bundle(ExportPlan(open_backbone(str(commit)), [], tmp_path / "bundle"))
    assert (manifest.backbone["id"], manifest.backbone["revision"]) == (NAME, COMMIT)


def test_adapter_in_the_hubs_cache(tiny_folder: Path, tmp_path: Path) -> None:
    make_adapter(tiny_folder, "FEATURE_EXTRACTION", tmp_path / "adapter")
    commit = into_cache(tmp_path / "adapter", "someone/adapter", tmp_path / "cache")
    for place in (commit, commit.parents[1]):
        adapter = read_adapter(str(place))
        assert (adapter.source, adapter.revision) == ("someone/adapter", COMMIT)
    assert read_adapter(str(tmp_path / "adapter")).source == str(tmp_path / "adapter")
