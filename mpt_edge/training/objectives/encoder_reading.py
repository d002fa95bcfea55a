"""The similarity readout in PyTorch: pooled text against the label texts' embeddings.

Text and label texts are read under the same prompt, so the task stays u and v, with no head. A
label with several texts is represented by the mean of their unit embeddings. In the prefix layout
the prompt runs once for all texts that are read under it; in the joint layout with every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.inference.batching import by_length, length_buckets
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.attention import KeyValue
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.rows import Rows

#: Cosine similarities are multiplied by this before the softmax while training.
TRAINING_SCALE = 20.0

#: Label texts read per training step; tasks with more labels sample the others.
_LABELS_PER_STEP = 48

_TOKENS_PER_BATCH = 2048


@dataclass(frozen=True)
class LabelTexts:
    """The tokenized texts of every label: ``rows[i]`` stands for label ``owner[i]``."""

    rows: list[Encoded]
    owner: NDArray[np.int64]
    count: int

    @classmethod
    def encode(cls, backbone: EncoderBackbone, texts: Sequence[Sequence[str]], max_length: int) -> LabelTexts:
        """Tokenize each label's texts."""
        flat = [text for group in texts for text in group]
        owner = np.repeat(np.arange(len(texts)), [len(group) for group in texts])
        return cls(backbone.texts.encode(flat, max_length), owner, len(texts))

    def sample(self, gold: NDArray[np.int64], rng: np.random.Generator) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Draw one text a label for a step: all labels, or the gold ones and some others.

        Returns:
            The texts, and which labels they stand for.
        """
        labels = np.arange(self.count)
        if self.count > _LABELS_PER_STEP:
            present = np.unique(gold)
            others = rng.permutation(np.setdiff1d(labels, present))
            labels = np.concatenate([present, others[: max(0, _LABELS_PER_STEP - len(present))]])
        chosen = [int(rng.choice(np.flatnonzero(self.owner == label))) for label in labels]
        return [self.rows[i] for i in chosen], labels


@dataclass(frozen=True)
class EncoderOutput:
    """What the backbone makes of a batch of texts.

    Attributes:
        embeddings: unit embeddings, ``(rows, d)``.
        hidden: last hidden states, ``(rows, tokens, d)``.
        first: the state at the first position, which is a prompt row in the joint layout, ``(rows, d)``.
        mask: 1 for visible tokens, ``(rows, tokens)``.
    """

    embeddings: Tensor
    hidden: Tensor
    first: Tensor
    mask: Tensor

    def part(self, rows: slice) -> EncoderOutput:
        """Return some of the texts, padded to the longest of them."""
        mask = self.mask[rows]
        width = int(mask.sum(1).max())
        return EncoderOutput(self.embeddings[rows], self.hidden[rows, :width], self.first[rows], mask[:, :width])


@dataclass(frozen=True)
class Context:
    """What texts are read under: a prompt in one of the two layouts, or nothing.

    Attributes:
        past: keys and values of a prompt that was read by itself (prefix layout).
        prompt: rows ``(l, d)`` that are read with every text (joint layout).
        length: rows of the prompt, 0 without one.
        entry: where the rows enter.
    """

    past: Sequence[KeyValue] | None = None
    prompt: Tensor | None = None
    length: int = 0
    entry: Entry = Entry.FIRST_LAYER

    @classmethod
    def of(
        cls,
        backbone: EncoderBackbone,
        prompt: Tensor | None,
        layout: Layout = Layout.PREFIX,
        entry: Entry = Entry.FIRST_LAYER,
    ) -> Context:
        """Put a composed prompt ``(l, d)`` in front of texts; None leaves them alone."""
        if prompt is None:
            return cls()
        prompt = prompt.to(next(backbone.model.parameters()).device)
        if layout == Layout.JOINT:
            return cls(prompt=prompt, length=len(prompt), entry=entry)
        return cls(past=backbone.model.encode_prompt(prompt[None], entry), length=len(prompt))


#: No prompt at all.
BARE = Context()


def read(backbone: EncoderBackbone, rows: Sequence[Encoded], context: Context = BARE) -> EncoderOutput:
    """Read texts under a prompt or under none; on a CPU those of similar length together."""
    # A small read leaves a GPU idle, so there filling is the cheaper of the two.
    on_cpu = next(backbone.model.parameters()).device.type == "cpu"
    reads = length_buckets([len(row.ids) for row in rows]) if on_cpu else []
    if len(reads) < 2:
        return _read_padded(backbone, rows, context)
    parts = [_read_padded(backbone, [rows[i] for i in chosen], context) for chosen in reads]
    width = max(part.mask.shape[1] for part in parts)
    order = torch.from_numpy(np.argsort(np.concatenate(reads)))
    return EncoderOutput(
        embeddings=torch.cat([part.embeddings for part in parts])[order],
        hidden=torch.cat([functional.pad(p.hidden, (0, 0, 0, width - p.mask.shape[1])) for p in parts])[order],
        first=torch.cat([part.first for part in parts])[order],
        mask=torch.cat([functional.pad(p.mask, (0, width - p.mask.shape[1])) for p in parts])[order],
    )


def _read_padded(backbone: EncoderBackbone, rows: Sequence[Encoded], context: Context) -> EncoderOutput:
    batch = backbone.texts.pad(rows)
    device = next(backbone.model.parameters()).device
    ids, mask, types = (
        torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    )
    keys = functional.pad(mask, (context.length, 0), value=1)
    prompt = None if context.prompt is None else context.prompt.expand(len(rows), -1, -1)
    hidden, _ = backbone.model(ids, keys, types, prompt=prompt, past=context.past, entry=context.entry)
    hidden = hidden.float()  # losses are taken in float32, whatever computed
    first, hidden = hidden[:, 0], hidden[:, hidden.shape[1] - ids.shape[1] :]
    return EncoderOutput(functional.normalize(pool(hidden, mask, backbone.pooling), dim=-1), hidden, first, mask)


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """Pool hidden states ``(rows, tokens, d)`` over visible tokens by ``mean``, ``cls`` or ``max``."""
    visible = mask[..., None].to(hidden.dtype)
    if how == "mean":
        return (hidden * visible).sum(1) / visible.sum(1)
    if how == "max":
        return hidden.masked_fill(visible == 0, -torch.inf).amax(1)
    first = mask.argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


@torch.no_grad()
def embed_all(backbone: EncoderBackbone, rows: Sequence[Encoded], context: Context = BARE) -> Tensor:
    """Embed any number of texts in batches of similar length; the order is kept."""
    batches = list(by_length([len(row.ids) for row in rows], len(rows), _TOKENS_PER_BATCH))
    stacked = torch.cat([_read_padded(backbone, [rows[i] for i in batch], context).embeddings for batch in batches])
    order = [i for batch in batches for i in batch]
    return stacked[torch.argsort(torch.tensor(order, device=stacked.device))]


@torch.no_grad()
def similarities(
    backbone: EncoderBackbone, context: Context, rows: Sequence[Encoded], labels: LabelTexts
) -> NDArray[np.float32]:
    """Return cosine similarities ``(rows, labels)``; texts and label texts are read in the same context."""
    one_hot = functional.one_hot(torch.from_numpy(labels.owner), labels.count).float()
    embedded = embed_all(backbone, labels.rows, context)
    means = functional.normalize(one_hot.T.to(embedded.device) @ embedded, dim=-1)
    return (embed_all(backbone, rows, context) @ means.T).cpu().numpy().astype(np.float32)


def typical_examples(
    backbone: EncoderBackbone, rows: Rows, labels: int, count: int, *, longest: int = 80, pool_size: int = 200
) -> list[list[Text]]:
    """Pick ``count`` training texts a label that together lie nearest to all of that label's texts.

    Greedy facility location on the frozen backbone's embeddings: the first pick is the medoid,
    each further one covers best what the picks before leave out. To keep task files small, a text of
    more than ``longest`` characters is picked only after all shorter ones.
    """
    picks: list[list[Text]] = []
    gold = np.array(rows.labels)
    for label in range(labels):
        texts = [rows.texts[i] for i in np.flatnonzero(gold == label)[:pool_size]]
        if not texts:
            picks.append([])
            continue
        embedded = embed_all(backbone, backbone.texts.encode(texts, backbone.max_length)).cpu().numpy()
        near = embedded @ embedded.T
        free = np.array([isinstance(text, str) for text in texts], bool)  # a pair cannot stand for a label
        short = np.array([len(text) <= longest for text in texts], bool)
        covered = np.full(len(texts), -1.0, np.float32)
        chosen: list[int] = []
        while len(chosen) < count and free.any():
            allowed = free & short if (free & short).any() else free
            gain = np.where(allowed, np.maximum(near, covered[:, None]).sum(0), -np.inf)
            best = int(gain.argmax())
            chosen.append(best)
            free[best] = False
            covered = np.maximum(covered, near[:, best])
        picks.append([texts[i] for i in chosen])
    return picks
