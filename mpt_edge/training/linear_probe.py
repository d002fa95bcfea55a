"""The baseline every task is held against: logistic regression on the frozen embeddings."""

from __future__ import annotations

from typing import Any

from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.rows import TaskData, encode
from mpt_edge.training.objectives.encoder_reading import embed_all
from mpt_edge.training.objectives.metrics import classification_metrics

#: Inverse regularization strengths tried; the best on validation is taken.
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)

#: What they are multiplied by for raw and for standardized features: a unit vector of d channels has entries of about
#: d^-1/2, so that the same regularization takes about d times the strength; 300 is that of the usual 384 channels.
_RAW, _STANDARDIZED = 10.0, 1 / 30


def probe(backbone: EncoderBackbone, data: TaskData) -> dict[str, Any]:
    """Fit the probe on all training rows and return its figures.

    Both the raw unit embeddings and standardized ones are tried with every strength, so the
    baseline is a strong one; validation chooses, test (where read) is predicted once.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    length = data.recipe.max_length
    splits = {"train": data.train, "validation": data.validation} | ({"test": data.test} if data.test else {})
    features = {
        name: embed_all(backbone, encode(backbone.texts, data.recipe, rows.texts, length)).cpu().numpy()
        for name, rows in splits.items()
    }
    best: tuple[float, float, bool, Any] | None = None
    for scaled in (False, True):
        for strength in STRENGTHS:
            c = strength * (_STANDARDIZED if scaled else _RAW)
            regression = LogisticRegression(C=c, max_iter=1000)
            model = make_pipeline(StandardScaler(), regression) if scaled else regression
            model.fit(features["train"], data.train.labels)
            found = model.predict(features["validation"])
            score = float(classification_metrics(found, data.validation)[data.recipe.metric])
            if best is None or score > best[0]:
                best = (score, c, scaled, model)
    assert best is not None
    _, c, scaled, model = best
    figures = {
        name: classification_metrics(model.predict(features[name]), rows)
        for name, rows in splits.items()
        if name != "train"
    }
    return figures | {"C": round(c, 6), "standardized": scaled, "train_rows": len(data.train)}
