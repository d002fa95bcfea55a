"""Reading a bundle folder: nothing damaged, foreign or unlisted is used."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats import bundle_reader
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MANIFEST, MODEL, TOKENIZER, graph_names, weights_name
from mpt_edge.formats.manifest import Family, Manifest, Precision, read_manifest
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.bundles import PROMPT, TASK, edit, flip
from tests.support.encoders import make_task

LABELS = {"no": "bad", "yes": "good"}

MakeTask = Callable[..., Path]


def test_reads_what_was_exported(
    tiny_bundle: Path, tiny_vectors: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt
) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.tokenizer() == tiny.tokenizer_json
    prompt = bundle.prompt("mpt")
    np.testing.assert_array_equal(prompt.values, shared_prompt.values)
    assert prompt.fingerprint == shared_prompt.fingerprint == bundle.manifest.prompts["mpt"]["fingerprint"]
    assert bundle.task_names == ["same", "sentiment", "topic"]
    for name in bundle.task_names:
        original = TaskFile.load(tiny_vectors / "tasks" / f"{name}.safetensors")
        task = bundle.task(name)
        np.testing.assert_array_equal(task.u, original.u)
        np.testing.assert_array_equal(task.v, original.v)
        assert task.labels == original.labels


READERS: list[tuple[str, Callable[[Bundle], object]]] = [
    (TASK, lambda b: b.task("topic")),
    (PROMPT, lambda b: b.prompt("mpt")),
    (TOKENIZER, lambda b: b.tokenizer()),
    (MODEL, lambda b: b.verify(MODEL)),
]
each_file = pytest.mark.parametrize(("name", "reader"), READERS, ids=["task", "prompt", "tokenizer", "model"])


@each_file
@pytest.mark.parametrize("position", [0, 100, -1])
def test_tampered_byte(folder: Path, name: str, reader: Callable[[Bundle], object], position: int) -> None:
    reader(Bundle.open(folder))  # untouched it is read
    flip(folder / name, position)
    with pytest.raises(CorruptFileError, match=f"{name} is damaged"):
        reader(Bundle.open(folder))


@each_file
def test_missing_file(folder: Path, name: str, reader: Callable[[Bundle], object]) -> None:
    (folder / name).unlink()
    with pytest.raises(CorruptFileError, match=f"{name} is missing"):
        reader(Bundle.open(folder))


@each_file
@pytest.mark.parametrize("more", [True, False])
def test_wrong_size(folder: Path, name: str, reader: Callable[[Bundle], object], more: bool) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data + b" " if more else data[:-1])
    with pytest.raises(CorruptFileError, match=rf"{name} has {len(data) + (1 if more else -1):,} bytes instead of"):
        reader(Bundle.open(folder))


@each_file
def test_file_that_is_not_listed(folder: Path, name: str, reader: Callable[[Bundle], object]) -> None:
    edit(folder, lambda m: m["files"].pop(name))
    expected = UnknownTaskError if name == TASK else CorruptFileError
    with pytest.raises(expected, match="no task 'topic'" if name == TASK else f"does not list {name}"):
        reader(Bundle.open(folder))


@each_file
def test_link_to_a_file_elsewhere(folder: Path, tmp_path: Path, name: str, reader: Callable[[Bundle], object]) -> None:
    """Contents are hashed, so a link may lead anywhere."""
    outside = tmp_path / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    reader(Bundle.open(folder))
    flip(outside)
    with pytest.raises(CorruptFileError, match=f"{name} is damaged"):
        reader(Bundle.open(folder))
    outside.unlink()
    with pytest.raises(CorruptFileError, match=f"{name} is missing"):
        reader(Bundle.open(folder))


@pytest.mark.parametrize("name", ["tasks", "prompts", "onnx"])
def test_link_to_a_folder_elsewhere(folder: Path, tmp_path: Path, name: str) -> None:
    expected = mpt_edge.load(folder, threads=1).task("topic")("a film")
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert mpt_edge.load(folder, threads=1).task("topic")("a film") == expected


@each_file
@pytest.mark.parametrize("target", ["/dev/zero", ".", "loop"])
def test_link_to_no_file(folder: Path, name: str, target: str, reader: Callable[[Bundle], object]) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to((folder / name) if target == "loop" else target)
    with pytest.raises(CorruptFileError, match=rf"{name} (is missing|\(Too many levels of symbolic links\))"):
        reader(Bundle.open(folder))


def test_links_inside_and_to_the_bundle_are_fine(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / TASK, folder / "kept")
    (folder / TASK).symlink_to(folder / "kept")
    (tmp_path / "link").symlink_to(folder)
    assert Bundle.open(tmp_path / "link").task("topic").name == "topic"


def test_prompt_name_that_climbs_out(folder: Path) -> None:
    with pytest.raises(CorruptFileError, match="does not list"):
        Bundle.open(folder).prompt("../prompts/mpt")


def test_tampered_model_is_not_loaded(folder: Path) -> None:
    flip(folder / MODEL)
    with pytest.raises(CorruptFileError, match=r"model\.onnx is damaged"):
        mpt_edge.load(folder)


def test_model_that_is_no_graph(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"no graph")
    edit(folder, lambda m: m["files"][MODEL].update(size=8))
    with pytest.raises(CorruptFileError, match=r"model\.onnx is no ONNX graph \(wire type 6 is unknown\)"):
        mpt_edge.load(folder, verify=False)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="build it with `mpt-edge export"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleNotFoundError, match=r"pass the folder that holds bundle\.json"):
        Bundle.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        mpt_edge.load(tmp_path / "none")


@pytest.mark.parametrize(("asked", "near"), [("sentimen", "sentiment"), ("Topic", "topic"), ("topics", "topic")])
def test_unknown_task_names_the_nearest(tiny_bundle: Path, asked: str, near: str) -> None:
    with pytest.raises(UnknownTaskError, match=f"no task '{asked}' in .*did you mean '{near}'") as caught:
        Bundle.open(tiny_bundle).task(asked)
    assert caught.value.name == asked
    assert isinstance(caught.value, LookupError)


def test_unknown_task_lists_all_where_none_is_near(tiny_bundle: Path) -> None:
    for name in ("zzzz", "../../etc/passwd", ""):
        with pytest.raises(UnknownTaskError, match=r"it has same, sentiment, topic\."):
            Bundle.open(tiny_bundle).task(name)


def test_unknown_task_of_an_empty_bundle(folder: Path) -> None:
    bundle = Bundle.open(folder)
    for name in bundle.task_names:
        bundle.remove(name)
    with pytest.raises(UnknownTaskError, match="it has no tasks; add one with `mpt-edge tasks install FILE`"):
        bundle.task("topic")


FOREIGN: list[tuple[dict[str, object], str]] = [
    ({"backbone": "0" * 64}, "backbone than tiny-bert"),
    ({"tokenizer": "0" * 64}, "tokenizer"),
    ({"prompt_sha256": "0" * 64}, "shared prompt than this bundle's mpt"),
    ({"prompt": "other"}, "shared prompt than this bundle's mpt"),
    ({"v": np.ones(33, np.float16)}, "width than 32"),
]
foreign = pytest.mark.parametrize(
    ("changes", "says"), FOREIGN, ids=["backbone", "tokenizer", "prompt", "prompt name", "width"]
)


@foreign
def test_task_of_another_bundle_is_not_installed(
    folder: Path, task_file: MakeTask, changes: dict[str, object], says: str
) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(MismatchError, match=f"'fresh' was made for another {says}"):
        Bundle.open(folder).install_untested(task_file(**changes))
    assert (folder / MANIFEST).read_bytes() == before
    assert not (folder / "tasks" / "fresh.safetensors").exists()
    Bundle.open(folder).install_untested(task_file())  # without the change it is


@foreign
def test_task_of_another_bundle_that_lies_in_this_one(
    folder: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt, changes: dict[str, object], says: str
) -> None:
    path = folder / "tasks" / "fresh.safetensors"
    replace(make_task(tiny, shared_prompt, "fresh", LABELS), **changes).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"sha256": digest, "size": path.stat().st_size}
    edit(folder, lambda m: m["files"].update({"tasks/fresh.safetensors": entry}))
    edit(folder, lambda m: m["releases"].update(fresh={"version": 1, "sha256": digest}))
    with pytest.raises(MismatchError, match=f"made for another {says}"):
        Bundle.open(folder).task("fresh")


def test_own_prompt_needs_no_shared_one(folder: Path, task_file: MakeTask, shared_prompt: SharedPrompt) -> None:
    own = replace(shared_prompt, name="fresh", values=shared_prompt.values[::-1].copy())
    Bundle.open(folder).install_untested(task_file(own_prompt=own, prompt=None, prompt_sha256=None))
    task = Bundle.open(folder).task("fresh")
    assert not task.is_two_vectors
    assert task.own_prompt is not None
    np.testing.assert_array_equal(task.own_prompt.values, own.values)


def test_own_prompt_longer_than_the_room_for_positions(
    folder: Path, task_file: MakeTask, shared_prompt: SharedPrompt
) -> None:
    """Prompts in place of embeddings take positions from the text."""
    bundle = Bundle.open(folder)
    bundle.manifest = replace(bundle.manifest, placement=PEFT_PLACEMENT)
    for length in (bundle.manifest.prompt_length, bundle.manifest.prompt_length + 1):
        is_longer = length > bundle.manifest.prompt_length
        own = replace(shared_prompt, values=np.ones((length, 32), np.float16), placement=PEFT_PLACEMENT)
        path = task_file(own_prompt=own, u=np.ones(length, np.float16), prompt=None, prompt_sha256=None)
        with pytest.raises(MismatchError, match="room than 6 virtual tokens") if is_longer else nullcontext():
            bundle.check_fit(TaskFile.load(path))


@pytest.mark.parametrize(
    ("placement", "shape", "says"),
    [
        (Placement(position=PromptPosition.EMBEDDINGS), (6, 32), "position of its own prompt than 'first_layer'"),
        (Placement(position=PromptPosition.ALL_LAYERS), (6, 2, 32), "position of its own prompt than 'first_layer'"),
    ],
    ids=["embeddings", "all layers"],
)
def test_own_prompt_of_another_position(
    folder: Path,
    task_file: MakeTask,
    shared_prompt: SharedPrompt,
    placement: Placement,
    shape: tuple[int, ...],
    says: str,
) -> None:
    own = replace(shared_prompt, values=np.ones(shape, np.float16), placement=placement)
    with pytest.raises(MismatchError, match=says):
        Bundle.open(folder).install_untested(task_file(own_prompt=own))


def test_own_prompt_of_other_layers(folder: Path, task_file: MakeTask, shared_prompt: SharedPrompt) -> None:
    bundle, placement = Bundle.open(folder), Placement(position=PromptPosition.ALL_LAYERS)
    bundle.manifest = replace(bundle.manifest, placement=placement)
    for layers in (2, 3):
        own = replace(shared_prompt, values=np.ones((6, layers, 32), np.float16), placement=placement)
        path = task_file(own_prompt=own)
        with nullcontext() if layers == 2 else pytest.raises(MismatchError, match="number of layers than 2"):
            bundle.check_fit(TaskFile.load(path))


def test_precisions(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.precisions == [Precision.FLOAT32]
    assert bundle.choose_precision() is bundle.choose_precision("float32") is Precision.FLOAT32
    assert bundle.graph_files() == [MODEL, "onnx/model.onnx_data"]
    assert bundle.graphs(verify=False) == [folder / MODEL]
    with pytest.raises(InputError, match="no int8 graph, only float32; choose one, or export again"):
        bundle.choose_precision("int8")
    with pytest.raises(InputError, match="no half graph, only float32; choose one, or export again"):
        bundle.graphs("half")
    edit(folder, lambda m: m["files"].pop(MODEL))
    with pytest.raises(CorruptFileError, match="lists no graph"):
        Bundle.open(folder).choose_precision()


@pytest.mark.parametrize(
    ("family", "precision", "names"),
    [
        (Family.ENCODER, Precision.FLOAT32, ["onnx/model.onnx"]),
        (Family.CAUSAL, Precision.INT8, ["onnx/model_quantized.onnx"]),
        (Family.CAUSAL, Precision.INT4, ["onnx/model_q4.onnx"]),
        (
            Family.SEQ2SEQ,
            Precision.INT8,
            ["onnx/encoder_model_quantized.onnx", "onnx/decoder_model_quantized.onnx"],
        ),
    ],
)
def test_names_of_graphs(family: Family, precision: Precision, names: list[str]) -> None:
    assert graph_names(family, precision) == names
    assert weights_name(precision) == f"onnx/model{precision.suffix}.onnx_data"


def test_weights_are_checked_while_graphs_open(folder: Path) -> None:
    with Bundle.open(folder).opening_graphs() as (graph,):
        assert graph == folder / MODEL
    weights = folder / f"{MODEL}_data"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with Bundle.open(folder).opening_graphs(verify=False) as (graph,):
        assert graph == folder / MODEL
    opening = Bundle.open(folder).opening_graphs()
    assert opening.__enter__() == [folder / MODEL]  # the graph itself is as it was
    with pytest.raises(CorruptFileError, match=r"model\.onnx_data"):
        opening.__exit__(ValueError, ValueError("ONNX Runtime's own"), None)


def test_a_damaged_graph_is_not_opened(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[100] ^= 1
    (folder / MODEL).write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"model\.onnx"), Bundle.open(folder).opening_graphs():
        pytest.fail("the graph was opened")


@pytest.mark.parametrize(
    ("name", "is_there"),
    [("topic", True), ("Topic", False), ("", False), ("../tasks/topic", False), ("a/topic", False), (None, False)],
)
def test_tasks_that_are_there(tiny_bundle: Path, name: object, is_there: bool) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.has_task(name) is is_there  # type: ignore[arg-type]
    assert (name in bundle.task_names) is is_there


def test_manifest_is_read_again_only_where_its_file_changed(
    folder: Path, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = Bundle.open(folder), Bundle.open(folder)
    reads: list[Path] = []

    def counted(path: Path) -> Manifest:
        reads.append(path)
        return read_manifest(path)

    reader.reload()
    monkeypatch.setattr(bundle_reader, "read_manifest", counted)
    reader.reload()
    assert reads == []
    writer.install_untested(task_file("new"))
    reads.clear()
    reader.reload()
    reader.reload()
    assert len(reads) == 1
    assert reader.has_task("new")
    writer.remove("new")
    reader.reload()
    assert not reader.has_task("new")


def test_changed_manifest_of_the_same_size_and_time_is_read_again(folder: Path) -> None:
    """An editor that writes in place and restores the time leaves the time of the entry's change."""
    reader = Bundle.open(folder)
    reader.reload()
    path = folder / MANIFEST
    before = path.stat()
    flip(path, 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(CorruptFileError):
        reader.reload()


def test_missing_manifest_is_noticed(folder: Path) -> None:
    reader = Bundle.open(folder)
    reader.reload()
    (folder / MANIFEST).unlink()
    with pytest.raises(CorruptFileError):
        reader.reload()
