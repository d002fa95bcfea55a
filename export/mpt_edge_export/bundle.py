"""Writing a bundle: all parts are made in a hidden folder that becomes the bundle at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import mpt_edge
from mpt_edge._arrays import Floats
from mpt_edge._files import sha256, user_path
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle_reader import MODEL, TOKENIZER, graph_names, weights_name
from mpt_edge.formats.key_rotation import PinnedKeys
from mpt_edge.formats.manifest import (
    MANIFEST,
    FileEntry,
    GenerationFacts,
    Manifest,
    Precision,
    Release,
    read_manifest,
)
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.formats.public_keys import PREFIX
from mpt_edge.formats.signature import check_signature
from mpt_edge.formats.staging import check_output, replacing_folder
from mpt_edge.formats.vectors import releases_of
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, GenerativeBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.examples import TaskData
from mpt_edge_export.card import write_card
from mpt_edge_export.causal_graph import export_causal_graph
from mpt_edge_export.contents import Contents, check_room, collect, copy_files
from mpt_edge_export.dimensions import Dimensions, dimensions
from mpt_edge_export.encoder_graph import export_encoder_graph
from mpt_edge_export.held_out import check_held_out, with_losses
from mpt_edge_export.parity import check_parity, open_graph
from mpt_edge_export.quantize import quantize
from mpt_edge_export.quantized_parity import Comparison
from mpt_edge_export.seq2seq_graph import export_seq2seq_graphs
from mpt_edge_export.weights import save_graphs


@dataclass(frozen=True)
class ExportPlan:
    """Content and target of an export."""

    backbone: AnyBackbone
    """The frozen model."""
    vectors: Sequence[Path]
    """Folders with ``prompts/`` and ``tasks/``; later ones replace earlier ones."""
    output: Path
    """The bundle's folder."""
    _: KW_ONLY
    force: bool = False
    """Whether to replace a bundle that is already there."""
    precisions: Sequence[Precision] = (Precision.FLOAT32,)
    """Precisions of the bundle's graphs."""
    keys: PinnedKeys | None = None
    """Keys that the bundle pins; None for those of the bundle that is replaced, if it pins some."""
    held_out: Sequence[TaskData] = ()
    """Tasks whose loss is measured in each quantized precision."""


def export_bundle(plan: ExportPlan, observe: Callable[[str], None] = lambda _: None) -> Manifest:
    """Export the backbone once and write it with its prompts and tasks as one folder.

    The backbone is moved to the CPU, where its graph is traced and compared.

    Args:
        plan: content and target.
        observe: called with the name of each stage as it begins.

    Returns:
        The manifest as written.

    Raises:
        InputError: the output is in use, a vector file has a name that no bundle can list, a prompt leaves no
            room for a text, or a held-out task is none of the bundle's.
        MismatchError: a prompt or task belongs to another backbone.
        SignatureError: the bundle pins keys, and a task is not signed by any of them.
        UnsupportedModelError: the model cannot be exported.
        ParityError: the exported graph disagrees with PyTorch, or a quantized copy with it; nothing is
            written.
    """
    plan = replace(plan, output=user_path(plan.output), vectors=list(map(user_path, plan.vectors)))
    check_output(plan.output, force=plan.force)
    observe("reading prompts and tasks")
    plan = replace(plan, keys=plan.keys or _kept_keys(plan.output))
    contents = _collect(plan)
    check_held_out(plan.held_out, contents.tasks)
    plan.backbone.model.cpu()  # training may have left it on a GPU
    size = dimensions(plan.backbone)
    check_room(plan.backbone, contents)
    with replacing_folder(plan.output) as folder:
        observe("exporting the graph")
        (folder / "onnx").mkdir()
        _export(plan.backbone, size, contents.placement.position, folder / MODEL)
        (folder / TOKENIZER).write_bytes(plan.backbone.tokenizer_json)
        copy_files(plan.vectors, folder)
        manifest = _manifest(plan, size, contents)
        parity = _parity(plan, contents, folder, manifest, observe)
        if plan.held_out:
            observe("measuring tasks on held-out examples")
            _write_manifest(folder, replace(manifest, parity=parity))  # of all graphs, to open them
            parity = with_losses(parity, folder, plan.held_out, plan.precisions)
        if Precision.FLOAT32 not in plan.precisions:
            for name in (*graph_names(size.family, Precision.FLOAT32), weights_name(Precision.FLOAT32)):
                (folder / name).unlink()
        observe("writing the manifest")
        write_card(folder, manifest, contents.tasks)
        return _write_manifest(folder, replace(manifest, parity=parity))


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write a manifest that lists all files of a folder but itself, and return it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest = replace(manifest, files=_entries(folder))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _export(backbone: AnyBackbone, size: Dimensions, position: PromptPosition, path: Path) -> None:
    """Write the graph of the backbone's family, with the bundle's prompt position."""
    if isinstance(backbone, Seq2SeqBackbone):
        export_seq2seq_graphs(backbone.model, size, position, path.parent)
    elif isinstance(backbone, CausalBackbone):
        export_causal_graph(backbone.model, size, position, path)
    else:
        export_encoder_graph(backbone.model, size, position, path)


def _parity(
    plan: ExportPlan, contents: Contents, folder: Path, manifest: Manifest, observe: Callable[[str], None]
) -> dict[str, Any]:
    """Compare the float32 graphs with PyTorch, and make and compare quantized ones if asked for. Raises ParityError."""
    observe("comparing with PyTorch")
    prompts = contents.composed(manifest)
    exact = open_graph(folder, manifest, Precision.FLOAT32)
    parity = check_parity(plan.backbone, exact, prompts, contents.placement.position)
    del exact  # ONNX Runtime holds a copy of the weights, which quantizing has no room for
    for precision in plan.precisions:
        if precision is not Precision.FLOAT32:
            observe(f"quantizing the graph to {precision}")
            parity[precision.value] = _quantize(plan.backbone, folder, manifest, prompts, precision)
    return parity


def _quantize(
    backbone: AnyBackbone, folder: Path, manifest: Manifest, prompts: Sequence[Floats], precision: Precision
) -> dict[str, Any]:
    """Write graphs of a precision beside the float32 ones and compare them. Raises ParityError."""
    names = (graph_names(manifest.family, each) for each in (Precision.FLOAT32, precision))
    graphs = {
        folder / small: quantize(folder / name, precision, manifest.family) for name, small in zip(*names, strict=True)
    }
    save_graphs(graphs, folder / weights_name(precision))
    exact, quantized = (open_graph(folder, manifest, each) for each in (Precision.FLOAT32, precision))
    vocabulary = int(backbone.model.model.config.vocab_size)
    return Comparison(precision, exact, quantized, vocabulary=vocabulary, manifest=manifest).measure(prompts)


def _collect(plan: ExportPlan) -> Contents:
    """Return prompts and tasks. Raises SignatureError for a task that none of the pinned keys signed."""
    contents = collect(plan.vectors, plan.backbone)
    if plan.keys is not None:
        for task in contents.tasks.values():
            check_signature(task.name, task.signature, plan.keys.keys)
    return contents


def _kept_keys(output: Path) -> PinnedKeys | None:
    """Return the keys of a bundle that is there. Raises InputError where it has some that cannot be read."""
    path = output / MANIFEST
    if not path.is_file():
        return None
    try:
        return read_manifest(path).keys
    except CorruptFileError as error:
        if PREFIX.encode() not in path.read_bytes():
            return None
        raise InputError(f"{path} is damaged, and the bundle pins keys; name them with --pin-key.") from error


def _entries(folder: Path) -> Mapping[str, FileEntry]:
    """Return hash and size of every file in a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _releases(plan: ExportPlan, contents: Contents) -> dict[str, Release]:
    """Return the releases of an export: its tasks', and those above them in the bundle that it replaces."""
    releases = releases_of(contents.tasks.values())
    try:
        replaced = read_manifest(plan.output / MANIFEST)
    except CorruptFileError:  # there is none, or it lists nothing that can be used
        return releases
    if replaced.backbone.get("fingerprint") == plan.backbone.fingerprint:
        for name, release in replaced.releases.items():
            if name not in releases or release["version"] > releases[name]["version"]:
                releases[name] = release
    return dict(sorted(releases.items()))


def _manifest(plan: ExportPlan, size: Dimensions, contents: Contents) -> Manifest:
    """Describe the bundle, before its files and parity are known."""
    backbone, placement = plan.backbone, contents.placement
    encoder = backbone if isinstance(backbone, EncoderBackbone) else None
    takes_room = encoder is None or placement.takes_positions
    room = backbone.model.max_positions - contents.max_length if takes_room else backbone.max_length
    return Manifest(
        name=plan.output.resolve().name,
        family=size.family,
        head_type=contents.head_type,
        placement=placement,
        prompt_length=contents.max_length if takes_room else contents.shared_length,
        hidden_size=size.hidden_size,
        layers=size.layers,
        heads=size.heads,
        head_size=size.head_size,
        pooling=encoder.pooling if encoder else None,
        token_types=encoder is not None and encoder.model.token_types,
        max_length=min(backbone.max_length, room),
        pad_id=backbone.pad_id,
        backbone=_origin(backbone),
        tokenizer=backbone.texts.fingerprint,
        prompts={
            name: {"fingerprint": prompt.fingerprint, "layout": prompt.placement.layout, "length": prompt.length}
            for name, prompt in contents.prompts.items()
        },
        parity={},
        files={},
        releases=_releases(plan, contents),
        made_by=f"mpt-edge {mpt_edge.__version__}",
        keys=plan.keys,
        generation=None if isinstance(backbone, EncoderBackbone) else _generation(backbone, placement.position),
        mask=encoder.mask if encoder else None,
    )


def _origin(backbone: AnyBackbone) -> dict[str, str]:
    entries = {
        "id": backbone.id,
        "file": backbone.file,
        "revision": backbone.revision,
        "license": backbone.license,
        "fingerprint": backbone.fingerprint,
    }
    return {name: value for name, value in entries.items() if value is not None}


def _generation(backbone: GenerativeBackbone, position: PromptPosition) -> GenerationFacts:
    return GenerationFacts(
        eos_ids=backbone.eos_ids,
        vocabulary=int(backbone.model.model.config.vocab_size),
        context=backbone.max_length,
        positions_from_zero=backbone.model.positions_from_zero(position),
        start_id=backbone.model.start_id if isinstance(backbone, Seq2SeqBackbone) else None,
    )
