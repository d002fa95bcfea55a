"""Metrics of generated text: SQuAD's exact match and F1, BLEU, ROUGE, and correlations of numbers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

#: For each example its right answers, at least one.
References = Sequence[Sequence[str]]

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Return an answer as SQuAD compares it: in lower case, without punctuation, articles and extra spaces."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(predicted: Sequence[str], references: References) -> float:
    """Return the share of answers that equal one of their references, both normalized."""
    return _best(
        lambda answer, target: float(normalize_answer(answer) == normalize_answer(target)), predicted, references
    )


def token_f1(predicted: Sequence[str], references: References) -> float:
    """Return the mean F1 of words with the nearest reference, as SQuAD counts it."""
    return _best(_overlap, predicted, references)


def bleu(predicted: Sequence[str], references: References) -> float:
    """Return corpus BLEU, 0 to 1, with sacrebleu's standard tokenization."""
    import sacrebleu  # each metric brings its own library, and most commands measure none

    # sacrebleu takes the first references, then the second ones, and so on; None where an example has no more.
    columns: Any = list(map(list, zip_longest(*references)))
    return float(sacrebleu.corpus_bleu(list(predicted), columns).score) / 100


def rouge_l(predicted: Sequence[str], references: References) -> float:
    """Return the mean ROUGE-L F measure against the nearest reference, with stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return _best(
        lambda answer, reference: float(scorer.score(reference, answer)["rougeL"].fmeasure), predicted, references
    )


def pearson(predicted: Sequence[str], references: References) -> float:
    """Return Pearson's correlation of numbers; an answer that is none counts as the mean of the references."""
    from scipy.stats import pearsonr

    return _correlation(lambda a, b: float(pearsonr(a, b).statistic), predicted, references)


def spearman(predicted: Sequence[str], references: References) -> float:
    """Return Spearman's rank correlation of numbers; an answer that is none counts as the mean of the references."""
    from scipy.stats import spearmanr

    return _correlation(lambda a, b: float(spearmanr(a, b).statistic), predicted, references)


#: Metrics that recipes of generated text may name. All are 1 at best; correlations may be negative.
TEXT_METRICS: dict[str, Callable[[Sequence[str], References], float]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "bleu": bleu,
    "rouge_l": rouge_l,
    "pearson": pearson,
    "spearman": spearman,
}


def _best(score: Callable[[str, str], float], predicted: Sequence[str], references: References) -> float:
    pairs = zip(predicted, references, strict=True)
    return float(np.mean([max(score(answer, reference) for reference in group) for answer, group in pairs]))


def _overlap(answer: str, reference: str) -> float:
    words, target = normalize_answer(answer).split(), normalize_answer(reference).split()
    if not words or not target:
        return float(words == target)
    common = sum((Counter(words) & Counter(target)).values())
    return 2 * common / (len(words) + len(target))


def _correlation(
    measure: Callable[[Sequence[float], Sequence[float]], float], predicted: Sequence[str], references: References
) -> float:
    target = [float(group[0]) for group in references]
    numbers = [_number(answer, float(np.mean(target))) for answer in predicted]
    if len(set(numbers)) < 2 or len(set(target)) < 2:
        return 0.0  # a constant correlates with nothing
    value = measure(numbers, target)
    return value if np.isfinite(value) else 0.0  # answers of 300 digits overflow


def _number(text: str, otherwise: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if np.isfinite(value) else otherwise
