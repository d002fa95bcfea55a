"""The work of `mpt-edge export` and `optimum-cli export mpt-edge`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from mpt_edge._console import PlainConsole
from mpt_edge._files import user_path
from mpt_edge.errors import InputError
from mpt_edge.formats.key_rotation import PinnedKeys, sequence_now
from mpt_edge.formats.manifest import Manifest, Precision
from mpt_edge.formats.staging import check_output
from mpt_edge.formats.vectors import VectorFolder, task_names
from mpt_edge.training.backbones.locating import PACKAGED
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export.bundle import ExportPlan, export_bundle
from mpt_edge_export.held_out import load_held_out, rise_warnings
from mpt_edge_export.quantized_parity import loss_warning

#: Precisions by the value of ``--precision``.
PRECISIONS = {
    **{precision.value: (precision,) for precision in Precision},
    "both": (Precision.FLOAT32, Precision.INT8),
    "all": tuple(Precision),
}


def export_command(
    source: str,
    output: Path,
    vectors: Sequence[Path],
    *,
    revision: str | None = None,
    force: bool = False,
    precision: str = "float32",
    pin_keys: Sequence[str] = (),
    held_out: Sequence[Path] = (),
    data: Path = Path(),
) -> None:
    """Export a backbone with its vectors, and report each stage on the error stream.

    Without ``vectors``, those that ``output`` already holds are kept. The packaged backbone otherwise
    gets the vectors that this package ships.

    Args:
        source: short name, folder, GGUF file or hub id of the backbone.
        output: the bundle's folder.
        vectors: folders with ``prompts/`` and ``tasks/``.
        revision: revision of a hub model.
        force: whether to replace a bundle that is already there.
        precision: a key of `PRECISIONS`.
        pin_keys: public keys that the bundle pins; none for those of the bundle that is replaced.
        held_out: recipes of tasks whose loss is measured in each quantized precision.
        data: folder that the recipes' paths are relative to.

    Raises:
        InputError: a vectors folder is empty, the output is in use, a key is none, a recipe fits no task, or there
            is no quantized graph to measure.
    """
    output, vectors = user_path(output), list(map(user_path, vectors))
    check_output(output, force=force)  # before the backbone, which takes longer
    keys = PinnedKeys.of(pin_keys, sequence_now()) if pin_keys else None
    if held_out and PRECISIONS[precision] == (Precision.FLOAT32,):
        raise InputError("--held-out compares quantized graphs with float32; add --precision int8, int4, both or all.")
    measured = load_held_out(held_out, data)
    console = PlainConsole(stderr=True)
    with console.status("loading the backbone") as status:

        def observe(stage: str) -> None:
            status.update(stage)
            if not console.is_terminal:
                console.print(f"{stage} …")

        backbone = open_backbone(source, revision)
        folders = _vectors(source, output, vectors)
        plan = ExportPlan(
            backbone, folders, output,
            force=force, precisions=PRECISIONS[precision], keys=keys, held_out=measured,
        )  # fmt: skip
        manifest = export_bundle(plan, observe)
    for name in filter(manifest.parity.__contains__, Precision):
        parity = manifest.parity[name]
        for warning in filter(None, [loss_warning(name, parity), *rise_warnings(name, parity)]):
            console.print(warning, soft_wrap=True)
    PlainConsole().print(f"{output}: {_summary(manifest)}", soft_wrap=True)


def _summary(manifest: Manifest) -> str:
    """Return model, size, tasks and parity of a bundle in one line."""
    size = sum(entry["size"] for name, entry in manifest.files.items() if name.startswith("onnx/"))
    count = len(task_names(manifest.files))
    tasks = "1 task" if count == 1 else f"{count} tasks"
    parity = manifest.parity
    line = (
        f"{manifest.backbone['id']}, {size / 1e6:.1f} MB, {tasks}; ONNX Runtime agrees with PyTorch "
        f"to {parity['max_abs_difference']:.1e} over {parity['cases']} cases."
    )
    for name in (Precision.INT8, Precision.INT4):
        if name in parity:
            line += f" {name} against float32: cosine {parity[name]['min_cosine']} or more on random texts"
            equal = parity[name].get("equal_next_tokens")
            line += "." if equal is None else f", {100 * equal:.0f} % of next tokens equal."
    return line


def _vectors(source: str, output: Path, given: Sequence[Path]) -> list[Path]:
    """Return the folders whose vectors go into the bundle. Raises InputError."""
    for folder in given:
        if not VectorFolder(folder).files:
            raise InputError(f"{folder} holds neither prompts/ nor tasks/; pass the output folder of a training run.")
    kept = [output] if VectorFolder(output).files else []
    if kept or given:
        return [*kept, *given]
    package = Path(str(files("mpt_edge_export")))
    shipped = (package / "vectors" / source, package.parents[1] / "models" / source)  # in a wheel, in a checkout
    return [folder for folder in shipped if source in PACKAGED and folder.is_dir()][:1]
