"""`mpt-edge run` where a model writes: the real command on the bundle of a small model that every clone can make."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mpt_edge
from mpt_edge.cli.run import WINDOW, _window
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.generative_model import GenerativeModel
from tests.support import commands, outcomes
from tests.support.outcomes import refused
from tests.support.writers import CONTEXT, LABELS, LENGTH, TEXTS


@pytest.fixture(scope="module")
def bundle(writer_bundle: Path) -> Path:
    return writer_bundle


def test_one_text_is_streamed(bundle: Path) -> None:
    """What arrives on standard output is the text that the API returns, and nothing else."""
    task = mpt_edge.load(bundle).task("story")
    for given, options in (
        (["--max-new-tokens", 12], {"max_new_tokens": 12}),
        (["--stop", " and", "--repetition-penalty", 1.1], {"stop": [" and"], "repetition_penalty": 1.1}),
    ):
        done = commands.run("run", "--task", "story", TEXTS[0], "--bundle", bundle, *given)
        assert done.returncode == 0, done.stderr
        assert done.stdout == task(TEXTS[0], **options).label + "\n"


def test_a_text_that_was_cut_is_said(bundle: Path) -> None:
    """On standard error, with the side; standard output has the answer alone."""
    for task, side, beams in (("story", "end", 1), ("other-story", "beginning", 1), ("story", "end", 2)):
        options = ["--bundle", bundle, "--max-new-tokens", 4, "--num-beams", beams]
        done = commands.run("run", "--task", task, "The cat sat. " * 200, *options)
        answer = mpt_edge.load(bundle).task(task)("The cat sat. " * 200, max_new_tokens=4, num_beams=beams)
        assert (done.returncode, done.stdout) == (0, answer.label + "\n")
        assert done.stderr == f"mpt-edge: the text is too long for {task!r}; its {side} was left out.\n"


def test_several_texts_are_shown_whole(bundle: Path) -> None:
    model = mpt_edge.load(bundle)
    done = commands.run("run", "--task", "story", *TEXTS, "--bundle", bundle)
    wanted = model.run(TEXTS, "story")
    shown = [f"> {text}\n{answer.label}\n\n" for text, answer in zip(TEXTS, wanted, strict=True)]
    assert done.stdout == "".join(shown)


def test_written_texts_beside_labels(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXTS[0], "task": task} for task in ("mood", "story", "mood")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = commands.run("run", "--input", tmp_path / "rows.jsonl", "--bundle", bundle)
    mood, story = (mpt_edge.load(bundle).task(name)(TEXTS[0]) for name in ("mood", "story"))
    line = f"{mood.label:<5}  {mood.score:.4f}  mood  {TEXTS[0]}"
    header = "label  score   task  text"
    assert done.stdout == f"{header}\n{line}\n> story  {TEXTS[0]}\n{story.label}\n\n{line}\n"


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
    done = commands.run("run", "--task", "ask", TEXTS[1], "--bundle", bundle, "--json", *given)
    task, found = mpt_edge.load(bundle).task("ask"), json.loads(done.stdout)["output"]
    assert found == task(TEXTS[1], **options).label
    assert found != task(TEXTS[1], **dict(list(options.items())[:-1])).label


def test_rows_of_several_tasks(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "task": task} for text, task in zip(TEXTS, ("story", "mood", "other-story"), strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = commands.run("run", "--input", tmp_path / "rows.jsonl", "--json", "--bundle", bundle)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = mpt_edge.load(bundle).run(TEXTS, tasks=["story", "mood", "other-story"])
    assert [row.get("output", row.get("label")) for row in found] == [answer.label for answer in wanted]
    assert found[0]["finish"] in ("length", "eos")
    assert found[0]["new_tokens"] > 0
    assert list(found[1]["scores"]) == list(LABELS)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--max-new-tokens", 0], "limit of 0 new tokens leaves nothing to write"),
        (["--max-new-tokens", 5000], "leave no room for a text"),
        (["--temperature", -1], "a temperature of -1.0 is not possible"),
        (["--num-beams", 2, "--temperature", 1], "beams follow the likeliest tokens"),
        (["--top-p", 2], "top_p must be above 0 and at most 1"),
        (["--stop", ""], "a stop text is empty"),
        (["--repetition-penalty", "1e300"], "must lie between 0.01 and 100"),
        (["--threads", 5000], "5000 threads are not possible here; pass 0 (automatic) to"),
    ],
)
def test_bad_options_are_one_sentence(bundle: Path, options: list[object], part: str) -> None:
    done = commands.run("run", "--task", "story", "The cat", "--bundle", bundle, *options)
    assert part in refused(done)
    assert done.stdout == ""


@pytest.mark.parametrize("text", ["", " \t"])
@pytest.mark.parametrize("options", [[], ["--json"], ["--num-beams", 2]], ids=str)
def test_an_empty_text_is_one_sentence(bundle: Path, text: str, options: list[object]) -> None:
    done = commands.run("run", "--task", "story", text, "--bundle", bundle, *options)
    assert "empty" in refused(done)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--task", "storey", "The cat"], "did you mean 'story'?"),
        (["The cat"], "no task is named; pass --task NAME"),
        (["--task", "story", "The cat", "--pair", "a dog"], "reads single texts"),
        (["--task", "mood", "The cat", "--stop", "."], "'mood' chooses a label and writes no text; leave --stop out"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_sentence(bundle: Path, arguments: list[str], part: str) -> None:
    done = commands.run("run", "--bundle", bundle, *arguments)
    assert part in refused(done)
    assert done.stdout == ""


def test_a_refused_request_leaves_the_output_alone(bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text("of yesterday\n")
    given = ["--task", "story", "--bundle", bundle, "--output", output]
    for arguments in ([TEXTS[0], "--temperature", -1], [""], [TEXTS[0], "--threads", 5000]):
        refused(commands.run("run", *given, *arguments))
        assert output.read_text() == "of yesterday\n"
    assert commands.run("run", *given, TEXTS[0]).returncode == 0
    (answer,) = map(json.loads, output.read_text().splitlines())
    assert answer["text"] == TEXTS[0]


def test_an_interrupted_run_keeps_what_was_written(bundle: Path, tmp_path: Path) -> None:
    """Texts take long, so rows of a file are written batch by batch."""
    rows, output, part = (tmp_path / name for name in ("rows.txt", "answers.jsonl", "answers.jsonl.part"))
    rows.write_text(f"{TEXTS[0]}\n" * 20_000)
    output.write_text("of yesterday\n")
    command = [Path(sys.executable).with_name("mpt-edge"), "run", "--task", "story", "--bundle", bundle]
    command += ["--input", rows, "--output", output, "--batch-size", "2"]
    # Ctrl-C reaches it even where the tests themselves run in the background, which ignores it.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:  # noqa: PLW1509
        while not (part.is_file() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        said = process.stderr.read().splitlines()
    assert said == [f"mpt-edge: what was answered before is in {part}.", "mpt-edge: interrupted."]
    assert output.read_text() == "of yesterday\n"
    written = part.read_text().splitlines()
    assert 2 <= len(written) < 20_000
    assert [json.loads(line)["line"] for line in written] == list(range(1, len(written) + 1))


def test_files_are_answered_in_smaller_parts_where_answers_are_written(
    bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").touch()
    with (tmp_path / "rows.txt").open("rb") as stream:
        assert [_window(mpt_edge.load(folder), stream, 8) for folder in (bundle, tiny_bundle)] == [8, WINDOW]


def test_rows_that_cannot_be_used_are_skipped(bundle: Path) -> None:
    lines = f"{TEXTS[0]}\n\n{TEXTS[1]}\n"
    options = ["--json", "--on-error", "skip", "--bundle", bundle]
    done = commands.run("run", "--task", "story", *options, input=lines)
    assert done.returncode == 0
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 3]
    assert "skipped 1 of 3 rows" in done.stderr


def test_rows_whose_text_finds_no_room_are_skipped_too(bundle: Path) -> None:
    """A template that fills the room shows only when the row is made ready; it is named by its line."""
    rows = [{"text": TEXTS[0], "task": name} for name in ("story", "ask", "story")]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    options = ["--format", "jsonl", "--json", "--bundle", bundle, "--max-new-tokens", CONTEXT - LENGTH - 4]
    done = commands.run("run", "--on-error", "skip", *options, input=lines)
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 3]
    assert "skipping a row: standard input line 2: nothing of the text fits into 4 tokens" in done.stderr
    assert "line 2: nothing of the text fits" in refused(commands.run("run", *options, input=lines))


@pytest.mark.parametrize("option", ["--seed", "--top-k"])
def test_what_has_no_effect_is_said(bundle: Path, option: str) -> None:
    done = commands.run("run", "--task", "story", TEXTS[0], "--bundle", bundle, option, 3)
    assert done.stderr == f"mpt-edge: nothing is drawn without --temperature; {option} does nothing.\n"
    assert done.stdout == commands.run("run", "--task", "story", TEXTS[0], "--bundle", bundle).stdout
    drawn = commands.run("run", "--task", "story", TEXTS[0], "--bundle", bundle, option, 3, "--temperature", 1)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    both = commands.run("run", "--task", "story", TEXTS[0], "--bundle", bundle, "--seed", 3, "--top-k", 3)
    assert both.stderr == "mpt-edge: nothing is drawn without --temperature; --seed and --top-k do nothing.\n"


@pytest.fixture
def changed(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the bundle, where the task that tells a story writes by other options."""

    def make(**options: object) -> Path:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        task = mpt_edge.load(copy).bundle.task("story")
        replace(task, generation=task.generation | options).save(tmp_path / "story.safetensors")
        Bundle.open(copy).install(tmp_path / "story.safetensors")
        return copy

    return make


def test_a_task_that_draws_needs_no_temperature(changed: Callable[..., Path]) -> None:
    folder = changed(temperature=1.0)
    done = commands.run("run", "--task", "story", TEXTS[0], "--bundle", folder, "--seed", 3)
    assert outcomes.done(done) == mpt_edge.load(folder).task("story")(TEXTS[0], seed=3).label + "\n"


def test_a_task_with_beams_of_its_own_is_written_whole(changed: Callable[..., Path]) -> None:
    folder = changed(num_beams=3)
    done = commands.run("run", "--task", "story", TEXTS[0], "--bundle", folder)
    assert outcomes.done(done) == mpt_edge.load(folder).task("story")(TEXTS[0]).label + "\n"


def test_a_golden_text_is_told_by_its_likelihood(bundle: Path, tmp_path: Path) -> None:
    """Another text may be written where rounding differs; a text that has become less likely is another model's."""
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    model = mpt_edge.load(copy, threads=1)
    assert isinstance(model, GenerativeModel)
    likely = model.log_likelihood(TEXTS[0], "story", "another text")
    for moved, passes in ((0.0, True), (0.01, True), (0.5, False)):
        reference_example = {"text": TEXTS[0], "label": "another text", "score": 0.0, "log_likelihood": likely + moved}
        replace(model.bundle.task("story"), reference_example=reference_example).save(tmp_path / "story.safetensors")
        model.bundle.install(tmp_path / "story.safetensors")
        done = commands.run("tasks", "verify", "story", "--bundle", copy)
        if passes:
            assert done.returncode == 0, done.stderr
        else:
            assert "story answers its reference example with another text (-" in refused(done)


def test_an_encoder_writes_no_text(tiny_bundle: Path) -> None:
    done = commands.run("run", "--task", "topic", "a film", "--bundle", tiny_bundle, "--max-new-tokens", 3)
    assert done.returncode == 1
    assert "write no text; leave --max-new-tokens out" in done.stderr


def test_tasks_are_listed_and_shown(bundle: Path) -> None:
    listed = commands.run("tasks", "list", "--bundle", bundle)
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
        ["ask", "generation"],
        ["mood", "classification"],
        ["other-story", "generation"],
        ["story", "generation"],
    ]
    shown = json.loads(commands.run("tasks", "show", "story", "--bundle", bundle).stdout)
    assert (shown["readout"], shown["generation"]) == ("generation", {"max_new_tokens": 24})
    assert "4 tasks are as they were made" in commands.run("tasks", "verify", "--bundle", bundle).stdout


def test_bench_of_a_model_that_writes(bundle: Path) -> None:
    options = ["--bundle", bundle, "--repeats", 3, "--new-tokens", 4, "--length", 10]
    figures = json.loads(commands.run("bench", *options, "--json").stdout)
    assert figures["tokens_per_second_prefix"] > 0
    assert figures["first_token_none_ms"] > 0
    assert figures["prefix_ratio"] > 0
    assert figures["model_bytes"] == sum(path.stat().st_size for path in (bundle / "onnx").iterdir())
    assert "the prompt's price" in commands.run("bench", *options).stdout
    done = commands.run("bench", "--bundle", bundle, "--tokens", 5000)
    assert done.returncode == 1
    assert "lower --tokens" in done.stderr
