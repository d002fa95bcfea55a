"""The tiny encoder's tokenizer, and tasks with random vectors on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone

WORDS = "a the film movie witty gorgeous dull bad good great sport ball game vote law party atom cell star text"
LENGTH = 6


def save_tokenizer(folder: Path) -> None:
    """Write a WordPiece tokenizer over a few words and all letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{c}" for c in letters),
        *WORDS.split()[1:],
    ]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def make_task(
    backbone: EncoderBackbone, shared: SharedPrompt, name: str, labels: dict[str, str], **changes: object
) -> TaskFile:
    """Return a task with random vectors."""
    rng = np.random.default_rng(len(name))
    values = {
        "name": name,
        "head_type": "similarity",
        "labels": tuple(labels),
        "label_texts": tuple((text,) for text in labels.values()),
        "u": rng.normal(1, 0.3, shared.values.shape[0]).astype(np.float16),
        "v": rng.normal(1, 0.3, shared.values.shape[1]).astype(np.float16),
        "prompt": shared.name,
        "prompt_sha256": shared.fingerprint,
        "backbone": backbone.fingerprint,
        "tokenizer": backbone.texts.fingerprint,
        "max_length": 16,
    }
    return TaskFile(**(values | changes))  # type: ignore[arg-type]
