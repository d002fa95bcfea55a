"""Requests that belong to none of a task's labels: how well a score tells them from the others.

python benchmarks/out_of_scope.py --data DATA --bundle models/minilm-l6

clinc150 has 150 labels, and rows that belong to none of them. The score of a text is the largest probability among the
150. The task of the bundle is compared with the linear probe, a logistic regression on the embeddings of the same
backbone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.model import Model
from mpt_edge.training.data.examples import Examples, TaskData, load_task
from mpt_edge.training.data.recipes import load_recipe

RECIPE = Path("models/recipes/minilm-l6/clinc150.toml")

#: Label of the rows that belong to none of the others.
NONE = "out of scope"

#: Share of the requests in scope that are accepted.
RECALL = 0.95


def main(
    data: Annotated[Path, typer.Option(help="Folder that the recipe's paths start from.")],
    bundle: Annotated[Path, typer.Option(help="A bundle with the task.")] = Path("models/minilm-l6"),
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Print AUROC, and the share of the rows out of scope that are accepted at 95 percent recall, on test."""
    model = mpt_edge.load(bundle, threads=threads)
    task = load_task(load_recipe(RECIPE), data, test=True)
    assert task.test is not None
    is_none = np.array(task.test.labels) == task.labels.index(NONE)
    table = Table("", "AUROC", f"accepted at {RECALL:.0%} recall", "accepted by its threshold", box=None)
    threshold = Bundle.open(bundle).task("clinc150").threshold
    for name, scores in (("u, v", _task_scores(model, task.test)), ("linear probe", _probe_scores(model, task))):
        chosen = threshold if name == "u, v" else None
        table.add_row(name, *_figures(scores, is_none), "-" if chosen is None else _accepted(scores, is_none, chosen))
    Console().print(table)


def _task_scores(model: Model, examples: Examples) -> NDArray[np.float64]:
    """Return the largest probability of a label in scope, ``(examples,)``."""
    answers = model.run(examples.texts, tasks="clinc150")
    return np.array([max(prob for label, prob in answer.scores.items() if label != NONE) for answer in answers])


def _probe_scores(model: Model, task: TaskData) -> NDArray[np.float64]:
    """Return the same of the linear probe, with the regularization that validation chose."""
    from sklearn.linear_model import LogisticRegression

    assert task.test is not None
    strength = float(model.bundle.task("clinc150").metrics["linear_probe"]["C"])
    probe = LogisticRegression(C=strength, max_iter=1000)
    probe.fit(model.embed(task.train.texts), task.train.labels)
    probs = probe.predict_proba(model.embed(task.test.texts))
    known = [i for i, label in enumerate(task.labels) if label != NONE]
    largest: NDArray[np.float64] = probs[:, known].max(1)
    return largest


def _figures(scores: NDArray[np.float64], is_none: NDArray[np.bool_]) -> tuple[str, str]:
    from sklearn.metrics import roc_auc_score

    threshold = np.quantile(scores[~is_none], 1 - RECALL)
    return f"{100 * roc_auc_score(~is_none, scores):.1f}", _accepted(scores, is_none, threshold)


def _accepted(scores: NDArray[np.float64], is_none: NDArray[np.bool_], threshold: float) -> str:
    """Return the shares of rows out of scope and in scope whose scores reach a threshold."""
    shares = [100 * float(np.mean(scores[rows] >= threshold)) for rows in (is_none, ~is_none)]
    return f"{shares[0]:.1f} of none, {shares[1]:.1f} in scope"


if __name__ == "__main__":
    typer.run(main)
