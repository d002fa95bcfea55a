"""A GGUF file's metadata and weights, as the ``gguf`` package reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpt_edge._extras import check_installed
from mpt_edge._files import check_readable, open_regular
from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.weights import reason

#: First bytes of the files.
_MAGIC = b"GGUF"

#: Number of files that hold one model, where it is more than one.
_SPLIT_COUNT = "split.count"

_Value = TypeVar("_Value", bound=str | int | float)


@dataclass(frozen=True)
class GgufFile:
    """A model in one file: its architecture, sizes, vocabulary and weights."""

    path: Path
    """The file."""
    entries: Mapping[str, Any]
    """Metadata: numbers, texts, and lists of them."""
    tensors: Mapping[str, Any]
    """Weights by name, as `gguf.GGUFReader` gives them: mapped, in the file's types."""

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read the metadata of a file, and map its weights.

        Raises:
            MissingExtraError: the package is not installed.
            CorruptFileError: the file is not GGUF, or damaged.
            UnsupportedModelError: it has weights of a type that the package does not know, or is one part of a model.
        """
        check_readable(path)
        check_installed("torch", "gguf")
        with open_regular(path) as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise CorruptFileError(f"{path} is no GGUF file; pass a .gguf file, or the folder of a model.")
        from gguf import GGUFReader

        try:
            reader = GGUFReader(path)
            entries = {name: field.contents() for name, field in reader.fields.items()}
        except MemoryError:
            raise
        except Exception as error:  # a damaged file fails wherever its bytes are first used
            if "GGMLQuantizationType" in str(error):
                raise UnsupportedModelError(
                    f"{path} has weights of a type that the package gguf does not know ({reason(error)}); use a file "
                    "of another quantization, such as Q8_0, or a newer gguf."
                ) from error
            raise CorruptFileError(
                f"{path} is damaged or cut short ({reason(error)}); download the file again."
            ) from error
        result = cls(path, entries, {tensor.name: tensor for tensor in reader.tensors})
        if (count := result.value(_SPLIT_COUNT, int, 1)) > 1:
            raise UnsupportedModelError(
                f"{path} is one of {count} parts of a model; merge them with llama.cpp's `llama-gguf-split --merge`."
            )
        return result

    @property
    def architecture(self) -> str:
        """GGUF's name of the architecture."""
        return self.value("general.architecture", str)

    def own(self, name: str, kind: type[_Value], default: _Value | None = None) -> _Value:
        """Return an entry of the architecture's; see `value`."""
        return self.value(f"{self.architecture}.{name}", kind, default)

    def has(self, name: str) -> bool:
        """Return whether an entry of the architecture's is there."""
        return f"{self.architecture}.{name}" in self.entries

    def value(self, key: str, kind: type[_Value], default: _Value | None = None) -> _Value:
        """Return an entry of a type; ``default`` for a missing one.

        Raises:
            CorruptFileError: it is missing and has no default, or has another type.
        """
        value = self.entries.get(key, default)
        if type(value) is int and kind is float:
            return kind(value)
        if type(value) is not kind:
            raise CorruptFileError(f"{self.path} has no usable entry {key!r}; download the file again.")
        # Floats have 32 bits in the file. The shortest decimal number is the one that the model's authors wrote.
        result: _Value = kind(str(np.float32(value))) if kind is float else value
        return result

    def values(self, key: str, kind: type[_Value]) -> list[_Value]:
        """Return a list; an empty one for a missing entry. Raises CorruptFileError for any other value."""
        values = self.entries.get(key, [])
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise CorruptFileError(f"{self.path} has no usable entry {key!r}; download the file again.")
        return values

    def weights(self, name: str) -> NDArray[np.float32]:
        """Return a tensor in float32, in PyTorch's order of dimensions.

        Raises:
            UnsupportedModelError: the package cannot convert the tensor's type.
        """
        from gguf import dequantize

        tensor = self.tensors[name]
        try:
            values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"{self.path} has weights of the type {tensor.tensor_type.name}, which the package gguf cannot "
                "convert; use a file of another quantization, such as Q8_0."
            ) from error
        return values.reshape([int(size) for size in reversed(tensor.shape)])
