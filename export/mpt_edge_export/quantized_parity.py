"""Comparison of quantized graphs with the float32 one, before a bundle is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.errors import ParityError
from mpt_edge.formats.manifest import Manifest, Precision
from mpt_edge.inference.numerics import pool
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.text import Batch
from mpt_edge_export.parity import Graph

#: Smallest cosine between float32 and quantized outputs of a text. SmolLM2-135M was above 0.96; a graph below this has
#: lost its weights, not some digits.
MIN_COSINE = 0.9

#: Share of equal next tokens below which an export warns.
MIN_EQUAL = 0.8

#: Cosine of an encoder's texts below which an export warns.
MIN_ENCODER_COSINE = 0.97

_ROWS, _TOKENS = 8, 16

#: Tokens that the float32 graph of a generative model writes after each text.
_WRITTEN = 16


@dataclass
class Comparison:
    """Answers of a float32 graph and of its copy to the same texts."""

    precision: Precision
    """Precision of the copy."""
    exact: Graph
    """The float32 graph."""
    quantized: Graph
    """Its copy."""
    _: KW_ONLY
    vocabulary: int
    """Number of tokens."""
    manifest: Manifest
    """Pooling and lengths."""

    def __post_init__(self) -> None:
        """Draw random texts, the same at every export."""
        self._rng = np.random.default_rng(0)
        length = self.manifest.max_length
        ids = self._rng.integers(0, self.vocabulary, (_ROWS, max(1, min(_TOKENS, length - 1))))
        self._batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
        self._written = max(0, min(_WRITTEN, length - ids.shape[1]))

    def measure(self, prompts: Sequence[Floats]) -> dict[str, Any]:
        """Compare the outputs of both graphs for random texts under each prompt.

        Returns:
            The smallest cosine and the number of texts. The cosine is that of an encoder's pooled hidden states, or of
            centered logits of the next token. For generative models also the mean Kullback-Leibler divergence and the
            share of equal next tokens, in texts that the float32 graph writes.

        Raises:
            ParityError: the cosine is below `MIN_COSINE`.
        """
        smallest, next_tokens = 1.0, []
        for prompt in prompts:
            if isinstance(self.exact, OnnxEncoder):
                first = [self._pooled(graph, prompt) for graph in (self.exact, self.quantized)]
            else:
                logits = self._logits(prompt)
                first = [each[:, 0] - each[:, 0].mean(1, keepdims=True) for each in logits]
                next_tokens.append(_next_tokens(*logits))
            smallest = min(smallest, _cosine(*first))
        if smallest < MIN_COSINE:
            raise ParityError(
                f"the {self.precision} graph reads texts unlike the float32 one (cosine {smallest:.3f}, at least "
                f"{MIN_COSINE} is expected); no bundle was written. Export this backbone with --precision float32."
            )
        result: dict[str, Any] = {"min_cosine": round(smallest, 4), "texts": _ROWS * len(prompts)}
        if next_tokens:
            equal, divergence = np.mean(next_tokens, axis=0)
            result |= {"equal_next_tokens": round(float(equal), 4), "mean_divergence": round(float(divergence), 4)}
        return result

    def _pooled(self, graph: Graph, prompt: Floats) -> Floats:
        """Return an encoder's vector of each text."""
        assert isinstance(graph, OnnxEncoder)
        assert self.manifest.pooling is not None
        states = graph.request(self._batch, graph.encode_prompt(prompt))
        return pool(states, self._batch.attention_mask, self.manifest.pooling)

    def _logits(self, prompt: Floats) -> tuple[Floats, Floats]:
        """Return both graphs' logits after each text and each token that the float32 graph writes after it."""
        assert not isinstance(self.exact, OnnxEncoder)
        assert not isinstance(self.quantized, OnnxEncoder)
        state, logits = self.exact.open(self._batch, [self.exact.encode_prompt(prompt)])
        steps, tokens = [logits.copy()], []
        for _ in range(self._written):
            tokens.append(self._drawn(steps[-1]))
            steps.append(state.step(tokens[-1]).copy())
        expected = np.stack(steps, axis=1)
        state, logits = self.quantized.open(self._batch, [self.quantized.encode_prompt(prompt)])
        result = logits[:, None].copy()
        if tokens:
            further = np.stack(tokens, axis=1)
            result = np.concatenate([result, state.extend(further, np.ones_like(further))], axis=1)
        return expected, result

    def _drawn(self, logits: Floats) -> Ids:
        """Draw a next token of each text by its probability."""
        tokens: Ids = (logits + self._rng.gumbel(size=logits.shape)).argmax(1)
        return tokens


def loss_warning(precision: str, parity: Mapping[str, Any]) -> str | None:
    """Return a sentence for a graph that differs much from the float32 one; None where it does not."""
    equal, cosine = parity.get("equal_next_tokens"), parity["min_cosine"]
    if equal is not None and equal < MIN_EQUAL:
        cause = f"chooses the float32 graph's next token in {100 * equal:.0f} % of all places only"
    elif equal is None and cosine < MIN_ENCODER_COSINE:
        cause = f"reads texts unlike the float32 graph (cosine {cosine})"
    else:
        return None
    return (
        f"warning: the {precision} graph {cause}; measure your tasks on held-out data with it, or export a more exact "
        "precision."
    )


def _cosine(a: Floats, b: Floats) -> float:
    """Return the smallest cosine of two vectors of a text; -1 where one is no vector."""
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(np.where(np.isfinite(cosines), cosines, -1.0).min())


def _next_tokens(expected: Floats, result: Floats) -> tuple[float, float]:
    """Return the share of equal next tokens, and the mean divergence of their distributions."""
    a, b = _log_softmax(expected), _log_softmax(result)
    divergence = (np.exp(a) * (a - b)).sum(2)
    return float((a.argmax(2) == b.argmax(2)).mean()), float(divergence.mean())


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(2, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(2, keepdims=True))
    return result
