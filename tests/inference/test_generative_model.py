"""Generative models through the public API alone: streams, options, batches, and what is read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import mpt_edge
from mpt_edge.errors import InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Side
from mpt_edge.inference.answers import Answer, Generation
from mpt_edge.inference.runtime.kv_cache import KeyValueCache
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from tests.support.writers import CONTEXT, LABELS, LENGTH, TEXTS

NAMES = ["story", "ask", "mood", "other-story"]
LONG = "The cat " * 300


@pytest.fixture(scope="module")
def model(writer_bundle: Path) -> Any:
    return mpt_edge.load(writer_bundle, threads=1)


@pytest.fixture
def changed(writer_bundle: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that loads the bundle with a changed copy of one of its tasks, and selects that."""

    def add(name: str, **changes: Any) -> Any:
        replace(Bundle.open(writer_bundle).task(name), **changes).save(tmp_path / "task.safetensors")
        return mpt_edge.load(writer_bundle, threads=1).add_task(tmp_path / "task.safetensors")

    return add


def whole(model: Any, text: str, **options: Any) -> Generation:
    answer = model.task("story")(text, **options)
    assert isinstance(answer, Generation)
    return answer


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "seed": 3}, {"repetition_penalty": 1.3}, {"stop": "way"}, {"max_new_tokens": 1}],
    ids=str,
)
@pytest.mark.parametrize("text", TEXTS)
def test_stream_gives_the_same_text_in_pieces(model: Any, text: str, options: dict[str, Any]) -> None:
    pieces = list(model.task("story").stream(text, **options))
    assert "".join(pieces) == whole(model, text, **options).text
    assert all(pieces)
    assert len(pieces) > 5 or options.get("max_new_tokens") == 1


def test_pieces_are_whole_characters(model: Any) -> None:
    """Each of these characters is several tokens, and its first ones alone are no text yet."""
    pieces = list(model.task("story").stream(TEXTS[1], max_new_tokens=40))
    assert whole(model, TEXTS[1], max_new_tokens=40).new_tokens > len(pieces) + 5
    assert {"日", "本", "🎉"} <= set(pieces)
    assert not any("\ufffd" in piece for piece in pieces)


def test_stream_has_the_answer(model: Any) -> None:
    """Truncation is known before the first piece, the whole answer after the last."""
    for text, truncated in (("The cat", False), (LONG, True)):
        stream = model.task("story").stream(text, max_new_tokens=6)
        assert (stream.truncated, stream.answer) == (truncated, None)
        pieces = list(stream)
        assert stream.answer == whole(model, text, max_new_tokens=6)
        assert "".join(pieces) == stream.answer.text
        assert stream.answer.truncated == truncated


def test_a_stream_may_be_closed_early(model: Any) -> None:
    with model.task("story").stream(TEXTS[0]) as stream:
        first = next(stream)
    assert whole(model, TEXTS[0]).text.startswith(first)
    assert list(stream) == []
    assert stream.answer is None or stream.answer.text.startswith(first)


@torch.no_grad()
def test_log_likelihood_is_that_of_transformers(model: Any, writer: GenerativeBackbone) -> None:
    plain = AutoModelForCausalLM.from_pretrained(writer.folder).eval()
    prompt = torch.from_numpy(model.task("story").prompt)
    for text, target in zip(TEXTS, (" sat on the mat", " and some other words.", " x"), strict=False):
        (row,), (more,) = writer.texts.encode([text], 64), writer.texts.continuations([target])
        rows = torch.cat([prompt, plain.get_input_embeddings()(torch.tensor([*row.ids, *more]))])
        log_probs = plain(inputs_embeds=rows[None]).logits[0, -len(more) - 1 : -1].log_softmax(-1)
        mean = log_probs[torch.arange(len(more)), torch.tensor(more)].mean().item()
        assert model.log_likelihood(text, "story", target) == pytest.approx(mean, abs=1e-4)
    with pytest.raises(InputError, match="the target text has no tokens"):
        model.log_likelihood(TEXTS[0], "story", "")


def test_reasons_for_the_end_of_a_text(model: Any) -> None:
    end = whole(model, TEXTS[0], max_new_tokens=60)
    assert (end.finish, end.text) == ("eos", "sat on the mat and ate süße Törtchen 🍰 with Max. It was happy.")
    short = whole(model, TEXTS[0], max_new_tokens=4)
    assert (short.finish, short.new_tokens) == ("length", 4)
    assert end.text.startswith(short.text)
    stopped = whole(model, TEXTS[0], max_new_tokens=60, stop=["zebra", " with"])
    assert (stopped.finish, stopped.text) == ("stop", end.text[: end.text.index(" with")])
    assert whole(model, TEXTS[0], max_new_tokens=60, stop="zebra crossing") == end
    longer = whole(model, TEXTS[0], min_new_tokens=end.new_tokens + 5, max_new_tokens=60)
    assert longer.new_tokens >= end.new_tokens + 5
    assert longer.text.startswith(end.text)


def test_stop_texts_end_beams_too(model: Any) -> None:
    options = {"num_beams": 3, "max_new_tokens": 40}
    free = whole(model, TEXTS[1], **options)
    stopped = whole(model, TEXTS[1], stop=" and", **options)
    assert stopped.finish == "stop"
    assert stopped.text == free.text[: free.text.index(" and")]


def test_options_of_a_request_override_those_of_the_task(model: Any) -> None:
    task = model.task("other-story")
    (of_task, of_request) = task(TEXTS[0]), task(TEXTS[0], stop=[], max_new_tokens=60)
    assert (of_task.finish, of_request.finish) == ("stop", "eos")
    assert of_request.text.startswith(of_task.text + ".")
    assert task(TEXTS[0], stop=None, max_new_tokens=None) == of_task
    assert task(TEXTS[0], max_new_tokens=2).new_tokens == 2


def test_seeds_fix_the_samples(model: Any) -> None:
    hot = {"temperature": 3.0, "max_new_tokens": 12}
    sampled = [whole(model, TEXTS[0], seed=seed, **hot).text for seed in range(4)]
    assert len(set(sampled)) == 4
    assert whole(model, TEXTS[0], seed=2, **hot).text == sampled[2]
    assert whole(model, TEXTS[0], **hot).text == sampled[0]
    together = model.run(TEXTS, "story", seed=2, **hot)
    assert [answer.text for answer in together] == [whole(model, text, seed=2, **hot).text for text in TEXTS]


def test_nothing_is_sampled_from_one_token(model: Any) -> None:
    greedy = whole(model, TEXTS[1])
    assert whole(model, TEXTS[1], seed=9) == greedy
    assert whole(model, TEXTS[1], temperature=3.0, top_k=1, seed=9) == greedy
    assert whole(model, TEXTS[1], temperature=3.0, top_p=1e-6, seed=9) == greedy
    assert whole(model, TEXTS[1], num_beams=1) == greedy


def test_a_penalty_avoids_repetition(model: Any) -> None:
    free, held = (whole(model, TEXTS[1], repetition_penalty=penalty).text for penalty in (1.0, 50.0))
    assert free.count("🎉") > 1
    assert held.count("🎉") < 2


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda model: model.task("story")(""), "the text is empty"),
        (lambda model: model.task("story")(["a", " "]), "text 2: the text is empty"),
        (lambda model: model.task("story").stream("\n"), "the text is empty"),
        (lambda model: model.task("story")(("a", "b")), "single texts"),
        (lambda model: model.task("story")("a", max_new_tokens=0), "limit of 0 new tokens"),
        (lambda model: model.task("story")("a", max_new_tokens=CONTEXT), "leave no room"),
        (lambda model: model.task("story")("a", beams=3), "no option 'beams'"),
        (lambda model: model.task("story")("a", max_new_tokens="5"), "must be a whole number, not '5'"),
        (lambda model: model.task("story")("a", stop=5), "stop must be a text or a list of texts"),
        (lambda model: model.task("story")("a", num_beams=2, temperature=1.0), "beam search samples nothing"),
        (lambda model: model.task("story").stream("a", top_p=2.0), "top_p must be above 0 and at most 1"),
        (lambda model: model.task("story").stream("a", num_beams=2), "stream with one beam"),
        (lambda model: model.task("mood").stream("a"), "'mood' generates no text; call it instead"),
        (lambda model: model.run(["a"], ["story", "ask"]), "1 texts but 2 tasks"),
        (lambda model: model.run(["a"], "story", batch_size=0), "batch size of 0"),
        (lambda model: model.run(["a"], "story", seed=-1), "^the seed must be 0 or more"),
    ],
)
def test_bad_requests(model: Any, call: Callable[[Any], object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        call(model)


def assert_same(answer: Answer, expected: Answer) -> None:
    """Check that answers are equal, and their probabilities almost."""
    assert type(answer) is type(expected)
    assert (answer.task, answer.summary, answer.truncated) == (expected.task, expected.summary, expected.truncated)
    assert answer.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_unknown_task(model: Any) -> None:
    with pytest.raises(UnknownTaskError, match="did you mean 'story'"):
        model.task("storey")


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("beams", [1, 2])
def test_mixed_batch_equals_single_runs(model: Any, batch_size: int, beams: int) -> None:
    texts, tasks = [text for text in TEXTS for _ in NAMES], NAMES * len(TEXTS)
    options = {"num_beams": beams, "max_new_tokens": 10}
    together = model.run(texts, tasks, batch_size=batch_size, **options)
    assert [answer.task for answer in together] == tasks
    for text, name, answer in zip(texts, tasks, together, strict=True):
        alone = model.task(name)(text, **options)
        assert_same(answer, alone)


@pytest.mark.parametrize(("name", "options", "width"), [("mood", {}, len(LABELS)), ("story", {"num_beams": 3}, 3)])
def test_labels_and_beams_count_as_rows(
    model: Any, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], width: int
) -> None:
    rows: list[int] = []
    run = KeyValueCache._run

    def spy(self: KeyValueCache, *rest: Any) -> None:
        rows.append(self.rows)
        run(self, *rest)

    monkeypatch.setattr(KeyValueCache, "_run", spy)
    model.run(TEXTS * 4, name, batch_size=2 * width, max_new_tokens=3, **options)
    assert max(rows) == 2 * width


def test_list_in_list_out(model: Any) -> None:
    for name in NAMES:
        task = model.task(name)
        for answers, texts in ((task(TEXTS), TEXTS), (task(TEXTS[:1]), TEXTS[:1])):
            for answer, text in zip(answers, texts, strict=True):
                assert_same(answer, task(text))
        assert task([]) == []
    assert model.run([], []) == []


def test_threads_give_the_same_answers(writer_bundle: Path, model: Any) -> None:
    jobs = [(name, text) for name in NAMES for text in TEXTS] * 2
    fresh = mpt_edge.load(writer_bundle, threads=1)  # so that the threads also race to select the tasks
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda job: fresh.task(job[0])(job[1]).summary, jobs))
    assert answers == [model.task(name)(text).summary for name, text in jobs]


def test_template(model: Any, changed: Callable[..., Any]) -> None:
    plain = changed("ask", template=None)
    assert plain("Question: The cat\nAnswer:").text == model.task("ask")("The cat").text
    assert plain("The cat").text != model.task("ask")("The cat").text


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("name", ["mood", "ask"])
def test_long_text_is_cut_on_the_side_of_the_task(changed: Callable[..., Any], side: Side, name: str) -> None:
    """The answer is that to the text cut by hand, with the whole template around it."""
    changes = {"template": "Question:{text}\nAnswer:", "truncation_side": side, "generation": {"max_new_tokens": 8}}
    task = changed(name, **changes)
    cats, dogs = [" cat"] * 100, [" dog"] * 100
    (kept, other) = (cats, dogs) if side is Side.RIGHT else (dogs, cats)
    fits = next(count for count in range(100, 0, -1) if not task("".join(kept[:count])).truncated)
    assert 40 < fits < 64
    answer, by_hand = task("".join([*cats, *dogs])), task("".join(kept[:fits]))
    assert (answer.truncated, by_hand.truncated) == (True, False)
    assert_same(replace(answer, truncated=False), by_hand)
    opposite = task("".join(other[:fits]))
    assert answer.to_dict() != opposite.to_dict() | {"truncated": True}


def test_room_for_new_tokens_is_taken_from_the_text(changed: Callable[..., Any]) -> None:
    task = changed("story", max_length=500, generation={"max_new_tokens": 100})
    assert task.max_length == CONTEXT - LENGTH - 100
    assert task.stream(LONG).truncated
    assert task(LONG).new_tokens <= 100


@pytest.mark.parametrize("head_type", ["similarity", "embedding"])
def test_tasks_of_encoders_are_refused(writer_bundle: Path, model: Any, head_type: str, tmp_path: Path) -> None:
    """A generative model has no pooled vector, and must not generate where one is asked for."""
    replace(Bundle.open(writer_bundle).task("mood"), head_type=head_type).save(tmp_path / "mood.safetensors")
    for call in (model.add_task, Bundle.open(writer_bundle).install_untested):
        with pytest.raises(MismatchError, match="another kind of model than this causal one"):
            call(tmp_path / "mood.safetensors")


def test_a_prompt_that_fills_the_context_is_refused(writer_bundle: Path, model: Any, tmp_path: Path) -> None:
    file = Bundle.open(writer_bundle).task("story")
    values = np.ones((CONTEXT, model.task("story").prompt.shape[-1]), np.float16)
    own = SharedPrompt("story", values, Placement(), file.backbone)
    changes = {"own_prompt": own, "u": values[:, 0], "prompt": None, "prompt_sha256": None}
    replace(file, **changes).save(tmp_path / "long.safetensors")
    with pytest.raises(MismatchError, match=f"another room than {CONTEXT} positions of prompt and text"):
        model.add_task(tmp_path / "long.safetensors")


def test_task_attributes(model: Any) -> None:
    task = model.task("story")
    assert (task.name, task.file.head_type, task.labels, task.max_length) == ("story", "generation", (), 64)
    assert task.prompt.shape[0] == LENGTH
    assert model.task("mood").file.head_type == "choice"
    assert model.tasks == sorted(NAMES)
