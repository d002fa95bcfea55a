"""Linear probe: logistic regression on the frozen embeddings, the baseline of every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import TaskData, encode, load_task
from mpt_edge.training.objectives.encoder_reading import embed_all
from mpt_edge.training.objectives.metrics import classification_metrics
from mpt_edge.training.plan import Plan

#: Inverse regularization strengths; validation chooses among them.
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)

#: Factors on the strengths, for raw and for standardized features. A unit vector of d channels has entries of about
#: d^-1/2, so the same regularization takes about d times the strength; 300 fits the usual 384 channels.
_RAW, _STANDARDIZED = 10.0, 1 / 30


def add_linear_probe(
    backbone: EncoderBackbone, plan: Plan, observe: Callable[[str], None] = lambda _: None
) -> list[TaskFile]:
    """Fit the probe for tasks that a stage has written, and add its metrics to their files.

    Args:
        backbone: the frozen model whose embeddings it reads.
        plan: recipes, data and the stage's output folder.
        observe: called with each task's name before it is fitted.

    Returns:
        The tasks, with the probe's metrics under ``linear_probe``.

    Raises:
        InputError: a recipe generates text, so a probe has no labels to predict.
        CorruptFileError: a task is not in the output folder yet.
    """
    for recipe in plan.recipes:
        if recipe.is_generation:
            raise InputError(
                f"{recipe.name!r} generates text and a linear probe predicts labels; pass recipes with labels."
            )
    tasks, vectors = [], VectorFolder(plan.output)
    for recipe in plan.recipes:
        observe(recipe.name)
        task = TaskFile.load(vectors.task_path(recipe.name))
        metrics = fit_linear_probe(backbone, load_task(recipe, plan.data, test=plan.test))
        task = replace(task, metrics={**task.metrics, "linear_probe": metrics})
        vectors.save(task)
        tasks.append(task)
    return tasks


def fit_linear_probe(backbone: EncoderBackbone, data: TaskData) -> dict[str, Any]:
    """Fit the probe on all training examples; return its metrics by split, and its settings.

    Raw and standardized embeddings are tried with every strength, so that the baseline is strong.
    Validation chooses among them. The test split, where it was read, is predicted once.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    length = data.recipe.max_length
    splits = {"train": data.train, "validation": data.validation} | ({"test": data.test} if data.test else {})
    features = {
        name: embed_all(backbone, encode(backbone.texts, data.recipe, examples.texts, length)).cpu().numpy()
        for name, examples in splits.items()
    }
    best: tuple[float, float, bool, Any] | None = None
    for is_standardized in (False, True):
        for strength in STRENGTHS:
            c = strength * (_STANDARDIZED if is_standardized else _RAW)
            regression = LogisticRegression(C=c, max_iter=1000)
            model = make_pipeline(StandardScaler(), regression) if is_standardized else regression
            model.fit(features["train"], data.train.labels)
            predicted = model.predict(features["validation"])
            score = float(classification_metrics(predicted, data.validation)[data.recipe.metric])
            if best is None or score > best[0]:
                best = (score, c, is_standardized, model)
    assert best is not None
    _, c, is_standardized, model = best
    metrics = {
        name: classification_metrics(model.predict(features[name]), examples)
        for name, examples in splits.items()
        if name != "train"
    }
    return metrics | {"C": round(c, 6), "standardized": is_standardized, "train_examples": len(data.train)}
