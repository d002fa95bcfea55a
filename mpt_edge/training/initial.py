"""Where a new shared prompt starts: at sampled tokens, at a text, or at random (paper appendix A, PEFT's inits)."""

from __future__ import annotations

import torch
from torch import Tensor

from mpt_edge.errors import InputError
from mpt_edge.formats.prompts import Entry
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.deep_prompt import recorded_inputs
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq

#: Starts that are computed; any other words are a text whose tokens the rows start as.
VOCABULARY, RANDOM = "vocabulary", "random"


def initial_prompt(
    backbone: AnyBackbone, length: int, seed: int, init: str, entry: Entry = Entry.FIRST_LAYER
) -> Tensor:
    """Return the values that a shared prompt starts from, ``(l, d)``, or ``(l, layers, d)`` for every layer.

    Unlike PEFT, ``u`` and ``v`` start at one, so these are also what every task starts from.

    Args:
        backbone: the frozen encoder.
        length: rows l.
        seed: fixes what is drawn.
        init: ``"vocabulary"``: frequent tokens; ``"random"``: a standard normal distribution, which is
            PEFT's default; any other words: their tokens, repeated or cut to l rows, PEFT's ``TEXT``.
        entry: where the prompt enters; rows look like tokens there. A prompt for every layer starts as what each
            layer receives of one that enters the first, so both start alike.

    Raises:
        InputError: the text is empty.
    """
    if entry == Entry.EVERY_LAYER:
        return _at_every_layer(backbone, initial_prompt(backbone, length, seed, init))
    if init == RANDOM:
        return torch.randn(length, backbone.model.hidden_size, generator=torch.Generator().manual_seed(seed))
    if init == VOCABULARY:
        return sampled_vocabulary(backbone, length, seed, entry)
    if not init.strip():
        raise InputError("a prompt cannot start from an empty text; pass --init vocabulary, random, or a few words.")
    ids = torch.tensor(backbone.texts.encode([init], backbone.max_length)[0].ids)
    return _as_rows(backbone, ids.repeat(-(-length // len(ids)))[:length], entry)


def sampled_vocabulary(backbone: AnyBackbone, length: int, seed: int, entry: Entry = Entry.FIRST_LAYER) -> Tensor:
    """Return ``length`` rows that look like tokens where the prompt enters (paper appendix A).

    Rows are drawn from the 5,000 first vocabulary entries without replacement.
    """
    vocabulary = int(backbone.model.model.config.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    first = min(1000, vocabulary // 4)  # BERT vocabularies begin with unused entries and letters
    pool = torch.arange(first, max(first + length, min(first + 5000, vocabulary)))
    ids = pool[torch.randperm(len(pool), generator=generator)[:length]].clamp(max=vocabulary - 1)
    return _as_rows(backbone, ids, entry)


@torch.no_grad()
def _at_every_layer(backbone: AnyBackbone, prompt: Tensor) -> Tensor:
    """Return what every layer receives of a prompt ``(l, d)`` that enters the first, ``(l, layers, d)``."""
    model = backbone.model
    with recorded_inputs(model.layers) as found:
        model.encode_prompt(prompt[None].to(next(model.parameters()).device))
    return torch.stack([rows[0] for rows in found], dim=1).cpu()


@torch.no_grad()
def _as_rows(backbone: AnyBackbone, ids: Tensor, entry: Entry) -> Tensor:
    """Return tokens as word embeddings, or behind the embeddings' normalisation, each as a text's first."""
    model = backbone.model
    ids = ids.to(next(model.parameters()).device)
    if entry == Entry.INPUTS_EMBEDS or isinstance(model, PromptedCausal | PromptedSeq2Seq):
        rows: Tensor = model.model.get_input_embeddings()(ids)
        return rows.cpu()
    return model.embed(ids[:, None], torch.ones_like(ids[:, None]))[:, 0].cpu()
