"""Loading a model's weights, and refusing incomplete ones."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.torch_files import check_archive

#: Errors that damaged weights raise.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, SafetensorError, UnpicklingError)

#: Names of files of weights, or of the indexes of several.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

#: Weights that no head type uses, and that many checkpoints lack.
_POOLER = re.compile(r"(^|\.)pooler\.")


def read_model(auto_class: Any, folder: Path, attention: str) -> Any:
    """Load a model in float32.

    Args:
        auto_class: one of transformers' auto classes.
        folder: folder of the model's files.
        attention: transformers' name of the attention to use.

    Raises:
        CorruptFileError: the weights are missing, damaged or incomplete.
        UnsupportedModelError: transformers cannot make the model that the configuration describes.
    """
    _check_index(folder)
    _check_archives(folder)
    try:
        with quiet_transformers():  # transformers would print a table of missing weights; ours is one sentence
            model, report = auto_class.from_pretrained(
                folder,
                attn_implementation=attention,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                trust_remote_code=False,
            )
    except _UNREADABLE as error:
        _check_present(folder)
        raise CorruptFileError(f"cannot read the weights in {folder}; download the model again.") from error
    except MemoryError:  # its own message is clear
        raise
    except Exception as error:  # transformers checks each entry of a configuration in its own way
        raise UnsupportedModelError(
            f"transformers cannot make the model that {folder / 'config.json'} describes ({reason(error)}); download "
            "the model again, or use another."
        ) from error
    _check_complete(model, report, folder)
    return model


def load_weights(model_class: Any, config: PretrainedConfig, weights: Mapping[str, Tensor], path: Path) -> Any:
    """Return a model of a configuration with weights in memory, in float32 and with eager attention.

    Args:
        model_class: class of the model.
        config: its configuration.
        weights: all parameters by name, without those that are tied to others.
        path: their file, for messages.

    Raises:
        CorruptFileError: a weight is missing, or has another shape.
        UnsupportedModelError: transformers cannot make the model.
    """
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                attn_implementation="eager",
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                trust_remote_code=False,
            )
    except MemoryError:
        raise
    except Exception as error:  # transformers checks each entry of a configuration in its own way
        raise UnsupportedModelError(
            f"transformers cannot make the model that {path} describes ({reason(error)}); use another file."
        ) from error
    _check_complete(model, report, path)
    return model


def _check_present(folder: Path) -> None:
    """Check that there are weights at all. Raises CorruptFileError for a folder with those of other libraries."""
    names = {path.name for path in folder.iterdir()}
    if not names & {f"{stem}{index}" for stem in _WEIGHTS for index in ("", ".index.json")}:
        raise CorruptFileError(
            f"{folder} holds no weights in {' or '.join(_WEIGHTS)}; download them too, or use a model that has them."
        )


def _check_index(folder: Path) -> None:
    """Check that an index of several files names files of its folder. Raises CorruptFileError."""
    for path in folder.glob("*.index.json"):
        try:
            names = json.loads(path.read_text("utf-8"))["weight_map"].values()
            are_inside = all(PurePath(name).name == name for name in names)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            are_inside = False
        if not are_inside:
            raise CorruptFileError(f"{path} is no index of files in its folder; download the model again.")


def _check_archives(folder: Path) -> None:
    """Check weights of PyTorch, which are read where there are no others. Raises CorruptFileError."""
    if any(folder.glob("model*.safetensors")):
        return
    for path in sorted(folder.glob("pytorch_model*.bin")):
        try:
            check_archive(path)
        except (ValueError, OSError) as error:
            raise CorruptFileError(
                f"{path} is damaged, or holds more than tensors; download the model again, or use another."
            ) from error


def reason(error: Exception) -> str:
    """Return an error's type and the last line of its message, which names the innermost cause."""
    lines = str(error).split("\n")
    last = next((line.strip().rstrip(".") for line in reversed(lines) if line.strip()), "")
    return f"{type(error).__name__}: {last}" if last else type(error).__name__


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings."""
    has_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _check_complete(model: Any, report: Mapping[str, Any], folder: Path) -> None:
    """Check that the files held all weights; transformers fills missing ones at random.

    Tied weights are not parameters of their own, so transformers does not report them. Buffers are
    computed, and no head type uses poolers.

    Raises:
        CorruptFileError: a weight is missing, or has another shape than the configuration states. For a
            model that was saved as one of another class, the message names that class.
    """
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = sorted(name for name in learned.intersection(report["missing_keys"]) if not _POOLER.search(name))
    saved_as = getattr(model.config, "architectures", None) or [type(model).__name__]
    if missing and model.get_output_embeddings() is not None and type(model).__name__ not in saved_as:
        raise CorruptFileError(
            f"{folder} was saved as {saved_as[0]}, without {missing[0]}{_more(missing)}, which the language "
            f"model needs; use a checkpoint of the language model, saved as {type(model).__name__}."
        )
    if missing:
        raise CorruptFileError(
            f"the weights in {folder} lack {missing[0]}{_more(missing)}; download the model again, config.json too."
        )
    mismatched = sorted(name for name, *_ in report["mismatched_keys"])
    if mismatched:
        raise CorruptFileError(
            f"the weights in {folder} have another shape than its config.json states, as {mismatched[0]}"
            f"{_more(mismatched)}; download the model again."
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
