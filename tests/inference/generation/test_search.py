"""Greedy search, sampling, beams and choice against transformers' generate on random models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from tokenizers import Tokenizer, decoders, models
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.beams import BeamRow, beam_search
from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.inference.generation.search import Row, generate
from mpt_edge.inference.generation.streaming import TextStream
from mpt_edge.inference.generation.tokens import penalized, pick, probabilities
from mpt_edge.training.backbones.causal import PromptedCausal
from tests.support import causal
from tests.support.causal import build
from tests.support.decodings import opened

EOS = (2,)
TEXTS = [[5, 17, 33, 8], [44, 9], [7, 7, 21, 50, 12, 3, 60]]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neo"])
def models_(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PromptedCausal]:
    return build(request.param)


def letters() -> Tokenizer:
    """A tokenizer with a letter a token."""
    tokenizer = Tokenizer(
        models.WordLevel({chr(0x4E00 + i): i for i in range(causal.SIZES["vocab_size"])}, unk_token=chr(0x4E00))
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def reference(model: PreTrainedModel, text: list[int], **options: object) -> list[int]:
    """What transformers writes behind one text alone, without the token that ends it."""
    with torch.no_grad():
        ids = torch.tensor([text])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False, **options)
    written = found[0, len(text) :].tolist()
    return written[: written.index(2)] if 2 in written else written


def greedy(model: PromptedCausal, texts: list[list[int]], options: GenerationOptions) -> list[Row]:
    decoding, logits = opened(model, texts)
    rows = [Row(TextStream(letters(), stop=options.stop), options, history=text) for text in texts]
    pieces: dict[int, str] = {}
    for number, piece in generate(decoding, logits, rows, EOS):
        pieces[number] = pieces.get(number, "") + piece
    assert [pieces.get(i, "") for i in range(len(rows))] == [row.stream.text for row in rows]
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 20},
        {"max_new_tokens": 1},
        {"max_new_tokens": 20, "repetition_penalty": 1.7},
        {"max_new_tokens": 20, "min_new_tokens": 12},
    ],
    ids=str,
)
def test_greedy_tokens_are_those_of_transformers(
    models_: tuple[PreTrainedModel, PromptedCausal], options: dict[str, float]
) -> None:
    rows = greedy(models_[1], TEXTS, GenerationOptions(**options))
    for row, text in zip(rows, TEXTS, strict=True):
        assert row.stream.tokens == reference(models_[0], text, **options)
        assert row.finish == ("length" if len(row.stream.tokens) == options["max_new_tokens"] else "eos")


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 4},
        {"num_beams": 3, "length_penalty": 0.0},
        {"num_beams": 3, "length_penalty": 2.5},
        {"num_beams": 3, "length_penalty": -1.0},
        {"num_beams": 4, "early_stopping": True},
        {"num_beams": 3, "early_stopping": "never"},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.5},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": -1.0},
        {"num_beams": 3, "repetition_penalty": 1.5},
        {"num_beams": 3, "min_new_tokens": 9},
    ],
    ids=str,
)
@pytest.mark.parametrize("boost", [0.0, 4.0], ids=["", "early ends"])
def test_beams_are_those_of_transformers(
    models_: tuple[PreTrainedModel, PromptedCausal], options: dict[str, float], boost: float
) -> None:
    plain, prompted = models_
    heads = [model.get_output_embeddings() for model in (plain, prompted.model)]
    hooks = [head.register_forward_hook(lambda *given: _boosted(given[2], boost)) for head in heads]
    try:
        chosen = GenerationOptions(max_new_tokens=14, **options)
        decoding, logits = opened(prompted, TEXTS)
        rows = [BeamRow(chosen, history=text) for text in TEXTS]
        beam_search(decoding, logits, rows, EOS)
        for row, text in zip(rows, TEXTS, strict=True):
            assert row.best[0] == reference(plain, text, max_new_tokens=14, **options)
    finally:
        for hook in hooks:
            hook.remove()


def test_beams_go_on_beside_several_end_tokens() -> None:
    row = BeamRow(GenerationOptions(num_beams=2))
    _, tokens = row.step(np.tile(np.arange(6, 0, -1, dtype=np.float32), (2, 1)), eos=(0, 1, 2))
    assert tokens == [3, 4]


def test_beams_that_all_come_to_a_stop_text_end() -> None:
    row = BeamRow(GenerationOptions(num_beams=2), stops=lambda _: True)
    row.step(np.tile(np.arange(6, dtype=np.float32), (2, 1)), EOS)
    assert row.done
    assert row.best == ([5], "stop")


def test_beams_that_favor_short_texts_never_stop_too_early() -> None:
    """Complete texts have -4 and -5; one under way has -1, and would have -14 if it ran to the limit."""
    options = GenerationOptions(num_beams=2, max_new_tokens=14, early_stopping="never", length_penalty=-1.0)
    row = BeamRow(options, complete=[(-4.0, [2], "eos"), (-5.0, [2], "eos")])
    row.scores[0] = -1.0
    row.step(np.tile(np.array([0, 0, -99, 40], np.float32), (2, 1)), EOS)
    assert not row.done


def _boosted(logits: torch.Tensor, boost: float) -> torch.Tensor:
    """Make the token that ends a text likelier, so that beams end at different lengths."""
    changed = logits.clone()
    changed[..., 2] += boost
    return changed


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.8), (0.9, 20, 0.5)]
)
def test_probabilities_are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (8, 61)).astype(np.float32)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    wanted = softmax(warpers(None, torch.from_numpy(logits)).numpy(), axis=-1)
    options = GenerationOptions(temperature=temperature, top_k=top_k, top_p=top_p)
    for row, expected in zip(logits, wanted, strict=True):
        np.testing.assert_allclose(probabilities(row, options), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-6, 1e-310])
def test_hardly_any_temperature_takes_the_likeliest(temperature: float) -> None:
    options = GenerationOptions(temperature=temperature)
    np.testing.assert_array_equal(probabilities(np.array([9, 10, -3, -np.inf], np.float32), options), [0, 1, 0, 0])


def test_draws_follow_the_probabilities() -> None:
    scores = np.random.default_rng(1).normal(0, 1.5, 10).astype(np.float32)
    options = GenerationOptions(temperature=0.8)
    rng = np.random.default_rng(0)
    counts = np.bincount([pick(scores, options, rng) for _ in range(20_000)], minlength=10) / 20_000
    assert np.abs(counts - probabilities(scores, options)).max() < 0.012


def test_a_drawn_text_does_not_depend_on_its_batch(models_: tuple[PreTrainedModel, PromptedCausal]) -> None:
    options = GenerationOptions(max_new_tokens=15, temperature=1.2, seed=5)
    together = greedy(models_[1], TEXTS, options)
    for row, text in zip(together, TEXTS, strict=True):
        alone = greedy(models_[1], [text], options)[0]
        assert row.stream.tokens == alone.stream.tokens
    other = greedy(models_[1], TEXTS, GenerationOptions(max_new_tokens=15, temperature=1.2, seed=6))
    assert [row.stream.tokens for row in other] != [row.stream.tokens for row in together]


def test_stop_text_ends_a_row_and_is_no_part_of_it(models_: tuple[PreTrainedModel, PromptedCausal]) -> None:
    free = greedy(models_[1], TEXTS, GenerationOptions(max_new_tokens=12))
    whole = free[0].stream.text
    stop = whole[3:5]
    stopped = greedy(models_[1], TEXTS, GenerationOptions(max_new_tokens=12, stop=(stop,)))
    assert stopped[0].finish == "stop"
    assert stopped[0].stream.text == whole[: whole.index(stop)]


@pytest.mark.parametrize("limit", [2, 9])
def test_what_was_held_back_comes_at_the_end(limit: int) -> None:
    """By the limit or by the token that ends a text: "a" was no stop text after all, and "end" is one."""
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "x": 1, "a": 2, "end\ufffd": 3}, unk_token="</s>"))
    tokenizer.decoder = decoders.Fuse()
    for token, text, finish in ((2, "xa", "length" if limit == 2 else "eos"), (3, "x", "stop")):
        row = Row(TextStream(tokenizer, stop=("ab", "end")), GenerationOptions(max_new_tokens=limit))
        taken = [row.take(np.eye(4, dtype=np.float32)[i], (0,))[1] for i in (1, token, 0)[: min(limit, 3)]]
        assert ("".join(taken), row.stream.text, row.finish) == (text, text, finish)


def test_likelihoods_are_those_of_each_choice_alone(models_: tuple[PreTrainedModel, PromptedCausal]) -> None:
    plain, prompted = models_
    choices = [[[4, 5, 6], [9]], [[30], [31], [32, 33]], [[10, 11, 12, 13]]]
    decoding, logits = opened(prompted, TEXTS)
    for text, group, found in zip(TEXTS, choices, likelihoods(decoding, logits, choices), strict=True):
        for tokens, value in zip(group, found, strict=True):
            with torch.no_grad():
                scores = log_softmax(plain(torch.tensor([text + tokens])).logits[0].numpy(), axis=-1)
            places = np.arange(len(text) - 1, len(text) + len(tokens) - 1)
            assert value == pytest.approx(scores[places, tokens].mean(), abs=1e-4)


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(CorruptFileError, match="not a number"):
        penalized(np.array([0.0, np.nan], np.float32), [], GenerationOptions(), EOS, 0)
