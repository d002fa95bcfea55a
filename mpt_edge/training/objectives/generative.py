"""Training objectives of generative models: the loss of target texts after inputs.

The target of a task with labels is its label's text (text to text, paper section 4.1). So recipes
for encoders train here too.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.batching import by_length
from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.inference.generation.search import GeneratedRow, generate
from mpt_edge.inference.generation.streaming import TextStream
from mpt_edge.inference.heads import Choice, TextGeneration
from mpt_edge.inference.runtime.decoding import Decoding
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone, Seq2SeqBackbone
from mpt_edge.training.data.examples import Examples
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.classification import ClassificationObjective
from mpt_edge.training.objectives.distillation import Loss, Teacher
from mpt_edge.training.objectives.generative_reading import open_texts, read_texts
from mpt_edge.training.objectives.objective import Evaluation, TaskObjective
from mpt_edge.training.objectives.text_metrics import TEXT_METRICS
from mpt_edge.training.schedule import TaskBatch

#: Tokens of a forward pass on a CPU, padding included, unless one text has more.
_TOKENS_PER_PASS = 1024

#: Texts that are generated together, and the cached positions of all of them.
_TEXTS_PER_BATCH, _POSITIONS_PER_BATCH = 64, 16384

#: Validation texts that a finished task generates. Test texts are all generated.
_VALIDATION_TEXTS = 128


class GenerativeObjective(TaskObjective):
    """Base of both objectives of generative models: cross entropy of the target tokens."""

    backbone: GenerativeBackbone

    @property
    def new_tokens(self) -> int:
        """Maximum tokens after the input; see `TaskObjective.new_tokens`."""
        return 0 if isinstance(self.backbone, Seq2SeqBackbone) else self._target_length()

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:  # noqa: ARG002
        """Return the mean loss of the target tokens; see `TaskObjective.loss`."""
        rows = [self.train_rows[i] for i in batch.rows]
        targets = [self._train_targets[i] for i in batch.rows]
        output = read_texts(self.backbone, prompt, self.placement, rows, targets)
        if self.distillation is None:
            return self._without_teacher(output.loss() / len(output.targets), batch)
        logits = output.logits
        task = functional.cross_entropy(logits, output.targets)

        def teach(teacher: Teacher) -> tuple[Tensor, Tensor]:
            taught = read_texts(self.backbone, teacher.prompt, teacher.placement, rows, targets)
            return taught.logits, taught.hidden

        return self._with_teacher(task, batch, (logits, output.hidden), output.mask, teach)

    @torch.no_grad()
    def held_out_loss(self, prompt: Tensor | None, examples: Examples) -> float:
        """Return the mean loss of a target token, outside training."""
        rows, targets = self._encode(examples.texts), self._targets(examples)
        lengths = [len(row.ids) + len(target) for row, target in zip(rows, targets, strict=True)]
        total, count = 0.0, 0
        for batch in by_length(lengths, len(rows), _TOKENS_PER_PASS):
            chosen = [rows[i] for i in batch], [targets[i] for i in batch]
            output = read_texts(self.backbone, prompt, self.placement, *chosen)
            total += float(output.loss())
            count += len(output.targets)
        return total / count

    def example_tokens(self, row: int) -> list[int]:
        """Return the tokens of a training row and its target; see `TaskObjective.example_tokens`."""
        return [*self.train_rows[row].ids, *self._train_targets[row]]

    def parts(self, rows: NDArray[np.int64], max_rows: int | None) -> Iterator[NDArray[np.int64]]:
        """Split rows of a batch into those of each forward pass; see `TaskObjective.parts`.

        On a CPU a pass has a limited number of tokens. More would be no faster, need more memory, and have
        more padding.
        """
        lengths = np.array([self._counts(row)[1] for row in rows], np.int64)
        limit = max_rows or max(1, len(rows))
        is_on_cpu = next(self.backbone.model.parameters()).device.type == "cpu"
        if not is_on_cpu or (len(rows) <= limit and lengths.max(initial=0) * len(rows) <= _TOKENS_PER_PASS):
            yield from super().parts(rows, max_rows)
            return
        for batch in by_length(lengths.tolist(), limit, _TOKENS_PER_PASS):
            yield rows[batch]

    def _tokenize(self) -> None:
        self.train_rows = self._encode(self.data.train.texts)
        self._train_targets = self._targets(self.data.train)

    @abstractmethod
    def _targets(self, examples: Examples) -> list[list[int]]:
        """Return the target tokens after each input."""

    @abstractmethod
    def _target_length(self) -> int:
        """Return the maximum number of tokens that are read after an input."""

    def _counts(self, row: int) -> tuple[int, int]:
        answers = len(self._train_targets[row])
        return answers, len(self.train_rows[row].ids) + answers

    def _open(self, prompt: Tensor | None, rows: Sequence[Encoded]) -> tuple[Decoding, Floats]:
        return open_texts(self.backbone, prompt, self.placement, rows)


class GenerationObjective(GenerativeObjective):
    """Generation of a text; see `TaskObjective`."""

    head_type = TextGeneration
    metrics = tuple(TEXT_METRICS)
    longer_text = "lower its max_target_length"

    @classmethod
    def problems(cls, recipe: Recipe) -> Iterator[str]:
        """Yield entries of a recipe that do not fit; see `TaskObjective.problems`."""
        yield from super().problems(recipe)
        if recipe.labels:
            yield "a task that generates text has no labels; leave [labels] out"

    def score(self, prompt: Tensor | None, examples: Examples) -> float:
        """Return the probability of a target token, its geometric mean: the loss as a number from 0 to 1.

        To generate texts after each epoch would take longer than the epoch itself.
        """
        return math.exp(-self.held_out_loss(prompt, examples))

    def evaluate(self, prompt: Tensor) -> Evaluation:
        """Measure the finished task; see `TaskObjective.evaluate`."""
        metrics = self._measure_splits(
            lambda examples: self._measure(
                prompt, examples, _VALIDATION_TEXTS if examples is self.data.validation else len(examples)
            )
        )
        generation: dict[str, Any] = {"max_new_tokens": self.recipe.max_target_length}
        generation |= {"stop": list(self.recipe.stop)} if self.recipe.stop else {}
        example = self._reference_example(prompt, self.data.validation.texts[0])
        return Evaluation(example, metrics, generation=generation)

    @torch.no_grad()
    def generate(self, prompt: Tensor | None, texts: Sequence[Text]) -> list[str]:
        """Generate each text's answer under a prompt or none, greedily, as the device does."""
        options = GenerationOptions(max_new_tokens=self.recipe.max_target_length, stop=self.recipe.stop)
        rows = self._encode(texts)
        room = self.recipe.max_target_length + (0 if prompt is None else len(prompt))
        lengths = [len(row.ids) + room for row in rows]
        result = [""] * len(rows)
        for batch in by_length(lengths, _TEXTS_PER_BATCH, _POSITIONS_PER_BATCH):
            for i, text in zip(batch, self._generate_batch(prompt, [rows[i] for i in batch], options), strict=True):
                result[i] = text
        return result

    def _generate_batch(self, prompt: Tensor | None, rows: Sequence[Encoded], options: GenerationOptions) -> list[str]:
        decoding, logits = self._open(prompt, rows)
        prefixes = [self.backbone.front(row.ids) for row in rows]
        streams = [TextStream(self.backbone.texts.tokenizer, prefix, options.stop) for prefix in prefixes]
        generated = [GeneratedRow(*pair) for pair in zip(streams, [options] * len(rows), prefixes, strict=True)]
        for _ in generate(decoding, logits, generated, self.backbone.eos_ids):
            pass
        return [stream.text.lstrip() for stream in streams]

    def _measure(self, prompt: Tensor | None, examples: Examples, max_texts: int) -> dict[str, Any]:
        """Return the loss on all examples, and the recipe's metric of texts that are generated for some of them."""
        loss, sample = self.held_out_loss(prompt, examples), examples.sample(max_texts)
        value = TEXT_METRICS[self.recipe.metric](self.generate(prompt, sample.texts), sample.references)
        metrics = {self.recipe.metric: round(float(value), 4), "loss": round(loss, 4), "examples": len(examples)}
        return metrics | ({"texts": len(sample)} if len(sample) < len(examples) else {})

    def _reference_example(self, prompt: Tensor, text: Text) -> dict[str, Any]:
        """Return a text's answer and its log-likelihood, which another machine's rounding moves little.

        An answer that ends at once has no token, so no likelihood.
        """
        (answer,) = self.generate(prompt, [text])
        reference_example = {"text": text, "label": answer, "score": 0.0}
        (tokens,) = self.backbone.texts.continuations([answer])
        if not tokens:
            return reference_example
        with torch.no_grad():
            decoding, logits = self._open(prompt, self._encode([text]))
            ((value,),) = likelihoods(decoding, logits, [[tokens[: self.recipe.max_target_length]]])
        return reference_example | {"log_likelihood": round(float(value), 5)}

    def _targets(self, examples: Examples) -> list[list[int]]:
        """Return the tokens of each first reference, with the token that ends a text."""
        targets = self.backbone.texts.continuations([answers[0] for answers in examples.references])
        if not all(targets):
            raise InputError(
                f"{self.recipe.name}: a text to generate has no tokens; give it words or drop its example."
            )
        return [tokens[: self.recipe.max_target_length] + list(self.backbone.eos_ids[:1]) for tokens in targets]

    def _target_length(self) -> int:
        return self.recipe.max_target_length + len(self.backbone.eos_ids[:1])


class ChoiceObjective(GenerativeObjective, ClassificationObjective):
    """Choice of the likeliest label text; see `TaskObjective`."""

    head_type = Choice
    longer_text = "shorten its label texts"

    @torch.no_grad()
    def label_scores(self, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the mean log-likelihood of every label's text; see `ClassificationObjective.label_scores`."""
        rows = self._encode(texts)
        result = np.empty((len(rows), len(self._choices)), np.float32)
        lengths = [len(row.ids) for row in rows]
        for batch in by_length(lengths, max(1, _TEXTS_PER_BATCH // len(self._choices)), _TOKENS_PER_PASS):
            decoding, logits = self._open(prompt, [rows[i] for i in batch])
            result[batch] = likelihoods(decoding, logits, [self._choices] * len(batch))
        return result

    def _tokenize(self) -> None:
        self._choices = self.backbone.texts.continuations([group[0] for group in self.label_texts])
        super()._tokenize()

    def _targets(self, examples: Examples) -> list[list[int]]:
        """Return the tokens of each example's label text."""
        return [self._choices[label] for label in examples.labels]

    def _target_length(self) -> int:
        return max(map(len, self._choices))

    def _generation(self) -> Mapping[str, Any]:
        """Return room for the longest label text, the only texts that the device reads after an input."""
        return {"max_new_tokens": self._target_length()}
