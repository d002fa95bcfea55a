"""What a step minimizes for a model that generates: the loss of the wanted text behind the input.

A task with labels wants its label's text, and answers by the likeliest one; so the recipes of
encoders train here too (text to text, paper section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.inference.generation.search import Row, generate
from mpt_edge.inference.generation.streaming import TextStream
from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.runtime.decoding import Decoding
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.data.rows import Rows
from mpt_edge.training.objectives.generative_reading import TextOutput, open_texts, read_texts
from mpt_edge.training.objectives.metrics import calibrated_scale, classification_metrics
from mpt_edge.training.objectives.objective import Evaluation, Loss, TaskObjective, Teacher, in_batches
from mpt_edge.training.objectives.text_metrics import TEXT_METRICS
from mpt_edge.training.schedule import TaskBatch


class TextObjective(TaskObjective):
    """Text behind text, on a model that writes; see `TaskObjective`."""

    backbone: GenerativeBackbone

    def _tokenize(self) -> None:
        texts = self.backbone.texts
        self.train_rows = [self._encode(i, task.train.texts) for i, task in enumerate(self.tasks)]
        self._choices = [texts.continuations([group[0] for group in groups]) for groups in self.label_texts]
        for index, choices in enumerate(self._choices):
            self._check_choices(index, choices)
        self._targets = [self._wanted(i, task.train) for i, task in enumerate(self.tasks)]

    def _check_choices(self, index: int, choices: Sequence[Sequence[int]]) -> None:
        """Refuse labels that no answer can tell apart, since likelihoods are those of tokens. Raises InputError."""
        name, seen = self.tasks[index].recipe.name, dict[tuple[int, ...], str]()
        for label, tokens in zip(self.tasks[index].labels, choices, strict=True):
            if not tokens:
                raise InputError(
                    f"{name}: the text of the label {label!r} has no tokens for this model; give it words that its "
                    "tokenizer knows, under [labels]."
                )
            other = seen.setdefault(tuple(tokens), label)
            if other != label:
                raise InputError(
                    f"{name}: the labels {other!r} and {label!r} have the same tokens; give one of them other words "
                    "under [labels], which this model's tokenizer tells apart."
                )

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:  # noqa: ARG002
        """Return the mean loss of the wanted tokens; see `TaskObjective.loss`."""
        rows = [self.train_rows[batch.task][i] for i in batch.rows]
        targets = [self._targets[batch.task][i] for i in batch.rows]
        found = self._read(prompt, rows, targets)
        task = functional.cross_entropy(found.logits, found.wanted)

        def taught(teacher: Teacher) -> tuple[Tensor, Tensor]:
            read = read_texts(self.backbone, teacher.prompt, teacher.layout, teacher.entry, rows, targets)
            return read.logits, read.hidden

        return self._with_teacher(task, batch, (found.logits, found.hidden), found.mask, taught)

    def _counts(self, index: int, row: int) -> tuple[int, int]:
        answers = len(self._targets[index][row])
        return answers, len(self.train_rows[index][row].ids) + answers

    def score(self, index: int, prompt: Tensor | None, rows: Rows) -> float:
        """Return one task's metric; see `TaskObjective.score`."""
        return float(self._figures(index, prompt, rows)[self.tasks[index].recipe.metric])

    def measured(self, index: int, prompt: Tensor) -> Evaluation:
        """Return what the file of one task says about itself; see `TaskObjective.measured`."""
        data, recipe = self.tasks[index], self.tasks[index].recipe
        metrics = {"validation": self._figures(index, prompt, data.validation)}
        if data.test is not None:
            metrics["test"] = self._figures(index, prompt, data.test)
        first = data.validation.texts[0]
        if recipe.kind == "generation":
            reference_example = self._reference_example(index, prompt, first)
            generation = {"max_new_tokens": recipe.max_target_length}
            return Evaluation("generation", reference_example, metrics, generation=generation)
        scores = self.likelihoods(index, prompt, data.validation.texts)
        scale = calibrated_scale(scores, data.validation)
        chances = softmax(scores[:1] * scale)[0]
        reference_example = {
            "text": first,
            "label": data.labels[int(chances.argmax())],
            "score": round(float(chances.max()), 5),
        }
        # Only the label texts are ever read behind the input, so no room is kept for more.
        longest = max(len(tokens) for tokens in self._choices[index])
        return Evaluation("choice", reference_example, metrics, scale, {"max_new_tokens": longest})

    def _reference_example(self, index: int, prompt: Tensor, text: Text) -> dict[str, Any]:
        """Return what the model writes behind a text, and how likely that is, which rounding elsewhere moves little.

        What ends at once has no token whose likelihood could be told.
        """
        (written,) = self.write(index, prompt, [text])
        reference_example = {"text": text, "label": written, "score": 0.0}
        (tokens,) = self.backbone.texts.continuations([written])
        if not tokens:
            return reference_example
        limit = self.tasks[index].recipe.max_target_length
        with torch.no_grad():
            decoding, logits = self._opened(prompt, self._encode(index, [text]))
            ((found,),) = likelihoods(decoding, logits, [[tokens[:limit]]])
        return reference_example | {"log_likelihood": round(float(found), 5)}

    @torch.no_grad()
    def write(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> list[str]:
        """Write each text's answer under a prompt ``(l, d)`` or none, greedily, as the device does."""
        recipe = self.tasks[index].recipe
        options = GenerationOptions(max_new_tokens=recipe.max_target_length, stop=recipe.stop)
        found: list[str] = []
        for rows in in_batches(self._encode(index, texts)):
            decoding, logits = self._opened(prompt, rows)
            fronts = [self.backbone.front(row.ids) for row in rows]
            streams = [TextStream(self.backbone.texts.tokenizer, front, options.stop) for front in fronts]
            under_way = [Row(stream, options, front) for stream, front in zip(streams, fronts, strict=True)]
            for _ in generate(decoding, logits, under_way, self.backbone.eos_ids):
                pass
            found += [stream.text.lstrip() for stream in streams]
        return found

    @torch.no_grad()
    def likelihoods(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the mean log-likelihood of every label's text, ``(rows, labels)``."""
        found = []
        for rows in in_batches(self._encode(index, texts), len(self._choices[index])):
            decoding, logits = self._opened(prompt, rows)
            found += likelihoods(decoding, logits, [self._choices[index]] * len(rows))
        return np.stack(found).astype(np.float32)

    @torch.no_grad()
    def held_out_loss(self, index: int, prompt: Tensor | None, rows: Rows) -> float:
        """Return the mean loss a token of the wanted texts."""
        encoded, targets = self._encode(index, rows.texts), self._wanted(index, rows)
        total, count = 0.0, 0
        for inputs, wanted in zip(in_batches(encoded), in_batches(targets), strict=True):
            found = self._read(prompt, inputs, wanted)
            total += float(functional.cross_entropy(found.logits, found.wanted, reduction="sum"))
            count += len(found.wanted)
        return total / count

    def _figures(self, index: int, prompt: Tensor | None, rows: Rows) -> dict[str, Any]:
        recipe = self.tasks[index].recipe
        if recipe.kind != "generation":
            return classification_metrics(self.likelihoods(index, prompt, rows.texts).argmax(1), rows)
        value = TEXT_METRICS[recipe.metric](self.write(index, prompt, rows.texts), rows.references)
        loss = self.held_out_loss(index, prompt, rows)
        return {recipe.metric: round(value, 4), "loss": round(loss, 4), "rows": len(rows)}

    def _wanted(self, index: int, rows: Rows) -> list[list[int]]:
        """Return the tokens that are wanted behind each text, and the one that ends them."""
        recipe = self.tasks[index].recipe
        if recipe.kind != "generation":
            return [self._choices[index][label] for label in rows.labels]
        found = self.backbone.texts.continuations([answers[0] for answers in rows.references])
        if not all(found):
            raise InputError(f"{recipe.name}: a text to generate has no tokens; give it words or drop its row.")
        return [tokens[: recipe.max_target_length] + list(self.backbone.eos_ids[:1]) for tokens in found]

    def _read(self, prompt: Tensor | None, rows: Sequence[Encoded], targets: Sequence[Sequence[int]]) -> TextOutput:
        return read_texts(self.backbone, prompt, self.layout, self.entry, rows, targets)

    def _opened(self, prompt: Tensor | None, rows: Sequence[Encoded]) -> tuple[Decoding, Floats]:
        return open_texts(self.backbone, prompt, self.layout, self.entry, rows)
