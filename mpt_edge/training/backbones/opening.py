"""Opening a backbone of any family."""

from __future__ import annotations

from mpt_edge.training.backbones.architectures import model_type
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, read_encoder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone, read_causal, read_seq2seq
from mpt_edge.training.backbones.gguf_backbone import read_gguf
from mpt_edge.training.backbones.locating import locate_model
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES

#: A backbone of any family: a union, so that a type check for some families leaves the others.
AnyBackbone = EncoderBackbone | GenerativeBackbone


def open_backbone(source: str, revision: str | None = None) -> AnyBackbone:
    """Load a backbone of any family.

    Args:
        source: short name, local folder, GGUF file or hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is no model of that name, or more than one.
        UnsupportedModelError: its architecture cannot be used, or its embedding table lacks tokens that it needs.
        CorruptFileError: files are missing or damaged.
    """
    found = locate_model(source, revision)
    if found.file is not None:
        return read_gguf(found)
    kind = model_type(found)
    if kind in CAUSAL_ARCHITECTURES:
        return read_causal(found)
    return read_seq2seq(found) if kind in SEQ2SEQ_ARCHITECTURES else read_encoder(found)
