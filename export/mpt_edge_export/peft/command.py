"""The work of `mpt-edge import peft`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpt_edge._files import user_path
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.loading import open_model
from mpt_edge.inference.model import Model
from mpt_edge.inference.self_test import record_example
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export.peft.adapter import CONFIG, read_adapter
from mpt_edge_export.peft.caikit import is_caikit, read_caikit
from mpt_edge_export.peft.importing import Imported, ImportOptions, import_adapter


def task_ids(given: Sequence[str]) -> dict[str, int]:
    """Return task ids by name from ``name=id`` options.

    Raises:
        InputError: one is not of that form, or a name comes twice.
    """
    result: dict[str, int] = {}
    for text in given:
        name, equals, index = text.rpartition("=")
        if not equals or not index.isascii() or not index.isdigit():
            raise InputError(f"--task {text} is not understood; write --task NAME=ID, such as --task sst2=0.")
        if name in result:
            raise InputError(f"--task {name} is given twice; give each task its own name.")
        result[name] = int(index)
    return result


def import_command(
    adapter: str, backbone: str, output: Path, options: ImportOptions, *, revision: str | None = None
) -> Imported:
    """Import an adapter into a folder of vectors, or into a bundle that is already there.

    Raises:
        InputError: there is no such adapter or backbone, or an option cannot be used.
        CorruptFileError: the adapter is damaged.
        MismatchError: it does not belong to the backbone or the bundle.
        UnsupportedModelError: its method or architecture is not supported.
    """
    folder = user_path(adapter)
    is_folded = is_caikit(folder) and not (folder / CONFIG).is_file()
    # Before the backbone, which takes longer to read.
    peft_adapter = read_caikit(folder) if is_folded else read_adapter(adapter, revision)
    imported = import_adapter(peft_adapter, open_backbone(backbone), options)
    if (output / MANIFEST).is_file():
        _install(imported, Bundle.open(output))
    else:
        imported.save(output)
    return imported


def _install(imported: Imported, bundle: Bundle) -> None:
    """Add tasks to a bundle whose graph has PEFT's prompt position."""
    shared = imported.prompt
    listed = bundle.manifest.prompts.get(shared.name) if shared else None
    is_new = shared is not None and (listed is None or shared.fingerprint != listed["fingerprint"])
    model = open_model(bundle)
    with tempfile.TemporaryDirectory() as folder:
        vectors = VectorFolder(Path(folder))
        tasks = [_with_own_prompt(task, shared) if shared and is_new else task for task in imported.tasks]
        model.install(*(vectors.save(_with_example(task, model, vectors)) for task in tasks))


def _with_example(task: TaskFile, model: Model, vectors: VectorFolder) -> TaskFile:
    """Record a reference example, since an adapter has no data."""
    added = model.add_task(vectors.save(task))
    return replace(task, reference_example=record_example(added))


def _with_own_prompt(task: TaskFile, shared: SharedPrompt) -> TaskFile:
    """Let a task carry its prompt, since a bundle's shared prompts are fixed when it is exported."""
    return replace(task, prompt=None, prompt_sha256=None, own_prompt=replace(shared, name=task.name))
