"""Texts that stand for labels: from the recipe, from typical training texts, and as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.objectives.encoder_reading import Context, embed_all

#: Label texts read in a training step. Tasks with more labels sample the others.
_LABELS_PER_STEP = 48

#: Longest typical example in characters, where shorter ones are left: task files hold them.
_MAX_CHARACTERS = 80

#: Training texts of a label among which typical ones are chosen; their similarities are a square matrix.
_CANDIDATES = 200


@dataclass(frozen=True)
class LabelTexts:
    """Tokenized texts of all labels of a task."""

    rows: list[Encoded]
    owners: NDArray[np.int64]
    """Label of each text, ``(texts,)``."""
    count: int
    """Number of labels."""

    @classmethod
    def encode(cls, backbone: EncoderBackbone, texts: Sequence[Sequence[str]], max_length: int) -> LabelTexts:
        """Tokenize each label's texts."""
        flat = [text for group in texts for text in group]
        owners = np.repeat(np.arange(len(texts)), [len(group) for group in texts])
        return cls(backbone.texts.encode(flat, max_length), owners, len(texts))

    def sample(self, target: NDArray[np.int64], rng: np.random.Generator) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Draw one text a label for a step: of all labels, or of the targets and some others.

        Returns:
            The texts, and their labels.
        """
        labels = np.arange(self.count)
        if self.count > _LABELS_PER_STEP:
            present = np.unique(target)
            others = rng.permutation(np.setdiff1d(labels, present))
            labels = np.concatenate([present, others[: max(0, _LABELS_PER_STEP - len(present))]])
        chosen = [int(rng.choice(np.flatnonzero(self.owners == label))) for label in labels]
        return [self.rows[i] for i in chosen], labels

    @torch.no_grad()
    def embed(self, backbone: EncoderBackbone, context: Context) -> Tensor:
        """Return each label's unit embedding, ``(labels, d)``: the mean of its texts' unit embeddings, normalized."""
        embedded = embed_all(backbone, self.rows, context)
        one_hot = functional.one_hot(torch.from_numpy(self.owners), self.count).float().to(embedded.device)
        return functional.normalize(one_hot.T @ embedded, dim=-1)


def collect_label_texts(backbone: AnyBackbone, data: TaskData) -> list[list[str]]:
    """Return each label's texts: the recipe's, or the label itself, and for encoders its typical examples."""
    recipe = data.recipe
    texts = [list(recipe.labels.get(label, (label.replace("_", " "),))) for label in data.labels]
    if recipe.label_examples and isinstance(backbone, EncoderBackbone):
        examples = choose_typical(backbone, data.train, len(data.labels), recipe.label_examples)
        texts = [own + [t for t in more if isinstance(t, str)] for own, more in zip(texts, examples, strict=True)]
    return texts


def choose_typical(backbone: EncoderBackbone, examples: Examples, labels: int, count: int) -> list[list[Text]]:
    """Choose training texts of each label that together lie nearest to all of its texts.

    A text above a length in characters is chosen only after all shorter ones, to keep task files small.

    Args:
        backbone: the frozen encoder.
        examples: the training split.
        labels: number of labels.
        count: texts a label; fewer where it has fewer.
    """
    target = np.array(examples.labels)
    groups = [[examples.texts[i] for i in np.flatnonzero(target == label)[:_CANDIDATES]] for label in range(labels)]
    return [_choose(backbone, texts, count) if texts else [] for texts in groups]


def _choose(backbone: EncoderBackbone, texts: Sequence[Text], count: int) -> list[Text]:
    """Choose texts by greedy facility location on the backbone's embeddings.

    The first one is the medoid. Each further one covers best what those before it leave out.
    """
    embedded = embed_all(backbone, backbone.texts.encode(texts, backbone.max_length)).cpu().numpy()
    similarities = embedded @ embedded.T
    free = np.array([isinstance(text, str) for text in texts], bool)  # a pair cannot stand for a label
    short = np.array([len(text) <= _MAX_CHARACTERS for text in texts], bool)
    covered = np.full(len(texts), -1.0, np.float32)
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        allowed = free & short if (free & short).any() else free
        gain = np.where(allowed, np.maximum(similarities, covered[:, None]).sum(0), -np.inf)
        best = int(gain.argmax())
        chosen.append(best)
        free[best] = False
        covered = np.maximum(covered, similarities[:, best])
    return [texts[i] for i in chosen]
