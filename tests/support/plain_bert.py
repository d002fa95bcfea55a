"""An independent reference: transformers' own BERT layers and attention, one explicit mask, no cache."""

from __future__ import annotations

import numpy as np
import torch
from transformers import BertModel

from mpt_edge.formats.placement import Layout
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.text import Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone


def hidden_states(
    bert: BertModel, prompt: np.ndarray, ids: list[int], types: list[int], layout: Layout = Layout.PREFIX
) -> tuple[np.ndarray, np.ndarray]:
    """Run a prompt and one text through plain BERT layers; return the hidden states of both."""
    length, total = len(prompt), len(prompt) + len(ids)
    with torch.no_grad():
        embedded = bert.embeddings(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        hidden = torch.cat([torch.from_numpy(prompt)[None], embedded], dim=1)
        mask = torch.zeros(1, 1, total, total)
        if layout is Layout.PREFIX:
            mask[:, :, :length, length:] = torch.finfo(torch.float32).min  # the prompt attends to no text
        for layer in bert.encoder.layer:
            output = layer(hidden, attention_mask=mask)
            hidden = output[0] if isinstance(output, tuple) else output
    return hidden[0, :length].numpy(), hidden[0, length:].numpy()


def composed(task: TaskFile, shared: SharedPrompt) -> np.ndarray:
    """Return a task's prompt, multiplied in float64."""
    values = (task.own_prompt or shared).values.astype(np.float64)
    return (values * np.outer(task.u.astype(np.float64), task.v.astype(np.float64))).astype(np.float32)


def mean_states(bert: BertModel, tiny: EncoderBackbone, prompt: np.ndarray, text: Text, max_length: int) -> np.ndarray:
    """Return the mean of a text's hidden states under a prompt, ``(d,)``."""
    (row,) = tiny.texts.encode([text], max_length)
    return hidden_states(bert, prompt, row.ids, row.types)[1].mean(0)
