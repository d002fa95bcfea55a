"""Limits on what a task may ask of a device. Times are of all-MiniLM-L6-v2 on two cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Largest number of virtual tokens. Encoding a prompt takes memory with the square of its length: 12 attention heads
#: take 12 MB with 512 virtual tokens, and 2.6 GB in all with 4,000. Lengths from 5 to 100 are equally accurate.
MAX_PROMPT_LENGTH = 512

#: Largest number of labels, and of the texts that stand for all of them. Each text is read when the task is selected:
#: 10,000 took 40 s. The largest shipped task has 151.
MAX_LABEL_TEXTS = 1024

#: Largest length of a label's name or text, in characters. Texts of 2,000 tokens fit.
MAX_LABEL = 16_384

#: Largest length of a template, in characters, and number of placeholders in it. Each placeholder repeats the text.
MAX_TEMPLATE, MAX_PLACEHOLDERS = 16_384, 8

#: Largest size of a task file's header with its texts, in bytes; JSON takes up to 30 times that memory.
MAX_HEADER = 6 << 20

#: Largest number of layers; the deepest models have 130. Each has two inputs in the graph.
MAX_LAYERS = 1024

#: Largest input length in tokens, and largest context. Time and memory of a request grow with it.
MAX_LENGTH = 1 << 20


def text_problems(labels: Sequence[str], label_texts: Sequence[Sequence[str]], template: str | None) -> Iterator[str]:
    """Yield limits that a task's texts exceed, each as the end of a sentence."""
    count = max(len(labels), sum(map(len, label_texts)))
    if count > MAX_LABEL_TEXTS:
        yield f"it has {count:,} labels or label texts, more than {MAX_LABEL_TEXTS:,}"
    longest = max((len(text) for group in (labels, *label_texts) for text in group), default=0)
    if longest > MAX_LABEL:
        yield f"a label or label text has {longest:,} characters, more than {MAX_LABEL:,}"
    if template is not None and len(template) > MAX_TEMPLATE:
        yield f"its template has {len(template):,} characters, more than {MAX_TEMPLATE:,}"
    if template is not None and (places := template.count("{text}") + template.count("{text_pair}")) > MAX_PLACEHOLDERS:
        yield f"its template repeats the text {places:,} times, more than {MAX_PLACEHOLDERS}"


def length_problem(length: int) -> Iterator[str]:
    """Yield that a prompt has too many virtual tokens, as the end of a sentence."""
    if length > MAX_PROMPT_LENGTH:
        yield f"its prompt has {length:,} virtual tokens, more than {MAX_PROMPT_LENGTH}"
