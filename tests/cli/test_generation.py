"""`mpt-edge run` with a generative model: streaming, options, and messages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mpt_edge
from attacks import escapes
from attacks.common import Tally
from mpt_edge.cli.run import WINDOW, _window
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.text import TextEncoder
from tests.support import commands, outcomes
from tests.support.outcomes import refused
from tests.support.writers import CONTEXT, LABELS, LENGTH, TEXTS


@pytest.fixture(scope="module")
def bundle(writer_bundle: Path) -> Path:
    return writer_bundle


def test_one_text_is_streamed(bundle: Path) -> None:
    """Standard output has the text that the API returns, and nothing else."""
    task = mpt_edge.load(bundle).task("story")
    for given, options in (
        (["--max-new-tokens", 12], {"max_new_tokens": 12}),
        (["--stop", " and", "--repetition-penalty", 1.1], {"stop": [" and"], "repetition_penalty": 1.1}),
    ):
        done = commands.run("run", "--task", "story", TEXTS[0], "--bundle", bundle, *given)
        assert done.returncode == 0, done.stderr
        assert done.stdout == task(TEXTS[0], **options).text + "\n"


def test_a_truncated_text_is_said(bundle: Path) -> None:
    """On standard error, with the side; standard output has the answer alone."""
    for task, side, beams in (("story", "end", 1), ("other-story", "beginning", 1), ("story", "end", 2)):
        options = ["--bundle", bundle, "--max-new-tokens", 4, "--num-beams", beams]
        done = commands.run_here("run", "--task", task, "The cat sat. " * 200, *options)
        answer = mpt_edge.load(bundle).task(task)("The cat sat. " * 200, max_new_tokens=4, num_beams=beams)
        assert (done.returncode, done.stdout) == (0, answer.text + "\n")
        assert done.stderr == f"mpt-edge: the text is too long for {task!r}; its {side} was left out.\n"


def test_several_texts_are_shown_whole(bundle: Path) -> None:
    model = mpt_edge.load(bundle)
    done = commands.run_here("run", "--task", "story", *TEXTS, "--bundle", bundle)
    expected = model.run(TEXTS, "story")
    shown = [f"> {text}\n{answer.text}\n\n" for text, answer in zip(TEXTS, expected, strict=True)]
    assert done.stdout == "".join(shown)


def test_generated_texts_beside_labels(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXTS[0], "task": task} for task in ("mood", "story", "mood")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = commands.run_here("run", "--input", tmp_path / "rows.jsonl", "--bundle", bundle)
    mood, story = (mpt_edge.load(bundle).task(name)(TEXTS[0]) for name in ("mood", "story"))
    line = f"{mood.label:<5}  {mood.score:.4f}  mood  {TEXTS[0]}"
    header = "label  score   task  text"
    assert done.stdout == f"{header}\n{line}\n> story  {TEXTS[0]}\n{story.text}\n\n{line}\n"


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 4},
        {"temperature": 3.0},
        {"temperature": 3.0, "seed": 7},
        {"temperature": 3.0, "top_k": 3},
        {"temperature": 3.0, "top_p": 0.5},
        {"repetition_penalty": 50.0},
        {"num_beams": 3},
        {"stop": ["zebra", " sang"]},
    ],
    ids=str,
)
def test_options_reach_the_search(bundle: Path, options: dict[str, Any]) -> None:
    """Each gives the API's answer, and another one than without the last of the options."""
    given = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            given += [f"--{name.replace('_', '-')}", one]
    done = commands.run_here("run", "--task", "ask", TEXTS[1], "--bundle", bundle, "--json", *given)
    task, output = mpt_edge.load(bundle).task("ask"), json.loads(done.stdout)["output"]
    assert output == task(TEXTS[1], **options).text
    assert output != task(TEXTS[1], **dict(list(options.items())[:-1])).text


def test_rows_of_several_tasks(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "task": task} for text, task in zip(TEXTS, ("story", "mood", "other-story"), strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = commands.run_here("run", "--input", tmp_path / "rows.jsonl", "--json", "--bundle", bundle)
    output = [json.loads(line) for line in done.stdout.splitlines()]
    expected = mpt_edge.load(bundle).run(TEXTS, tasks=["story", "mood", "other-story"])
    assert [row.get("output", row.get("label")) for row in output] == [answer.summary for answer in expected]
    assert output[0]["finish"] in ("length", "eos")
    assert output[0]["new_tokens"] > 0
    assert list(output[1]["scores"]) == list(LABELS)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--max-new-tokens", 0], "limit of 0 new tokens leaves nothing to write"),
        (["--max-new-tokens", 5000], "leave no room for a text"),
        (["--temperature", -1], "a temperature of -1.0 is not possible"),
        (["--num-beams", 2, "--temperature", 1], "beam search samples nothing; pass a temperature of 0."),
        (["--top-p", 2], "top_p must be above 0 and at most 1"),
        (["--stop", ""], "a stop text is empty"),
        (["--repetition-penalty", "1e300"], "must lie between 0.01 and 100"),
        (["--threads", 5000], "5000 threads are not possible here; pass 1 to"),
    ],
)
def test_bad_options_are_one_sentence(bundle: Path, options: list[object], part: str) -> None:
    done = commands.run_here("run", "--task", "story", "The cat", "--bundle", bundle, *options)
    assert part in refused(done)
    assert done.stdout == ""


@pytest.mark.parametrize("text", ["", " \t"])
@pytest.mark.parametrize("options", [[], ["--json"], ["--num-beams", 2]], ids=str)
def test_an_empty_text_is_one_sentence(bundle: Path, text: str, options: list[object]) -> None:
    done = commands.run_here("run", "--task", "story", text, "--bundle", bundle, *options)
    assert "empty" in refused(done)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--task", "storey", "The cat"], "did you mean 'story'?"),
        (["The cat"], "no task is named; pass --task NAME"),
        (["--task", "story", "The cat", "--pair", "a dog"], "reads single texts"),
        (
            ["--task", "mood", "The cat", "--stop", "."],
            "'mood' chooses a label and generates no text; leave --stop out",
        ),
    ],
    ids=str,
)
def test_bad_arguments_are_one_sentence(bundle: Path, arguments: list[str], part: str) -> None:
    done = commands.run_here("run", "--bundle", bundle, *arguments)
    assert part in refused(done)
    assert done.stdout == ""


def test_files_are_answered_in_smaller_parts_than_with_encoders(
    bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").touch()
    with (tmp_path / "rows.txt").open("rb") as stream:
        assert [_window(mpt_edge.load(folder), stream, 8) for folder in (bundle, tiny_bundle)] == [8, WINDOW]


def test_rows_that_cannot_be_used_are_skipped(bundle: Path) -> None:
    lines = f"{TEXTS[0]}\n\n{TEXTS[1]}\n"
    options = ["--json", "--on-error", "skip", "--bundle", bundle]
    done = commands.run_here("run", "--task", "story", *options, input=lines)
    assert done.returncode == 0
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 3]
    assert "skipped 1 of 3 rows" in done.stderr


def test_rows_without_room_for_their_text_are_skipped_too(bundle: Path) -> None:
    """Only tokenizing shows that a template fills the room; the message names the line."""
    rows = [{"text": TEXTS[0], "task": name} for name in ("story", "ask", "story")]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    options = ["--format", "jsonl", "--json", "--bundle", bundle, "--max-new-tokens", CONTEXT - LENGTH - 4]
    done = commands.run_here("run", "--on-error", "skip", *options, input=lines)
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 3]
    assert "skipping a row: standard input line 2: nothing of the text fits into 4 tokens" in done.stderr
    assert "line 2: nothing of the text fits" in refused(commands.run_here("run", *options, input=lines))


@pytest.mark.parametrize("option", ["--seed", "--top-k"])
def test_options_without_effect_are_named(bundle: Path, option: str) -> None:
    done = commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", bundle, option, 3)
    assert done.stderr == f"mpt-edge: nothing is sampled without --temperature; {option} does nothing.\n"
    assert done.stdout == commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", bundle).stdout
    sampled = commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", bundle, option, 3, "--temperature", 1)
    assert (sampled.returncode, sampled.stderr) == (0, "")
    both = commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", bundle, "--seed", 3, "--top-k", 3)
    assert both.stderr == "mpt-edge: nothing is sampled without --temperature; --seed and --top-k do nothing.\n"


@pytest.fixture
def changed(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the bundle, with other options for the task `story`."""

    def make(**options: object) -> Path:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        task = mpt_edge.load(copy).bundle.task("story")
        replace(task, version=2, generation=task.generation | options).save(tmp_path / "story.safetensors")
        Bundle.open(copy).install_untested(tmp_path / "story.safetensors")
        return copy

    return make


def test_a_task_that_samples_needs_no_temperature(changed: Callable[..., Path]) -> None:
    folder = changed(temperature=1.0)
    done = commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", folder, "--seed", 3)
    assert outcomes.done(done) == mpt_edge.load(folder).task("story")(TEXTS[0], seed=3).text + "\n"


def test_a_task_with_beams_of_its_own_is_printed_whole(changed: Callable[..., Path]) -> None:
    folder = changed(num_beams=3)
    done = commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", folder)
    assert outcomes.done(done) == mpt_edge.load(folder).task("story")(TEXTS[0]).text + "\n"


def test_an_encoder_generates_no_text(tiny_bundle: Path) -> None:
    done = commands.run_here("run", "--task", "topic", "a film", "--bundle", tiny_bundle, "--max-new-tokens", 3)
    assert done.returncode == 1
    assert "generate no text; leave --max-new-tokens out" in done.stderr


@pytest.mark.parametrize("beams", [1, 2])
def test_a_text_without_known_tokens_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    """Below a streamed text, and beside each of several."""
    monkeypatch.setattr(TextEncoder, "is_unknown", lambda *_: True)
    options = ["--bundle", bundle, "--max-new-tokens", 2, "--num-beams", beams]
    done = commands.run_here("run", "--task", "story", "The cat", *options)
    assert done.stderr == (
        "mpt-edge: the tokenizer knows no token of the text for 'story', so the answer says nothing about it.\n"
    )
    done = commands.run_here("run", "--task", "story", "The cat", "The dog", *options)
    assert "> The dog (no known tokens)\n" in done.stdout
    assert done.stderr == ""


def test_control_characters_of_a_model(writer_bundle: Path) -> None:
    """At a high temperature it writes any byte; a file or a pipe gets a stream as it is."""
    for is_terminal in (True, False):
        tally = Tally("generated")
        for case in list(escapes.generation_cases(writer_bundle))[:3]:
            escapes.check(case, tally, has_traceback=False, is_terminal=is_terminal)
        assert tally.problems == []


SCHEMA = '{"type": "array", "items": {"enum": ["cat", 7]}, "minItems": 1, "maxItems": 3}'


def test_json_and_expressions(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    task, run = mpt_edge.load(bundle).task("story"), ["run", "--task", "story", TEXTS[0], "--bundle", bundle]
    for given in (SCHEMA, tmp_path / "schema.json"):
        text = outcomes.done(commands.run_here(*run, "--json-schema", given))
        assert text == task(TEXTS[0], json_schema=json.loads(SCHEMA)).text + "\n"
        assert set(json.loads(text)) <= {"cat", 7}
    answer = json.loads(outcomes.done(commands.run_here(*run, "--json", "--regex", "(yes|no)")))
    assert answer["output"] in ("yes", "no")
    assert answer["input_tokens"] == 2
    assert 0 < answer["first_token_seconds"] <= answer["seconds"]


def test_texts_that_are_cut_before_they_match(bundle: Path, tmp_path: Path) -> None:
    """They are written, and the command fails."""
    run = ["run", "--bundle", bundle, "--task", "story", "--regex", "(a|b){30}", "--max-new-tokens", 4]
    done = commands.run_here(*run, TEXTS[0])
    assert "the text reached the maximum of new tokens before matching" in refused(done)
    assert len(done.stdout) > 1
    done = commands.run_here(*run, *TEXTS[:2], "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert "2 of 2 texts reached the maximum of new tokens" in done.stderr
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["finish"] for line in lines] == ["length", "length"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--json-schema", "{"], "json_schema is no JSON"),
        (["--json-schema", "absent.json"], "absent.json: No such file or directory; check the path"),
        (["--json-schema", '{"not": {}}'], "the JSON schema cannot be used"),
        (["--regex", "(a"], "the regular expression cannot be used (unclosed group)"),
        (["--regex", "a", "--json-schema", "{}"], "both json_schema and regex"),
        (["--regex", "a", "--stop", "b"], "leave out stop"),
        (["--regex", "a{400}"], "needs at least"),
    ],
)
def test_bad_constraints_are_one_sentence(bundle: Path, options: list[str], part: str) -> None:
    done = commands.run_here("run", "--task", "story", TEXTS[0], "--bundle", bundle, *options)
    assert part in refused(done)
    assert done.stdout == ""
