"""The common base of backbones: a frozen model, its tokenizer and its properties."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.formats.manifest import Family
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.chat_template import ChatTemplate
from mpt_edge.training.backbones.locating import ModelSource
from mpt_edge.training.backbones.prompted import PromptedModel
from mpt_edge.training.backbones.tokenizer_files import read_tokenizer
from mpt_edge.training.backbones.vocabulary import fit_tokenizer


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen model with its tokenizer and the properties that a bundle records."""

    family: ClassVar[Family]
    """Encoder, decoder-only or encoder-decoder."""
    name: str
    """Short name, or the last part of the id."""
    id: str
    """Hub id, or the name of the folder or file."""
    revision: str | None
    """Hub commit; None for other sources."""
    license: str | None
    """License that the model card or the file states."""
    folder: Path
    """Folder of the model's files."""
    file: str | None = None
    """Name of the GGUF file that is the model; None for a folder of files."""
    model: PromptedModel
    """The frozen model."""
    texts: TextEncoder
    """Its tokenizer."""
    tokenizer_json: bytes
    """Bytes of ``tokenizer.json``, without special tokens outside the embedding table."""
    pad_id: int
    """Id of the padding token."""
    max_length: int
    """Maximum text length in tokens; for generative models, maximum number of positions, prompt and text together."""
    fingerprint: str
    """SHA-256 over names, shapes and float32 values of all weights in use, without a masked-LM head's."""
    chat: ChatTemplate | None = None
    """Chat template of a GGUF file; that of a folder is read where it is needed."""

    def chat_frame(self, system: str | None = None) -> ChatFrame:
        """Return the text that the chat template puts around a message, with an optional system text.

        Raises:
            InputError: there is no template, or none that can be used.
        """
        template = ChatTemplate.read(self.folder) if self.file is None else self.chat
        if template is None:
            raise InputError(f"{self.id} has no chat template; write the template out, with {{text}}.")
        return template.frame(self.id, system)


def common_fields(source: ModelSource, model: PromptedModel) -> dict[str, Any]:
    """Return the fields of `Backbone`, except for the model and the maximum length.

    Raises:
        CorruptFileError: there is no usable tokenizer, or the model has no layers.
        UnsupportedModelError: the tokenizer has tokens outside the embedding table.
    """
    if not model.layers:
        raise CorruptFileError(f"{source.folder / 'config.json'} describes no layers; download the model again.")
    tokenizer_json, pad_id = read_tokenizer(source)
    tokenizer_json, texts = fit_tokenizer(tokenizer_json, pad_id, vocabulary_size(model), source.folder)
    return origin_fields(source) | {
        "texts": texts,
        "tokenizer_json": tokenizer_json,
        "pad_id": pad_id,
        "fingerprint": weights_fingerprint(model),
    }


def origin_fields(source: ModelSource) -> dict[str, Any]:
    """Return the fields of `Backbone` that say where a model is from."""
    return {
        "name": source.name,
        "id": source.id,
        "revision": source.revision,
        "license": source.license,
        "folder": source.folder,
        "file": source.file,
    }


def vocabulary_size(model: PromptedModel) -> int:
    """Return the number of tokens in the model's embedding table."""
    return int(model.model.get_input_embeddings().weight.shape[0])


def weights_fingerprint(model: PromptedModel) -> str:
    """Return the SHA-256 over the model's weights, the same for every file format.

    The pooler is excluded: no head type uses it, and checkpoints without one get a random one.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        if name.startswith("pooler."):
            continue
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
