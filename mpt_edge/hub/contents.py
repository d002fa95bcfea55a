"""The files of a bundle as a repository holds them: without the history of one device's folder."""

from __future__ import annotations

from dataclasses import replace

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle_reader import graph_names, weights_name
from mpt_edge.formats.manifest import PREVIOUS, FileEntry, Manifest, Precision

#: The bundle's card, which the hub shows; a file like all others of a bundle.
CARD = "README.md"


def as_published(manifest: Manifest, precision: Precision | None = None) -> Manifest:
    """Return the manifest of a fresh folder with the same digest, unless it loses a precision.

    Each file is at its own name. The log, and files that tasks replaced, are left out; the highest versions stay, so
    that no device goes back to an older one.

    Args:
        manifest: the manifest.
        precision: the only precision to keep; None for all.
    """
    others = set() if precision is None else other_graphs(manifest, precision)
    files = {
        name: FileEntry(sha256=entry["sha256"], size=entry["size"])
        for name, entry in manifest.files.items()
        if not name.startswith(f"{PREVIOUS}/") and name not in others
    }
    without = {each for each in Precision if others.intersection(graph_names(manifest.family, each))}
    parity = {name: value for name, value in manifest.parity.items() if name not in without}
    return replace(manifest, files=files, parity=parity, changes=(), retired=())


def other_graphs(manifest: Manifest, precision: Precision) -> set[str]:
    """Return the listed graphs and weights of all precisions but one."""
    others = [each for each in Precision if each is not precision]
    names = {name for each in others for name in (*graph_names(manifest.family, each), weights_name(each))}
    return names & set(manifest.files)


def choose_precision(manifest: Manifest, precision: str | None, source: object) -> Precision:
    """Return the precision to fetch: the given one, else the most exact that is listed.

    Raises:
        CorruptFileError: the manifest lists no graph.
        InputError: it lists none of that precision.
    """
    available = [
        each for each in Precision if {*graph_names(manifest.family, each), weights_name(each)} <= set(manifest.files)
    ]
    if not available:
        raise CorruptFileError(f"the manifest of {source} lists no graph; ask its owner.")
    if precision is None:
        return available[0]
    if precision not in available:
        raise InputError(f"{source} has no {precision} graph, only {' and '.join(available)}; choose one of these.")
    return Precision(precision)
