"""Texts that random models continue, and transformers' continuations of them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

EOS = (2,)
TEXTS = [[5, 17, 33, 8], [44, 9], [7, 7, 21, 50, 12, 3, 60]]


def reference(model: PreTrainedModel, text: list[int], **options: object) -> list[int]:
    """Return the tokens that transformers generates after one text, without the token that ends it."""
    with torch.no_grad():
        ids = torch.tensor([text])
        result = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False, **options)
    new = result[0, len(text) :].tolist()
    return new[: new.index(2)] if 2 in new else new
