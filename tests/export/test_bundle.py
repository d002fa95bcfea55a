"""Writing a bundle: whole or not at all, and only of parts that belong together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mpt_edge
import mpt_edge_export.bundle as writing
from mpt_edge.errors import InputError, MismatchError, ParityError, UnsupportedModelError
from mpt_edge.formats.bundle import MODEL, Bundle
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle, parity
from tests.support import adapters
from tests.support.encoders import make_task
from tests.support.writers import CONTEXT, text_task


@pytest.fixture
def quick(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graph that was exported already; the rest of the writing is real."""

    def copied(*arguments: object) -> None:
        shutil.copytree((tiny_bundle / MODEL).parent, Path(str(arguments[-1])).parent, dirs_exist_ok=True)

    monkeypatch.setattr(writing, "export_encoder_graph", copied)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def old(tiny_bundle: Path, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """Return a bundle that is already there, and what it holds."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "out" / "old"))
    (folder / "tasks" / "retired.safetensors").write_text("only in the old bundle")
    return folder, contents(folder)


def test_manifest_hashes_and_parity(tiny_bundle: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt) -> None:
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    found = contents(tiny_bundle)
    assert set(manifest["files"]) == set(found) - {"bundle.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"sha256": hashlib.sha256(found[name]).hexdigest(), "size": len(found[name])}
    assert {"onnx/model.onnx", "tokenizer.json", "README.md", "prompts/mpt.safetensors"} < set(found)
    assert 0 < manifest["parity"]["max_abs_difference"] < 1e-4
    assert manifest["parity"]["tolerance"] == 1e-4
    assert manifest["parity"]["cases"] == 4 * (9 + 1 + 1)
    assert manifest["backbone"]["fingerprint"] == tiny.fingerprint
    assert manifest["tokenizer"] == hashlib.sha256(found["tokenizer.json"]).hexdigest()
    entry = {"fingerprint": shared_prompt.fingerprint, "layout": "prefix", "length": 6}
    assert manifest["prompts"] == {"mpt": entry}
    sizes = [manifest[key] for key in ("prompt_length", "hidden_size", "layers", "heads", "head_size", "max_length")]
    assert sizes == [6, 32, 2, 4, 8, 48]
    assert (manifest["family"], manifest["pooling"], manifest["token_types"]) == ("encoder", "mean", True)
    assert (manifest["layout"], manifest["entry"], manifest["readout"]) == ("prefix", "first_layer", "similarity")


def test_vectors_are_copied_unchanged(tiny_bundle: Path, tiny_vectors: Path) -> None:
    given, found = contents(tiny_vectors), contents(tiny_bundle)
    assert {name: found[name] for name in given} == given


def test_readout_is_that_of_all_tasks(
    tiny: EncoderBackbone, tiny_vectors: Path, writer_bundle: Path, tmp_path: Path, quick: None
) -> None:
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    found = []
    for path in (vectors / "tasks").iterdir():
        replace(TaskFile.load(path), readout="embedding", labels=(), label_texts=()).save(path)
        found.append(export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b", force=True)).readout)
    assert found == ["similarity", "similarity", "embedding"]
    assert Bundle.open(writer_bundle).manifest.readout == "generation"  # some write, one chooses


def test_nothing_is_left_beside_the_bundle(tiny_bundle: Path) -> None:
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]
    assert tiny_bundle.stat().st_mode & 0o777 == 0o755


def test_card_lists_every_task(tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, quick: None) -> None:
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    path = vectors / "tasks/topic.safetensors"
    metrics = {"test": {"accuracy": 0.912, "macro_f1": 0.9, "rows": 500}, "probe": {"test": {"accuracy": 0.9}}}
    license, source = "CC-BY-4.0", {"source": "a made-up set"}
    replace(TaskFile.load(path), metrics=metrics, license=license, training=source).save(path)
    other = vectors / "tasks/sentiment.safetensors"
    replace(TaskFile.load(other), metrics={"test": {"accuracy": 0.5}}).save(other)
    export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b"))
    card = (tmp_path / "b/README.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| ")]
    by_name = {row[0]: row for row in rows}
    assert {"sentiment", "topic", "same"} <= set(by_name)
    assert by_name["topic"][1:] == ["3", "91.2", "90.0", "+1.2", "500", f"{path.stat().st_size:,}", license]
    assert by_name["same"][1:6] == ["2", "-", "-", "-", "-"]
    assert by_name["sentiment"][2:6] == ["50.0", "-", "-", "-"]
    assert "- topic: a made-up set" in card
    assert "base_model: tiny-bert" in card


def test_existing_bundle_is_refused(
    tiny: EncoderBackbone, tiny_vectors: Path, old: tuple[Path, dict[str, bytes]]
) -> None:
    folder, before = old
    with pytest.raises(InputError, match="already holds a bundle; pass --force"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], folder))
    assert contents(folder) == before


def test_output_that_is_a_file(tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "out", force=True))


def test_folder_with_other_things_in_it_is_refused(
    tiny: EncoderBackbone, tiny_vectors: Path, old: tuple[Path, dict[str, bytes]]
) -> None:
    folder, before = old
    (folder / "mine.txt").write_text("put here by hand")
    with pytest.raises(InputError, match=r"holds 'mine.txt', which is no part of a bundle"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], folder, force=True))
    assert contents(folder) == before | {"mine.txt": b"put here by hand"}


def test_force_replaces(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, old: tuple[Path, dict[str, bytes]], quick: None
) -> None:
    folder, _ = old
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    (vectors / "tasks/same.safetensors").unlink()
    stages: list[str] = []
    export_bundle(ExportPlan(tiny, [vectors], folder, force=True), stages.append)
    assert mpt_edge.load(folder, threads=1).tasks == ["sentiment", "topic"]
    assert not (folder / "tasks" / "retired.safetensors").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["old"]
    assert len(stages) == 4


def test_bundle_that_was_changed_is_exported_again(
    tiny: EncoderBackbone, tiny_bundle: Path, tmp_path: Path, quick: None
) -> None:
    """What an install replaced, and the lock of a process that died, do not stand in the way and are dropped."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    newer = replace(TaskFile.load(folder / "tasks/topic.safetensors"), version=2)
    newer.save(tmp_path / "topic.safetensors")
    Bundle.open(folder).install(tmp_path / "topic.safetensors")
    (folder / ".lock").touch()
    (folder / ".bundle.json.a1b2c3d4").touch()
    export_bundle(ExportPlan(tiny, [folder], folder, force=True))
    assert Bundle.open(folder).task("topic").version == 2
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_bundle.iterdir()}
    Bundle.open(folder).install(tmp_path / "topic.safetensors")


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


def off_by_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)


def not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = writing.OnnxEncoder._hidden
    monkeypatch.setattr(writing.OnnxEncoder, "_hidden", lambda *arguments: hidden(*arguments) * np.float32("nan"))


@pytest.mark.parametrize("wrong", [off_by_some, not_a_number])
def test_disagreement_leaves_nothing_behind(
    tiny: EncoderBackbone,
    tiny_vectors: Path,
    tmp_path: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[pytest.MonkeyPatch], None],
) -> None:
    wrong(monkeypatch)
    with pytest.raises(ParityError, match="no bundle was written"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "out" / "b"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_graph_with_other_weights_is_caught(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")

    def damaged(*arguments: object) -> None:
        model = onnx.load(tiny_bundle / MODEL)
        tensor = next(t for t in model.graph.initializer if list(t.dims) in ([32, 64], [64, 32]))
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[3, 5] += 0.5
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, arguments[-1])

    monkeypatch.setattr(writing, "export_encoder_graph", damaged)
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "out" / "b"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_the_exporter_cannot_follow(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages of traces become one sentence, and stay as the cause."""
    forward = PromptedEncoder.forward

    def by_value(self: PromptedEncoder, ids: torch.Tensor, *rest: object, **named: object) -> object:
        return forward(self, ids + 1 if ids.sum() > 0 else ids, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptedEncoder, "forward", by_value)
    with pytest.raises(UnsupportedModelError) as caught:
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "b"))
    assert str(caught.value).startswith("PyTorch cannot export the model as a graph, which an unusual entry")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("at", ["check_parity", "write_card", "export_encoder_graph", "_copy_vectors", "sha256"])
def test_crash_in_the_middle_keeps_the_old_bundle(
    tiny: EncoderBackbone,
    tiny_vectors: Path,
    old: tuple[Path, dict[str, bytes]],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    folder, before = old

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, at, crash)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(ExportPlan(tiny, [tiny_vectors], folder, force=True))
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_crash_while_folders_change_places_keeps_the_old_bundle(
    tiny: EncoderBackbone,
    tiny_vectors: Path,
    old: tuple[Path, dict[str, bytes]],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    folder, before = old
    rename, calls = Path.rename, []

    def crash(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(ExportPlan(tiny, [tiny_vectors], folder, force=True))
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["old"]


def test_what_killed_exports_left_is_removed_a_day_later(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, quick: None
) -> None:
    old, new = ".b.new-a1b2c3d4", ".b.new-e5f6g7h_"
    kept = [new, ".b.old-a1b2c3d4", ".b.new-mine", ".c.new-a1b2c3d4", ".b.new-q1b2c3d4"]
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    for name in (old, *kept):
        (tmp_path / name / "onnx").mkdir(parents=True)
        (tmp_path / name / "onnx" / "model.onnx_data").write_text("large")
        for path in (*(tmp_path / name).rglob("*"), tmp_path / name):
            os.utime(path, (two_days_ago, two_days_ago))
    (tmp_path / new / "onnx" / "more").touch()
    os.utime(tmp_path / ".b.new-q1b2c3d4" / "onnx" / "model.onnx_data")  # still being written, deep inside
    export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "b"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b", *kept])


def test_failing_last_rename_puts_the_old_bundle_back(
    tiny: EncoderBackbone,
    tiny_vectors: Path,
    old: tuple[Path, dict[str, bytes]],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, before = old
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".new-" in self.name and target == folder:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], folder, force=True))
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("kind", ["prompt", "task"])
def test_vectors_of_another_backbone_are_refused(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, kind: str
) -> None:
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    if kind == "prompt":
        path = vectors / "prompts/mpt.safetensors"
        replace(SharedPrompt.load(path), backbone="0" * 64).save(path)
    else:
        path = vectors / "tasks/topic.safetensors"
        replace(TaskFile.load(path), backbone="0" * 64).save(path)
    with pytest.raises(MismatchError) as caught:
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))
    assert f"the {kind} {path.stem!r} was made for another backbone than tiny-bert" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["prompts", "tasks"])
@pytest.mark.parametrize("stem", ["other", "with space"])
def test_file_of_another_name_than_what_it_holds_is_refused(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, kind: str, stem: str
) -> None:
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    held = {"prompts": "mpt", "tasks": "topic"}[kind]
    shutil.copyfile(vectors / kind / f"{held}.safetensors", vectors / kind / f"{stem}.safetensors")
    with pytest.raises(
        InputError, match=rf"{stem}\.safetensors holds '{held}'; rename the file to {held}\.safetensors"
    ):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))
    assert not (tmp_path / "out").exists()


def test_prompt_of_a_name_that_no_bundle_can_list_is_refused(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    replace(shared_prompt, name="my prompt").save(tmp_path / "v" / "prompts" / "my prompt.safetensors")
    with pytest.raises(InputError, match="holds 'my prompt', a name that no bundle can list"):
        export_bundle(ExportPlan(tiny, [tmp_path / "v"], tmp_path / "out" / "b"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [CONTEXT - 2, CONTEXT, CONTEXT + 40])
def test_prompt_that_leaves_no_text_any_room_is_refused(
    writer: GenerativeBackbone, tmp_path: Path, length: int
) -> None:
    values = np.zeros((length, writer.model.hidden_size), np.float16)
    SharedPrompt("mpt", values, "prefix", writer.fingerprint).save(tmp_path / "v/prompts/mpt.safetensors")
    with pytest.raises(InputError, match=f"a prompt takes {length} of them, .*; train it again with a lower --length"):
        export_bundle(ExportPlan(writer, [tmp_path / "v"], tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_prompt_of_an_encoder_takes_positions_where_peft_has_it(
    tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    values = np.zeros((46, tiny.model.hidden_size), np.float16)
    long = replace(shared_prompt, values=values, entry="inputs_embeds")
    long.save(tmp_path / "v/prompts/mpt.safetensors")
    with pytest.raises(InputError, match="has 48 positions and a prompt takes 46 of them"):
        export_bundle(ExportPlan(tiny, [tmp_path / "v"], tmp_path / "b"))


def test_prompt_that_leaves_room_for_one_token_is_exported(writer: GenerativeBackbone, tmp_path: Path) -> None:
    values = np.zeros((CONTEXT - 3, writer.model.hidden_size), np.float16)
    SharedPrompt("mpt", values, "prefix", writer.fingerprint).save(tmp_path / "v/prompts/mpt.safetensors")
    assert export_bundle(ExportPlan(writer, [tmp_path / "v"], tmp_path / "b")).max_length == 3


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_prompt_that_leaves_a_table_of_positions_room_for_one_text_is_exported(tmp_path: Path, kind: str) -> None:
    """Also the texts by which the graph is compared have to fit."""
    backbone = open_backbone(str(adapters.save_base(kind, tmp_path / kind)))
    values = np.zeros((backbone.model.max_positions - 3, backbone.model.hidden_size), np.float16)
    prompt = SharedPrompt("mpt", values, "prefix", backbone.fingerprint, entry="inputs_embeds")
    prompt.save(tmp_path / "v/prompts/mpt.safetensors")
    if isinstance(backbone, EncoderBackbone):
        task = make_task(backbone, prompt, "mood", {"bad": "bad", "good": "good"})
    else:
        task = text_task(backbone, prompt, "mood")
    task.save(tmp_path / "v/tasks/mood.safetensors")
    assert export_bundle(ExportPlan(backbone, [tmp_path / "v"], tmp_path / "b", precision="both")).max_length == 3


def test_task_without_its_shared_prompt_is_refused(tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path) -> None:
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    shutil.rmtree(vectors / "prompts")
    with pytest.raises(MismatchError, match=r"scales a shared prompt 'mpt' that is not here"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b"))
    changed = SharedPrompt.load(tiny_vectors / "prompts/mpt.safetensors")
    replace(changed, values=changed.values + np.float16(1)).save(vectors / "prompts/mpt.safetensors")
    with pytest.raises(MismatchError, match="'mpt'"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "b"))


def test_task_made_with_another_tokenizer_is_refused(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, quick: None
) -> None:
    vectors = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    path = vectors / "tasks/topic.safetensors"
    replace(TaskFile.load(path), tokenizer="0" * 64).save(path)
    with pytest.raises(MismatchError, match="tokenizer"):
        export_bundle(ExportPlan(tiny, [vectors], tmp_path / "out" / "b"))
