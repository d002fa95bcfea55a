"""Opening a backbone of any family by short name, folder or hub id."""

from __future__ import annotations

from mpt_edge.training.backbones.architectures import model_type
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, read_encoder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone, read_causal, read_seq2seq
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES
from mpt_edge.training.backbones.sources import locate_model

#: A backbone of any family: a union, so that a check for some leaves the others.
AnyBackbone = EncoderBackbone | GenerativeBackbone


def open_backbone(source: str, revision: str | None = None) -> AnyBackbone:
    """Load a backbone of any family from a short name, a local folder or a hub id.

    Raises:
        InputError: nothing is found under that name.
        UnsupportedModelError: its architecture cannot be used, or it lacks rows for tokens that it is to read or write.
        CorruptFileError: files are missing or damaged.
    """
    found = locate_model(source, revision)
    kind = model_type(found)
    if kind in CAUSAL_ARCHITECTURES:
        return read_causal(found)
    return read_seq2seq(found) if kind in SEQ2SEQ_ARCHITECTURES else read_encoder(found)
