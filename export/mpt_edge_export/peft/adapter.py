"""PEFT adapters, read without PEFT: configuration, tensors and checks.

Nothing in it is run: `mpt_edge.training.torch_files` reads what ``torch.save`` wrote. The file that
``prompt_tuning_init_state_dict_path`` names is never read. PEFT reads it on every load and fails
without it, but the trained values are in the adapter itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file

from mpt_edge._arrays import Floats
from mpt_edge._files import check_readable, read_small, user_path
from mpt_edge.errors import CorruptFileError, InputError, UnsupportedModelError
from mpt_edge.formats.manifest import Family
from mpt_edge.training.hub import cached_origin, check_cache, newest_commit
from mpt_edge.training.torch_files import load_tensors
from mpt_edge_export.peft.task_types import TASK_TYPES, Method, TaskType

CONFIG, SAFETENSORS, BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

#: Size limit of a configuration file, in bytes.
MAX_CONFIG = 1 << 20

#: Size limit of weights in the format of ``torch.save``, in bytes. Prompts and heads have a hundredth of it.
MAX_WEIGHTS = 256 << 20

#: Parts of tensor names that some versions of PEFT add around saved modules.
_WRAPPING = re.compile(r"^(base_model\.)?(model\.)?|\.(modules_to_save|original_module)(\.default)?(?=\.)")


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """A prompt-tuning adapter as PEFT saves it, in float32; l is ``num_virtual_tokens``."""

    source: str
    """Folder or hub id."""
    method: Method
    """PEFT's method."""
    task_type: TaskType
    """PEFT's task type."""
    base_model: str | None = None
    """The adapter's name for its base model."""
    length: int
    """Virtual tokens l of one prompt."""
    prompt: Floats
    """``prompt_embeddings``, shape ``(submodules · l, d)``."""
    cols: Floats | None = None
    """``prefix_task_cols``, shape ``(tasks, submodules · l, ranks)``; None for plain prompt tuning."""
    rows: Floats | None = None
    """``prefix_task_rows``, shape ``(tasks, ranks, d)``; None for plain prompt tuning."""
    modules: Mapping[str, Floats]
    """Tensors of other saved modules, such as the classifier, by their name in the base model."""
    revision: str | None = None
    """Hub commit."""
    template: str | None = None
    """Text with ``{text}`` that it was trained with. PEFT saves none, caikit does."""

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return 1 if self.cols is None else len(self.cols)

    @property
    def has_decoder_half(self) -> bool:
        """Whether a second half of the virtual tokens belongs before the decoder's input."""
        return len(self.prompt) == 2 * self.length

    def shared(self) -> Floats:
        """Return P*, ``(l, d)``: the virtual tokens that PEFT's `generate` reads."""
        return self.prompt[: self.length]

    def vectors(self, task: int) -> tuple[Floats, Floats]:
        """Return one task's u and v: ``(l,)`` and ``(d,)``, or ``(l, r)`` and ``(r, d)`` for r ranks above one.

        Plain prompt tuning has ones.

        Raises:
            InputError: there is no task of that id.
        """
        if not 0 <= task < self.tasks:
            raise InputError(f"{self.source} has no task {task}; its ids are 0 to {self.tasks - 1}.")
        if self.cols is None or self.rows is None:
            return np.ones(self.length, np.float32), np.ones(self.prompt.shape[1], np.float32)
        u, v = self.cols[task, : self.length], self.rows[task]
        return (u[:, 0], v[0]) if u.shape[1] == 1 else (u, v)


def read_adapter(source: str, revision: str | None = None) -> PeftAdapter:
    """Read an adapter from a folder, or from the hub.

    Args:
        source: a folder with ``adapter_config.json``, or a hub id.
        revision: revision of a hub repository.

    Raises:
        InputError: there is no adapter of that name.
        UnsupportedModelError: an adapter of another method or task type.
        CorruptFileError: a file is missing, damaged, or contradicts the configuration.
    """
    folder, source, commit = _locate(source, revision)
    config = _config(folder)
    method, task_type = config.get("peft_type"), TASK_TYPES.get(str(config.get("task_type")))
    if method not in list(Method):
        raise UnsupportedModelError(
            f"{source} is a {method or 'nameless'} adapter; only {' and '.join(Method)} adapters can be imported."
        )
    if task_type is None:
        raise UnsupportedModelError(
            f"{source} states the task type {config.get('task_type')!r}; set task_type in {CONFIG} to one of "
            f"{', '.join(TASK_TYPES)}."
        )
    values = _tensors(folder)
    prompt, cols, rows = (
        values.pop(key, None) for key in ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")
    )
    length = config.get("num_virtual_tokens")
    scales = (cols, rows) if method == Method.MULTITASK else None
    problem = _problem(length, task_type, prompt, scales)
    if problem or prompt is None or type(length) is not int:
        raise CorruptFileError(f"{source}: {problem}; save the adapter again with PEFT.")
    return PeftAdapter(
        source=source,
        method=Method(method),
        task_type=task_type,
        base_model=str(config.get("base_model_name_or_path") or "") or None,
        length=length,
        prompt=prompt,
        cols=cols,
        rows=rows,
        modules={_WRAPPING.sub("", name): value for name, value in values.items()},
        revision=commit,
    )


def _locate(source: str, revision: str | None) -> tuple[Path, str, str | None]:
    """Return an adapter's folder, its folder or hub id as a name, and its commit where it came from the hub."""
    folder = newest_commit(user_path(source))
    if folder.is_dir():
        identity, commit = cached_origin(folder)
        return folder, identity if commit else source, commit
    check_cache()
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=[CONFIG, SAFETENSORS, BIN]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"no adapter {source!r}: it is no folder here, and the hub did not give it ({type(error).__name__}); "
            "check the name, or pass the folder of a downloaded adapter."
        ) from error
    return folder, source, folder.name


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no {CONFIG}; pass the folder that PEFT's save_pretrained wrote.")
    data = read_small(path, MAX_CONFIG)
    try:
        config = json.loads(data)
        json.dumps(config, ensure_ascii=False).encode()  # a lone surrogate can be neither printed nor written
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not JSON; save the adapter again with PEFT.") from error
    if not isinstance(config, dict):
        raise CorruptFileError(f"{path} is not a JSON object; save the adapter again with PEFT.")
    return config


def _tensors(folder: Path) -> dict[str, Floats]:
    path = next((folder / name for name in (SAFETENSORS, BIN) if (folder / name).is_file()), None)
    if path is None:
        raise CorruptFileError(f"{folder} holds neither {SAFETENSORS} nor {BIN}; copy the adapter's weights there.")
    return read_tensors(path)


def read_tensors(path: Path) -> dict[str, Floats]:
    """Read named tensors from safetensors or from a file of ``torch.save``, as float32.

    A file with a single tensor returns it under the empty name.

    Raises:
        CorruptFileError: the file cannot be read, or contains other objects than finite tensors.
    """
    check_readable(path)
    try:
        values = load_file(path) if path.suffix == ".safetensors" else load_tensors(path, MAX_WEIGHTS)
    except CorruptFileError:
        raise
    except Exception as error:  # damaged headers of safetensors raise errors of many types
        raise CorruptFileError(
            f"{path} is damaged, or holds more than tensors; save it again with PEFT as safetensors."
        ) from error
    if not isinstance(values, dict):
        values = {"": values}
    result: dict[str, Floats] = {}
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise CorruptFileError(f"{path}: {name!r} is no tensor of numbers; save it again with PEFT.")
        result[str(name)] = value.detach().to(torch.float32).numpy()
        if not np.isfinite(result[str(name)]).all():
            raise CorruptFileError(f"{path}: {name!r} holds NaN or infinity; train the adapter again.")
    return result


def _problem(
    length: object, task_type: TaskType, prompt: Floats | None, scales: tuple[Floats | None, Floats | None] | None
) -> str | None:
    """Return the first contradiction in the tensors; plain prompt tuning has no ``scales``."""
    if type(length) is not int or length < 1:
        return f"num_virtual_tokens is {length!r}"
    if prompt is None or prompt.ndim != 2 or 0 in prompt.shape:
        return "the tensor 'prompt_embeddings' is missing or no matrix"
    allowed = (length, 2 * length) if task_type.family is Family.SEQ2SEQ else (length,)
    if len(prompt) not in allowed:
        return f"'prompt_embeddings' has {len(prompt)} rows where {length} virtual tokens are stated"
    return _scale_problem(prompt, *scales) if scales else None


def _scale_problem(prompt: Floats, cols: Floats | None, rows: Floats | None) -> str | None:
    if cols is None or rows is None:
        return "'prefix_task_cols' or 'prefix_task_rows' is missing"
    fits = cols.ndim == rows.ndim == 3 and cols.shape == (len(rows), len(prompt), rows.shape[1])
    if not fits or rows.shape[2] != prompt.shape[1] or 0 in cols.shape:
        return f"cols {cols.shape} and rows {rows.shape} do not scale a prompt of shape {prompt.shape}"
    return None
