"""Accuracy of label vectors by their levels, on frozen embeddings.

python benchmarks/label_levels.py --data DATA

The same linear head, without a prompt, with numbers of 2 to 256 levels and in float32. Validation examples, no test
split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from mpt_edge.formats.label_vectors import BYTES_PER_LABEL, STEP_SIZES, packed_width
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.data.examples import Examples, load_task
from mpt_edge.training.data.recipes import load_recipe
from mpt_edge.training.label_vectors import fit_labels
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.quantized_labels import QuantizedLabels

RECIPES = Path("models/recipes/minilm-l6")

#: Tasks of many labels.
TASKS = ("banking77", "clinc150", "goemotions", "dbpedia14")

#: Training examples of a task.
EXAMPLES = 8000


class Unrounded(QuantizedLabels):
    """Label vectors and biases in float32."""

    def values(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors and biases as they are."""
        return self.vectors, self.biases


def main(
    data: Annotated[Path, typer.Option(help="Folder that the recipes' paths start from.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of PyTorch.")] = 1,
) -> None:
    """Print bytes of a label and accuracy on validation for each number of levels."""
    torch.set_num_threads(threads)
    backbone = load_encoder("minilm-l6")
    widths = {levels: packed_width(backbone.model.hidden_size, levels) + BYTES_PER_LABEL for levels in STEP_SIZES}
    widths[0] = 4 * (backbone.model.hidden_size + 1)
    table = Table("task", "labels", *[f"{levels or 'float32'}: {size} B" for levels, size in widths.items()], box=None)
    for name in TASKS:
        row, labels = _accuracies(backbone, name, data, list(widths))
        table.add_row(name, str(labels), *[f"{100 * each:.1f}" for each in row])
    Console().print(table)


def _accuracies(backbone: EncoderBackbone, name: str, data: Path, levels: list[int]) -> tuple[list[float], int]:
    """Return the accuracy on validation for each number of levels, and the number of labels."""
    task = load_task(load_recipe(RECIPES / f"{name}.toml"), data, test=False)
    words = [[label.replace("_", " ")] for label in task.labels]
    objective = LabelVectorObjective(backbone, task, words)
    train: Examples = task.train.sample(EXAMPLES)
    embedded, validation = objective.embeddings(None, train), objective.embeddings(None, task.validation)
    target, right = torch.tensor(train.labels), torch.tensor(task.validation.labels)
    means = objective.label_means(None, train, embedded)
    result = []
    for each in levels:
        labels = QuantizedLabels(means, each) if each else Unrounded(means, 256)
        fit_labels(labels, embedded, target)
        result.append(float((labels(validation).argmax(1) == right).float().mean()))
    return result, len(task.labels)


if __name__ == "__main__":
    typer.run(main)
