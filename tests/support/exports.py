"""Graphs that both test processes share: a model that was exported before is copied instead.

An export takes some seconds, and equal models with equal prompt positions have equal graphs. Bundles are compared with
PyTorch all the same.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch.onnx._internal.exporter._registration import ONNXRegistry

from mpt_edge_export import bundle

EXPORTS = ("export_causal_graph", "export_encoder_graph", "export_seq2seq_graphs")

#: Entries of a config.json on which no graph depends. A model in memory and one from a file differ in them.
_OUTSIDE = ("_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "transformers_version")

Export = Callable[[Any, Any, Any, Path], None]


def share_exports(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep the graphs of each model that becomes a bundle in a folder of all test processes."""
    for name in EXPORTS:
        patch.setattr(bundle, name, shared(getattr(bundle, name), folder))
    # Each export of PyTorch compiles the 500 functions of its registry anew, which takes 0.4 seconds.
    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))


def shared(export: Export, folder: Path) -> Export:
    """Return an export that copies its files from a folder, where they are since the first export of an equal model."""

    @wraps(export)
    def copy(model: Any, size: object, position: object, path: Path) -> None:
        # An encoder-decoder's graphs are written to a folder, others to a file.
        target = path if path.is_dir() else path.parent
        name = "" if path.is_dir() else path.name
        kept = folder / f"{export.__name__}-{_identity(model, size, position, name)}"
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                export(model, size, position, path)
                making = kept.with_suffix(".new")
                shutil.copytree(target, making)
                making.rename(kept)
                return
        shutil.copytree(kept, target, dirs_exist_ok=True)

    return copy


def _identity(model: Any, *others: object) -> str:
    """Hash a prompted model: its modules, configuration and tensors."""
    config = {name: entry for name, entry in model.model.config.to_dict().items() if name not in _OUTSIDE}
    digest = hashlib.sha256(repr([model, sorted(config.items(), key=str), *others]).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
