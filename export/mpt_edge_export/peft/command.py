"""What `mpt-edge import peft` and `mpt-edge export-peft` do."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import MANIFEST, Bundle
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export.peft.adapter import CONFIG, read_adapter
from mpt_edge_export.peft.caikit import is_caikit, read_caikit
from mpt_edge_export.peft.importing import Imported, ImportOptions, import_adapter


def task_names(given: Sequence[str]) -> dict[str, int]:
    """Return names and ids of ``name=id`` options.

    Raises:
        InputError: one is not of that form, or a name comes twice.
    """
    found: dict[str, int] = {}
    for text in given:
        name, equals, index = text.rpartition("=")
        if not equals or not index.isascii() or not index.isdigit():
            raise InputError(f"--task {text} is not understood; write --task NAME=ID, such as --task sst2=0.")
        if name in found:
            raise InputError(f"--task {name} is given twice; give each task its own name.")
        found[name] = int(index)
    return found


def import_command(
    adapter: str, backbone: str, output: Path, options: ImportOptions, *, revision: str | None = None
) -> Imported:
    """Import an adapter into a folder of vectors, or into a bundle that is already there.

    Raises:
        InputError: nothing is found, or an option cannot be used.
        CorruptFileError: the adapter is damaged.
        MismatchError: it does not belong to the backbone or the bundle.
        UnsupportedModelError: it cannot be used here.
    """
    folder = Path(adapter).expanduser()
    folded = is_caikit(folder) and not (folder / CONFIG).is_file()
    # before the backbone, which takes longer
    read = read_caikit(folder) if folded else read_adapter(adapter, revision)
    imported = import_adapter(read, open_backbone(backbone), options)
    if (output / MANIFEST).is_file():
        _install(imported, Bundle.open(output))
    else:
        imported.save(output)
    return imported


def _install(imported: Imported, bundle: Bundle) -> None:
    """Add tasks to a bundle whose graph reads prompts as PEFT does."""
    shared = imported.prompt
    known = bundle.manifest.prompts.get(shared.name) if shared else None
    with tempfile.TemporaryDirectory() as folder:
        vectors = VectorFolder(Path(folder))
        for task in imported.tasks:
            alone = shared is not None and (known is None or shared.fingerprint != known["fingerprint"])
            bundle.install(vectors.save(_with_own_prompt(task, shared) if shared and alone else task))


def _with_own_prompt(task: TaskFile, shared: SharedPrompt) -> TaskFile:
    """Let a task carry its prompt, since a bundle's shared prompts are fixed when it is exported."""
    return replace(
        task,
        prompt="",
        prompt_sha256="",
        own_prompt=shared.values,
        layout=shared.layout,
        entry=shared.entry,
        head=shared.head,
    )
