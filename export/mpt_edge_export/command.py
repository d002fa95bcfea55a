"""What `mpt-edge export` and `optimum-cli export mpt-edge` both do."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from mpt_edge.errors import InputError
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.vectors import VectorFolder, task_names
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.backbones.sources import PACKAGED
from mpt_edge_export.bundle import ExportPlan, check_output, export_bundle


def export_command(
    source: str,
    output: Path,
    vectors: Sequence[Path],
    *,
    revision: str | None = None,
    force: bool = False,
    precision: str = "float32",
) -> None:
    """Export a backbone with its vectors, telling each stage on the error stream.

    Without ``vectors``, those that already lie in ``output`` are kept; the packaged backbone
    otherwise gets the vectors that this package ships.

    Raises:
        InputError: a vectors folder holds nothing, or the output is in use.
    """
    check_output(output, force=force)  # before the backbone, which takes longer
    console = Console(stderr=True)
    with console.status("loading the backbone") as status:

        def observe(stage: str) -> None:
            status.update(stage)
            if not console.is_terminal:
                console.print(f"{stage} …", highlight=False)

        backbone = open_backbone(source, revision)
        folders = _vectors(source, output, vectors)
        plan = ExportPlan(backbone, folders, output, force=force, precision=precision)
        manifest = export_bundle(plan, observe)
    size = sum(entry["size"] for name, entry in manifest.files.items() if name.startswith("onnx/"))
    count = len(task_names(manifest.files))
    tasks = "1 task" if count == 1 else f"{count} tasks"
    Console().print(
        f"{output}: {manifest.backbone['id']}, {size / 1e6:.1f} MB, {tasks}; ONNX Runtime agrees with PyTorch "
        f"to {manifest.parity['max_abs_difference']:.1e} over {manifest.parity['cases']} cases.{_moved(manifest)}",
        markup=False,  # a folder's name may hold brackets
        highlight=False,
        soft_wrap=True,
    )


def _moved(manifest: Manifest) -> str:
    """Say how far int8 moves what texts are read as."""
    if "int8" not in manifest.parity:
        return ""
    return f" int8 against float32: cosine {manifest.parity['int8']['min_cosine']} or more on random texts."


def _vectors(source: str, output: Path, given: Sequence[Path]) -> list[Path]:
    for folder in given:
        if not VectorFolder(folder).files:
            raise InputError(f"{folder} holds neither prompts/ nor tasks/; pass the output folder of a training run.")
    kept = [output] if VectorFolder(output).files else []
    if kept or given:
        return [*kept, *given]
    package = Path(str(files("mpt_edge_export")))
    places = (package / "vectors" / source, package.parents[1] / "models" / source)  # in a wheel, in a checkout
    return [place for place in places if source in PACKAGED and place.is_dir()][:1]
