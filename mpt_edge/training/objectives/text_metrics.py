"""Figures of generated text: exact match and F1 as SQuAD counts them, BLEU, ROUGE, correlation of numbers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: For each row the answers that count as right, at least one.
References = Sequence[Sequence[str]]

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without punctuation, articles and extra spaces."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(predicted: Sequence[str], references: References) -> float:
    """Return the share of rows whose normalized answer is one of the references."""
    return _best(lambda answer, gold: float(normalized(answer) == normalized(gold)), predicted, references)


def token_f1(predicted: Sequence[str], references: References) -> float:
    """Return the mean overlap of words with the nearest reference, as SQuAD counts it."""
    return _best(_overlap, predicted, references)


def bleu(predicted: Sequence[str], references: References) -> float:
    """Return corpus BLEU, 0 to 1, with sacrebleu's standard tokenization."""
    import sacrebleu  # each metric brings its own library, and most commands measure none

    most = max(len(row) for row in references)
    # sacrebleu takes one list a reference number; rows with fewer references leave theirs out.
    columns: Any = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
    return float(sacrebleu.corpus_bleu(list(predicted), columns).score) / 100


def rouge_l(predicted: Sequence[str], references: References) -> float:
    """Return the mean ROUGE-L F measure against the nearest reference, with stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return _best(lambda answer, gold: float(scorer.score(gold, answer)["rougeL"].fmeasure), predicted, references)


def pearson(predicted: Sequence[str], references: References) -> float:
    """Return Pearson's correlation of answers that are numbers; what is no number counts as the middle."""
    from scipy.stats import pearsonr

    return _correlation(lambda a, b: float(pearsonr(a, b).statistic), predicted, references)


def spearman(predicted: Sequence[str], references: References) -> float:
    """Return Spearman's rank correlation of answers that are numbers; what is no number counts as the middle."""
    from scipy.stats import spearmanr

    return _correlation(lambda a, b: float(spearmanr(a, b).statistic), predicted, references)


#: The metrics that recipes name in `mpt_edge.training.data.recipes.TEXT_METRICS`. All are 1 at best; correlations
#: may be negative.
TEXT_METRICS: dict[str, Callable[[Sequence[str], References], float]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "bleu": bleu,
    "rouge_l": rouge_l,
    "pearson": pearson,
    "spearman": spearman,
}


def _best(score: Callable[[str, str], float], predicted: Sequence[str], references: References) -> float:
    rows = zip(predicted, references, strict=True)
    return float(np.mean([max(score(answer, gold) for gold in row) for answer, row in rows]))


def _overlap(answer: str, gold: str) -> float:
    found, wanted = normalized(answer).split(), normalized(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def _correlation(
    measure: Callable[[Sequence[float], Sequence[float]], float], predicted: Sequence[str], references: References
) -> float:
    wanted = [float(row[0]) for row in references]
    found = [_number(answer, float(np.mean(wanted))) for answer in predicted]
    if len(set(found)) < 2 or len(set(wanted)) < 2:
        return 0.0  # a constant correlates with nothing
    value = measure(found, wanted)
    return value if np.isfinite(value) else 0.0  # answers of 300 digits overflow


def _number(text: str, otherwise: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if np.isfinite(value) else otherwise
