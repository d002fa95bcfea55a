"""Writing a bundle: everything is made in a hidden folder that becomes the bundle at the end."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import mpt_edge
from mpt_edge._files import sha256
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.bundle import MANIFEST, MODEL, TOKENIZER, graph_names, weights_name
from mpt_edge.formats.manifest import FileEntry, GenerationFacts, Manifest
from mpt_edge.formats.prompts import Entry, Layout, SharedPrompt, compose
from mpt_edge.formats.taskfile import NAME, TaskFile
from mpt_edge.formats.vectors import PROMPTS, TASKS, VectorFolder
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import CausalBackbone, GenerativeBackbone, Seq2SeqBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge_export.card import write_card
from mpt_edge_export.causal_graph import export_causal_graph
from mpt_edge_export.dimensions import Dimensions, dimensions
from mpt_edge_export.encoder_graph import export_encoder_graph
from mpt_edge_export.parity import check_parity, check_text_parity
from mpt_edge_export.quantize import Graph, check_quantized, quantize
from mpt_edge_export.seq2seq_graph import export_seq2seq_graphs
from mpt_edge_export.weights import save_graphs

#: What a bundle's folder may hold. `previous`, the files that installs replaced, is dropped by an export on purpose: it
#: may bring other prompts, which those files do not fit, and the bundle begins anew with nothing to roll back. So is
#: `.lock`: an install holds it for a moment only, and a lock found here was left by a process that died.
_PARTS = {MANIFEST, TOKENIZER, "onnx", PROMPTS, TASKS, "README.md", "previous", ".lock"}

#: Seconds without a change after which a folder in the making is taken for one of an export that was killed.
_FORSAKEN = 24 * 60 * 60

_Vectors = TypeVar("_Vectors", SharedPrompt, TaskFile)


@dataclass(frozen=True)
class ExportPlan:
    """What goes into a bundle.

    Attributes:
        backbone: the frozen model.
        vectors: folders with ``prompts/`` and ``tasks/``, later ones replacing earlier ones.
        output: the bundle's folder.
        force: replace a bundle that is already there.
        precision: ``"float32"``, ``"int8"`` for a quantized graph alone, or ``"both"``.
    """

    backbone: AnyBackbone
    vectors: Sequence[Path]
    output: Path
    _: KW_ONLY
    force: bool = False
    precision: str = "float32"


def export_bundle(plan: ExportPlan, observe: Callable[[str], None] = lambda _: None) -> Manifest:
    """Export the backbone once and write it with its prompts and tasks as one folder.

    The backbone is moved to the CPU, where its graph is traced and compared.

    Args:
        plan: what goes in, and where it goes.
        observe: told the name of each stage as it begins.

    Returns:
        The manifest written.

    Raises:
        InputError: the output is in use, a file of vectors has a name that no bundle can list, or a prompt leaves no
            room for a text.
        MismatchError: a prompt or task belongs to another backbone.
        ParityError: the exported graph disagrees with PyTorch, or its int8 copy with it; nothing is written.
    """
    check_output(plan.output, force=plan.force)
    observe("reading prompts and tasks")
    prompts, tasks = _collect(plan)
    plan.backbone.model.cpu()  # training may have left it on a GPU
    size = dimensions(plan.backbone)
    place = _placement(prompts, tasks)
    _check_room(plan.backbone, place)
    with _replacing_folder(plan.output) as folder:
        observe("exporting the graph")
        (folder / "onnx").mkdir()
        _export(plan.backbone, size, place.entry, folder / MODEL)
        (folder / TOKENIZER).write_bytes(plan.backbone.tokenizer_json)
        _copy_vectors(plan, folder)
        manifest = _manifest(plan, size, place, prompts, tasks)
        observe("comparing with PyTorch")
        composed = _composed(prompts, tasks, manifest)
        parity = _parity(plan.backbone, _session(folder, manifest), manifest, composed)
        if plan.precision != "float32":
            observe("quantizing the graph")
            parity["int8"] = _quantized(plan.backbone, folder, manifest, composed)
        if plan.precision == "int8":
            for name in (*graph_names(size.family, "float32"), weights_name("float32")):
                (folder / name).unlink()
        observe("writing the manifest")
        write_card(folder, manifest, tasks)
        files = {
            path.relative_to(folder).as_posix(): FileEntry(sha256=sha256(path), size=path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        manifest = replace(manifest, files=files, parity=parity)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _export(backbone: AnyBackbone, size: Dimensions, entry: Entry, path: Path) -> None:
    """Write the graph of the backbone's family, with prompts entering where the bundle's do."""
    if isinstance(backbone, Seq2SeqBackbone):
        export_seq2seq_graphs(backbone.model, size.heads, size.head_size, entry, path.parent)
    elif isinstance(backbone, CausalBackbone):
        export_causal_graph(backbone.model, size.heads, size.head_size, entry, path)
    else:
        export_encoder_graph(backbone.model, size.heads, size.head_size, entry, path)


def _session(folder: Path, manifest: Manifest, precision: str = "float32") -> Graph:
    """Open the graphs just written."""
    family = {"encoder": OnnxEncoder, "causal": OnnxCausal, "seq2seq": OnnxSeq2Seq}[manifest.family]
    session: Graph = family(*(folder / name for name in graph_names(manifest.family, precision)), manifest)
    return session


def _parity(
    backbone: AnyBackbone,
    session: Graph,
    manifest: Manifest,
    prompts: list[np.ndarray[Any, np.dtype[np.float32]]],
) -> dict[str, Any]:
    """Hold the graph against PyTorch. Raises ParityError."""
    if isinstance(backbone, EncoderBackbone):
        assert isinstance(session, OnnxEncoder)
        return check_parity(backbone, session, prompts, manifest.entry)
    assert not isinstance(session, OnnxEncoder)
    return check_text_parity(backbone, session, prompts, manifest.entry)


def _quantized(
    backbone: AnyBackbone,
    folder: Path,
    manifest: Manifest,
    prompts: list[np.ndarray[Any, np.dtype[np.float32]]],
) -> dict[str, Any]:
    """Write the int8 graphs beside the float32 ones and compare them. Raises ParityError."""
    names = (graph_names(manifest.family, precision) for precision in ("float32", "int8"))
    graphs = {folder / small: quantize(folder / name) for name, small in zip(*names, strict=True)}
    save_graphs(graphs, folder / weights_name("int8"))
    exact, quantized = (_session(folder, manifest, precision) for precision in ("float32", "int8"))
    vocabulary = int(backbone.model.model.config.vocab_size)
    facts: dict[str, Any] = {"vocabulary": vocabulary, "pooling": manifest.pooling, "longest": manifest.max_length}
    return check_quantized(exact, quantized, prompts, **facts)


def check_output(output: Path, *, force: bool) -> None:
    """Check that a bundle may be written to a folder, which is then replaced whole.

    Args:
        output: the folder, which need not be there.
        force: whether a bundle that is there may be replaced.

    Raises:
        InputError: it holds a bundle, or something that is no part of one, or it is a file.
    """
    if (output / MANIFEST).exists() and not force:
        raise InputError(f"{output} already holds a bundle; pass --force to replace it.")
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file; pass a folder.")
    names = sorted(path.name for path in output.iterdir())
    # An install that was killed may have left a manifest half written beside the lock.
    foreign = [name for name in names if name not in _PARTS and not name.startswith(f".{MANIFEST}.")]
    if foreign:
        raise InputError(f"{output} holds {foreign[0]!r}, which is no part of a bundle; pass a new or empty folder.")


def _collect(plan: ExportPlan) -> tuple[dict[str, SharedPrompt], dict[str, TaskFile]]:
    """Read all vectors and check their names, and that they belong to the backbone and to each other."""
    prompts: dict[str, SharedPrompt] = {}
    tasks: dict[str, TaskFile] = {}
    for vectors in map(VectorFolder, plan.vectors):
        prompts |= {name: _named(vectors.prompt_path(name), item) for name, item in vectors.prompts().items()}
        tasks |= {name: _named(vectors.task_path(name), item) for name, item in vectors.tasks().items()}
    fingerprint, id_ = plan.backbone.fingerprint, plan.backbone.id
    for kind, items in (("prompt", prompts), ("task", tasks)):
        for name, item in items.items():
            if item.backbone != fingerprint:
                raise MismatchError(f"the {kind} {name!r} was made for another backbone than {id_}; leave it out.")
    for name, task in tasks.items():
        if task.tokenizer != plan.backbone.texts.fingerprint:
            raise MismatchError(f"the task {name!r} was made for another tokenizer than {id_}'s; leave it out.")
        shared = prompts.get(task.prompt)
        if task.two_vectors and (shared is None or shared.fingerprint != task.prompt_sha256):
            raise MismatchError(
                f"the task {name!r} scales a shared prompt {task.prompt!r} that is not here; pass its folder too."
            )
    return prompts, tasks


def _named(path: Path, item: _Vectors) -> _Vectors:
    """Return what a file holds if it goes by the same name inside and out, one that a bundle can list.

    Raises:
        InputError: it does not; the bundle could not be opened.
    """
    if NAME.fullmatch(item.name) is None:
        raise InputError(f"{path} holds {item.name!r}, a name that no bundle can list; train or import it anew.")
    if item.name != path.stem:
        raise InputError(f"{path} holds {item.name!r}; rename the file to {item.name}{path.suffix}, or leave it out.")
    return item


def _copy_vectors(plan: ExportPlan, folder: Path) -> None:
    for source in plan.vectors:
        for path in VectorFolder(source).files:
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def _composed(
    prompts: dict[str, SharedPrompt], tasks: dict[str, TaskFile], manifest: Manifest
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the prompts of all tasks; a random one where the bundle has none."""
    found = [
        compose(prompts[task.prompt].values if task.own_prompt is None else task.own_prompt, task.u, task.v)
        for task in tasks.values()
    ]
    rows = max(1, min(10, manifest.max_length // 2))  # of a model with hardly any positions, fewer
    return found or [np.random.default_rng(0).standard_normal(manifest.prompt_shape(rows)).astype(np.float32)]


@dataclass(frozen=True)
class _Placement:
    """How a bundle's prompts meet the text, and how long they are."""

    layout: Layout = Layout.PREFIX
    entry: Entry = Entry.FIRST_LAYER
    length: int = 0
    longest: int = 0


def _placement(prompts: dict[str, SharedPrompt], tasks: dict[str, TaskFile]) -> _Placement:
    """Return where prompts enter, which one graph has in one place only.

    Raises:
        MismatchError: some prompts enter in one place and some in another.
    """
    own = {name: whole for name, task in tasks.items() if (whole := task.whole_prompt()) is not None}
    every = [*prompts.values(), *own.values()]
    entries = {prompt.name: prompt.entry for prompt in every}
    if len(set(entries.values())) > 1:
        (one, first), (other, second) = list({entry: name for name, entry in entries.items()}.items())[:2]
        raise MismatchError(
            f"the prompt of {first!r} enters at {one} and that of {second!r} at {other}, and a graph has one place; "
            "export them into two bundles."
        )
    if not every:
        return _Placement()
    return _Placement(
        layout=every[0].layout,
        entry=every[0].entry,
        length=len(every[0].values) if prompts else 0,
        longest=max(len(prompt.values) for prompt in every),
    )


def _check_room(backbone: AnyBackbone, place: _Placement) -> None:
    """Refuse prompts that leave no text any room, before the graph is exported. Raises InputError."""
    if isinstance(backbone, EncoderBackbone):
        if place.entry != Entry.INPUTS_EMBEDS:  # other prompts take no positions of an encoder's
            return
        least = len(backbone.texts.encode(["a"], backbone.max_length)[0].ids)
    else:
        least = 3  # a token of text, and two that follow it, by which the graph is compared
    room = backbone.model.max_positions - place.longest
    if room < least:
        raise InputError(
            f"{backbone.id} has {backbone.model.max_positions} positions and a prompt takes {place.longest} of them, "
            "which leaves no text any room; train it again with a lower --length."
        )


def _manifest(
    plan: ExportPlan,
    size: Dimensions,
    place: _Placement,
    prompts: dict[str, SharedPrompt],
    tasks: dict[str, TaskFile],
) -> Manifest:
    backbone = plan.backbone
    generates = isinstance(backbone, GenerativeBackbone)
    behind = place.entry == Entry.INPUTS_EMBEDS or generates  # the prompt then takes room from the text
    room = backbone.model.max_positions - place.longest if behind else backbone.max_length
    readouts = {task.readout for task in tasks.values()}
    return Manifest(
        name=plan.output.resolve().name,
        family=size.family,
        readout=readouts.pop() if len(readouts) == 1 else "generation" if generates else "similarity",
        layout=place.layout,
        entry=place.entry,
        prompt_length=place.longest if behind else place.length,
        hidden_size=size.hidden_size,
        layers=size.layers,
        heads=size.heads,
        head_size=size.head_size,
        pooling="none" if isinstance(backbone, GenerativeBackbone) else backbone.pooling,
        token_types=not isinstance(backbone, GenerativeBackbone) and backbone.model.token_types,
        max_length=min(backbone.max_length, room),
        pad_id=backbone.pad_id,
        backbone={
            "id": backbone.id,
            "revision": backbone.revision,
            "license": backbone.license,
            "fingerprint": backbone.fingerprint,
        },
        tokenizer=backbone.texts.fingerprint,
        prompts={
            name: {"fingerprint": p.fingerprint, "layout": p.layout, "length": len(p.values)}
            for name, p in prompts.items()
        },
        parity={},
        files={},
        made_by=f"mpt-edge {mpt_edge.__version__}",
        generation=_generation(backbone, place.entry) if isinstance(backbone, GenerativeBackbone) else None,
        mask=backbone.mask if isinstance(backbone, EncoderBackbone) else None,
    )


def _generation(backbone: GenerativeBackbone, entry: Entry) -> GenerationFacts:
    return GenerationFacts(
        eos_ids=backbone.eos_ids,
        vocabulary=int(backbone.model.model.config.vocab_size),
        context=backbone.max_length,
        positions_from_zero=backbone.model.positions_from_zero(entry),
        start_id=backbone.model.start_id if isinstance(backbone, Seq2SeqBackbone) else None,
    )


@contextmanager
def _replacing_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``output`` that takes its place when the block succeeds."""
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(output)
    staging = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.new-"))
    retired = staging.with_name(staging.name.replace(".new-", ".old-"))
    try:
        yield staging
        staging.chmod(0o755)
        try:
            if output.exists():
                output.rename(retired)
            staging.rename(output)
        except BaseException:  # Ctrl-C too: what was moved aside is the only copy
            if retired.exists() and not output.exists():
                retired.rename(output)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_leftovers(output: Path) -> None:
    """Remove what exports to the same folder left beside it when they were killed; each may hold a whole model.

    An export that still runs looks the same, so a folder is left alone until nothing was put into it for a day. What
    was moved aside (``.old-``) is never touched: it can be the only copy of a bundle.
    """
    name = re.compile(re.escape(f".{output.name}.new-") + r"[a-z0-9_]{8}")  # as `tempfile.mkdtemp` names them
    with suppress(OSError):  # another export may be at it too, and what cannot be looked at stays
        for path in output.parent.iterdir():
            if name.fullmatch(path.name) is None or path.is_symlink() or not path.is_dir():
                continue
            changed = max(place.stat().st_mtime for place in (path, *path.rglob("*")))
            if time.time() - changed > _FORSAKEN:
                shutil.rmtree(path, ignore_errors=True)
