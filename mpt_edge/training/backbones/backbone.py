"""What every backbone carries: a frozen model, its tokenizer, and the facts that must travel with it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpt_edge.errors import CorruptFileError
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge.training.backbones.sources import Source, read_tokenizer
from mpt_edge.training.backbones.vocabulary import fitted_tokenizer

#: A frozen model that carries a prompt.
Prompted = PromptedEncoder | PromptedCausal | PromptedSeq2Seq


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """A frozen model with its tokenizer and the facts a bundle records.

    Attributes:
        name: short name or last part of the id.
        id: hub id, or the folder's name.
        revision: hub commit, or empty.
        license: as the model card states it, or empty.
        folder: where its files lie on this machine.
        model: the prompted model, frozen.
        texts: its tokenizer.
        tokenizer_json: the bytes of ``tokenizer.json``, without special tokens that the model has no rows for.
        pad_id: id of the padding token.
        max_length: longest text in tokens that the bundle accepts.
        fingerprint: SHA-256 over the names, shapes and float32 values of all weights in use, without a masked-LM
            head's.
    """

    name: str
    id: str
    revision: str
    license: str
    folder: Path
    model: Prompted
    texts: TextEncoder
    tokenizer_json: bytes
    pad_id: int
    max_length: int
    fingerprint: str

    @property
    @abstractmethod
    def family(self) -> str:
        """``"encoder"``, ``"causal"`` or ``"seq2seq"``."""


def common_facts(source: Source, model: Prompted) -> dict[str, Any]:
    """Return what backbones of every family carry, by field of `Backbone`, but for the model and its longest text.

    Raises:
        CorruptFileError: there is no tokenizer that can be used, or the model has no layers.
        UnsupportedModelError: the tokenizer has tokens that the model has no rows for.
    """
    if not model.layers:
        raise CorruptFileError(f"{source.folder / 'config.json'} describes no layers; download the model again.")
    tokenizer_json, pad_id = read_tokenizer(source.folder)
    tokenizer_json, texts = fitted_tokenizer(tokenizer_json, pad_id, vocabulary_rows(model), source.folder)
    return {
        "name": source.name,
        "id": source.id,
        "revision": source.revision,
        "license": source.license,
        "folder": source.folder,
        "texts": texts,
        "tokenizer_json": tokenizer_json,
        "pad_id": pad_id,
        "fingerprint": weights_fingerprint(model),
    }


def vocabulary_rows(model: Prompted) -> int:
    """Return how many tokens a model has an embedding for."""
    return int(model.model.get_input_embeddings().weight.shape[0])


def weights_fingerprint(model: Prompted) -> str:
    """Return the SHA-256 over the model's weights, whatever files they came from.

    The pooler is left out: no readout uses it, and checkpoints without one get a random one.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        if name.startswith("pooler."):
            continue
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
