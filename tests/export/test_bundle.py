"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mpt_edge
from mpt_edge.errors import InputError, SignatureError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.key_rotation import PinnedKeys
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, bundle, export_bundle
from mpt_edge_export.encoder_graph import export_encoder_graph
from tests.support import adapters
from tests.support.bundles import read_files
from tests.support.encoders import make_task
from tests.support.signers import sign, signer
from tests.support.writers import CONTEXT, text_task


def test_manifest_hashes_and_parity(tiny_bundle: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    files = read_files(tiny_bundle)
    assert set(manifest["files"]) == set(files) - {"bundle.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}
    assert {"onnx/model.onnx", "tokenizer.json", "README.md", "prompts/mpt.safetensors"} < set(files)
    assert 0 < manifest["parity"]["max_abs_difference"] < 1e-4
    assert manifest["parity"]["tolerance"] == 1e-4
    assert manifest["parity"]["cases"] == 3 + 4 * (9 + 1 + 1)  # prompts alone, and calls with texts
    assert manifest["backbone"]["fingerprint"] == tiny.fingerprint
    assert manifest["tokenizer"] == hashlib.sha256(files["tokenizer.json"]).hexdigest()
    entry = {"fingerprint": shared_prompt.fingerprint, "layout": "prefix", "length": 6}
    assert manifest["prompts"] == {"mpt": entry}
    sizes = [manifest[key] for key in ("prompt_length", "hidden_size", "layers", "heads", "head_size", "max_length")]
    assert sizes == [6, 32, 2, 4, 8, 48]
    assert (manifest["family"], manifest["pooling"], manifest["token_types"]) == ("encoder", "mean", True)
    assert [manifest[key] for key in ("layout", "prompt_position", "head_type")] == [
        "prefix",
        "first_layer",
        "similarity",
    ]


def test_facts_that_are_unknown_are_left_out(tiny: EncoderBackbone, tiny_bundle: Path) -> None:
    assert (tiny.revision, tiny.license) == (None, None)
    assert set(Bundle.open(tiny_bundle).manifest.backbone) == {"id", "fingerprint"}


def test_vectors_are_copied_unchanged(tiny_bundle: Path, tiny_vectors: Path) -> None:
    given, copied = read_files(tiny_vectors), read_files(tiny_bundle)
    assert {name: copied[name] for name in given} == given


def test_head_type_is_that_of_all_tasks(
    tiny: EncoderBackbone, vectors: Path, writer_bundle: Path, tmp_path: Path, quick: None
) -> None:
    result = []
    for path in (vectors / "tasks").iterdir():
        replace(TaskFile.load(path), head_type="embedding", labels=(), label_texts=()).save(path)
        result.append(export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b", force=True)).head_type)
    assert result == [None, None, "embedding"]
    manifest = Bundle.open(writer_bundle).manifest
    assert (manifest.head_type, manifest.pooling) == (None, None)  # some tasks generate, one chooses


def test_nothing_is_left_beside_the_bundle(tiny_bundle: Path) -> None:
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]
    assert tiny_bundle.stat().st_mode & 0o777 == 0o755


def test_force_replaces(tiny: EncoderBackbone, vectors: Path, old: Path, quick: None) -> None:
    (vectors / "tasks/same.safetensors").unlink()
    stages: list[str] = []
    export_bundle(ExportPlan(tiny, [vectors], old, force=True), stages.append)
    assert mpt_edge.load(old, threads=1).tasks == ["sentiment", "topic"]
    assert not (old / "tasks" / "retired.safetensors").exists()
    assert [path.name for path in old.parent.iterdir()] == ["old"]
    assert len(stages) == 4


def test_changed_bundle_is_exported_again(
    tiny: EncoderBackbone, tiny_bundle: Path, tmp_path: Path, quick: None
) -> None:
    """Files that an install replaced, and the lock of a process that died, are dropped."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    newer = replace(TaskFile.load(folder / "tasks/topic.safetensors"), version=2)
    newer.save(tmp_path / "topic.safetensors")
    Bundle.open(folder).install_untested(tmp_path / "topic.safetensors")
    Bundle.open(folder).remove("same")
    (folder / ".lock").touch()
    (folder / ".bundle.json.a1b2c3d4").touch()
    export_bundle(ExportPlan(tiny, [folder], folder, force=True))
    bundle = Bundle.open(folder)
    assert bundle.task("topic").version == 2
    versions = {name: release["version"] for name, release in bundle.manifest.releases.items()}
    assert versions == {"same": 1, "sentiment": 1, "topic": 2}  # with the one that was removed
    assert bundle.manifest.releases["topic"]["sha256"] == bundle.task("topic").digest
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_bundle.iterdir()}
    Bundle.open(folder).install_untested(tmp_path / "topic.safetensors")


def test_pinned_keys(tiny: EncoderBackbone, vectors: Path, tmp_path: Path, quick: None) -> None:
    pinned, output = PinnedKeys.of([signer().public], 7), tmp_path / "b"
    with pytest.raises(SignatureError, match="the task 'same' is not signed, and a signature is required"):
        export_bundle(ExportPlan(tiny, [vectors], output, keys=pinned))
    assert not output.exists()
    for path in (vectors / "tasks").iterdir():
        sign(path)
    assert export_bundle(ExportPlan(tiny, [vectors], output, keys=pinned)).keys == pinned
    assert Bundle.open(output).manifest.keys == pinned
    export_bundle(ExportPlan(tiny, [output], output, force=True))
    assert Bundle.open(output).manifest.keys == pinned
    (output / "bundle.json").write_text("{" + signer().public)
    with pytest.raises(InputError, match=r"bundle.json is damaged, and the bundle pins keys; name them with --pin-key"):
        export_bundle(ExportPlan(tiny, [vectors], output, force=True))
    (output / "bundle.json").write_text("{")
    assert export_bundle(ExportPlan(tiny, [vectors], output, force=True)).keys is None


def test_later_vectors_replace_earlier_ones(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, quick: None
) -> None:
    newer = tmp_path / "newer"
    task = TaskFile.load(tiny_vectors / "tasks/topic.safetensors")
    replace(task, version=7).save(newer / "tasks/topic.safetensors")
    export_bundle(ExportPlan(tiny, [tiny_vectors, newer], tmp_path / "b"))
    model = mpt_edge.load(tmp_path / "b", threads=1)
    assert model.task("topic").file.version == 7
    assert model.tasks == ["same", "sentiment", "topic"]


def test_model_that_the_exporter_cannot_follow(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter's pages of traces become one sentence, and stay as its cause."""
    forward = PromptedEncoder.forward

    def by_value(self: PromptedEncoder, ids: torch.Tensor, *rest: object, **named: object) -> object:
        return forward(self, ids + 1 if ids.sum() > 0 else ids, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptedEncoder, "forward", by_value)
    monkeypatch.setattr(bundle, "export_encoder_graph", export_encoder_graph)  # no graph that is there already
    with pytest.raises(UnsupportedModelError) as caught:
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "b"))
    assert str(caught.value).startswith("PyTorch cannot export the model as a graph, which an unusual entry")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("at", ["check_parity", "write_card", "export_encoder_graph", "copy_files", "sha256"])
def test_crash_keeps_the_old_bundle(
    tiny: EncoderBackbone,
    tiny_vectors: Path,
    old: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    before = read_files(old)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, at, crash)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(ExportPlan(tiny, [tiny_vectors], old, force=True))
    assert read_files(old) == before
    assert [path.name for path in old.parent.iterdir()] == ["old"]


def test_prompt_that_leaves_room_for_one_token(writer: GenerativeBackbone, tmp_path: Path) -> None:
    values = np.zeros((CONTEXT - 3, writer.model.hidden_size), np.float16)
    SharedPrompt("mpt", values, Placement(), writer.fingerprint).save(tmp_path / "v/prompts/mpt.safetensors")
    assert export_bundle(ExportPlan(writer, [tmp_path / "v"], tmp_path / "b")).max_length == 3


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_prompt_that_leaves_a_position_table_room_for_one_text(tmp_path: Path, kind: str) -> None:
    """The texts by which the graph is compared have to fit too."""
    backbone = open_backbone(str(adapters.save_base(kind, tmp_path / kind)))
    values = np.zeros((backbone.model.max_positions - 3, backbone.model.hidden_size), np.float16)
    placement = Placement(position=PromptPosition.EMBEDDINGS)
    prompt = SharedPrompt("mpt", values, placement, backbone.fingerprint)
    prompt.save(tmp_path / "v/prompts/mpt.safetensors")
    if isinstance(backbone, EncoderBackbone):
        task = make_task(backbone, prompt, "mood", {"bad": "bad", "good": "good"})
    else:
        task = text_task(backbone, prompt, "mood")
    task.save(tmp_path / "v/tasks/mood.safetensors")
    plan = ExportPlan(backbone, [tmp_path / "v"], tmp_path / "b", precisions=list(Precision))
    assert export_bundle(plan).max_length == 3


def test_folder_with_other_files_is_not_replaced(tiny: EncoderBackbone, tiny_vectors: Path, old: Path) -> None:
    (old / "mine.txt").write_text("put here by hand")
    before = read_files(old)
    for force, message in ((False, "already holds a bundle"), (True, "holds 'mine.txt'")):
        with pytest.raises(InputError, match=message):
            export_bundle(ExportPlan(tiny, [tiny_vectors], old, force=force))
    assert read_files(old) == before
