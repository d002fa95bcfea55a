"""`mpt-edge run`: answers to texts and files, and the sentence for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpt_edge import Bundle, Model
from mpt_edge.cli.run import _window
from mpt_edge.inference.text import Encoded, Text, TextEncoder
from tests.support import commands
from tests.support.outcomes import done, refused
from tests.support.rows import agree, answered, rows_of, write

Command = Callable[..., commands.Result]


# Answers.


def test_table_of_one_text(run_process: Command, model: Model) -> None:
    header, row = done(run_process("--task", "sentiment", "a witty film")).splitlines()
    answer = model.task("sentiment")("a witty film")
    assert header.split() == ["label", "score", "text"]
    assert row.split(maxsplit=2) == [answer.label, f"{answer.score:.4f}", "a witty film"]
    assert row.index("a witty") == header.index("text")


def test_json_of_several_texts(run: Command, model: Model) -> None:
    texts = ["a witty film", "a dull movie", "the ball game"]
    rows = answered(run("--json", "--task", "topic", *texts))
    assert [list(row) for row in rows] == [["task", "label", "score", "scores", "text"]] * 3
    assert [row["text"] for row in rows] == texts
    agree(rows, model, texts, "topic")


def test_lines_of_standard_input(run_process: Command, model: Model) -> None:
    rows = answered(run_process("--json", "--task", "sentiment", input="a witty film\na dull movie\n"))
    assert [(row["line"], row["text"]) for row in rows] == [(1, "a witty film"), (2, "a dull movie")]
    agree(rows, model, ["a witty film", "a dull movie"], "sentiment")


def test_dash_is_standard_input_in_a_named_format(run: Command) -> None:
    (row,) = answered(run("--json", "--input", "-", "--format", "jsonl", input='{"text": "atom", "task": "topic"}\n'))
    assert (row["task"], row["text"]) == ("topic", "atom")


def test_jsonl_of_mixed_tasks(run: Command, model: Model, tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"text": "a witty film", "task": "sentiment"},
        {"text": "atom and cell", "task": "topic"},
        {"text": "good", "text_pair": "great", "task": "same"},
        {"text": "a dull film"},
    )
    rows = answered(run("--json", "--input", path, "--task", "sentiment"))
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    assert [row.get("text_pair") for row in rows] == [None, None, "great", None]
    texts = ["a witty film", "atom and cell", ("good", "great"), "a dull film"]
    agree(rows, model, texts, ["sentiment", "topic", "same", "sentiment"])
    header, *lines = run("--input", path, "--task", "sentiment").stdout.splitlines()
    assert header.split() == ["label", "score", "task", "text"]
    assert [line.split()[2] for line in lines] == ["sentiment", "topic", "same", "sentiment"]


def test_csv_with_other_columns(run: Command, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,first,second\n7,"good, great",good\n8,bad,"the ""dull"" film"\n')
    columns = ("--text-column", "first", "--pair-column", "second")
    rows = answered(run("--json", "--task", "same", "--input", path, *columns))
    pairs = [("good, great", "good"), ("bad", 'the "dull" film')]
    assert [(row["text"], row["text_pair"]) for row in rows] == pairs
    agree(rows, model, pairs, "same")


def test_pair(run: Command, model: Model) -> None:
    (row,) = answered(run("--json", "--task", "same", "good film", "--pair", "great film"))
    assert list(row) == ["task", "label", "score", "scores", "text", "text_pair"]
    agree([row], model, [("good film", "great film")], "same")
    assert "good film | great film" in run("--task", "same", "good film", "--pair", "great film").stdout


def test_bundle_of_the_environment(tiny_bundle: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MPT_EDGE_BUNDLE": str(tiny_bundle)}
    rows = answered(commands.run("run", "--json", "--task", "topic", "atom", env=environment, cwd=tmp_path))
    assert [row["task"] for row in rows] == ["topic"]


def test_two_thousand_rows_keep_their_order(run: Command, model: Model, many: Path) -> None:
    given = rows_of(many.read_text())
    rows = answered(run("--json", "--input", many))
    assert [row["line"] for row in rows] == list(range(1, 2001))
    assert [(row["text"], row["task"]) for row in rows] == [(row["text"], row["task"]) for row in given]
    agree(rows, model, [row["text"] for row in given], [row["task"] for row in given])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads peak memory from /proc")
def test_more_rows_need_no_more_memory(tiny_bundle: Path, tmp_path: Path) -> None:
    """Peak memory of whole processes: seven times the rows may cost allocator noise, not room for the rows."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom mpt_edge.cli import main\ntry:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )

    def peak(rows: int) -> int:
        path, out = tmp_path / f"{rows}.jsonl", tmp_path / f"{rows}.out"
        text = "a witty film " * 300  # 4 KB a row: all rows together would show
        path.write_text("".join(json.dumps({"text": f"{text}{i}"}) + "\n" for i in range(rows)))
        arguments = ["run", "-b", tiny_bundle, "--task", "topic", "--threads", "1", "--input", path, "--output", out]
        command = [sys.executable, "-c", code, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        with out.open() as lines:
            assert sum(1 for _ in lines) == rows
        return int(result.stderr.split()[-1])  # KiB

    few, many = peak(1_500), peak(10_000)
    assert many - few < 6 * 1024, "8,500 more rows are 33 MB as text alone"


def test_answers_before_standard_input_ends(tiny_bundle: Path) -> None:
    command = [Path(sys.executable).with_name("mpt-edge"), "run", "--bundle", tiny_bundle, "--task", "topic", "--json"]
    with subprocess.Popen([*command, "--batch-size", "1"], stdin=-1, stdout=-1, text=True, bufsize=1) as process:
        for text in ("atom", "ball game"):
            process.stdin.write(text + "\n")
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_row_typed_at_a_terminal_is_answered_at_once(model: Model) -> None:
    keyboard, terminal = os.openpty()
    with os.fdopen(keyboard, "wb"), os.fdopen(terminal, "rb") as stream:
        assert _window(model, stream, 8) == 1
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb"):
        assert _window(model, stream, 8) == 8


def test_long_text_is_truncated_and_says_so(run: Command, model: Model) -> None:
    texts = ["a witty film", "good " * 40]
    short, long = answered(run("--json", "--task", "sentiment", *texts))
    assert "truncated" not in short
    assert long["truncated"] is True
    assert long["text"] == texts[1]
    agree([short, long], model, texts, "sentiment")
    first, second = run("--task", "sentiment", *texts).stdout.splitlines()[1:]
    assert "truncated" not in first
    assert second.endswith(" (truncated to 16 tokens)")


def test_control_characters_do_not_reach_the_terminal(run: Command) -> None:
    result = run("--task", "sentiment", "a\x1b[31m witty\nfilm")
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_needs_no_torch(tiny_bundle: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, onnx=None, optimum=None);"
        "from mpt_edge.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "run", "--bundle", tiny_bundle, "--task", "topic", "--json", "atom"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [row["text"] for row in answered(result)] == ["atom"]


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "sentimant", "a film"], "no task 'sentimant' in .*; did you mean 'sentiment'?"),
        (["--task", "zzz", "a film"], "; it has same, sentiment, topic."),
        (["a film"], "no task is named; pass --task NAME, and see `mpt-edge tasks list`"),
        (["--task", "sentiment", ""], "text 1: the text is empty; pass at least one word."),
        (["--task", "sentiment", "a film", " \t"], "text 2: the text is empty; pass at least one word."),
        (["--task", "sentiment", "\udc80"], "text 1: the text holds half a character (a lone surrogate); decode it as"),
        (["--task", "same", "good"], "'same' reads pairs, but there is no second text; pass it with --pair."),
        (["--task", "topic", "a", "--pair", "b"], "'topic' reads single texts, but there is a second text; leave it"),
        (["--task", "same", "a", "b", "--pair", "c"], "--pair goes with one TEXT, but there are 2; put pairs in a"),
        (["--task", "same", "--pair", "c"], "--pair goes with one TEXT; for rows of a file, name a column with"),
        (["--task", "topic", "a", "--input", "f.txt"], "both TEXT and --input; pass one of them."),
        (["--task", "topic", "--input", "f.doc"], "pass --format jsonl, csv, text or parquet."),
        (["--task", "topic", "--input", "no-such.txt"], "no-such.txt: No such file or directory; check the path"),
    ],
)
def test_bad_arguments(run: Command, tmp_path: Path, arguments: list[str], says: str) -> None:
    before, _, after = says.partition(".*")
    message = refused(run(*arguments, cwd=tmp_path))
    assert before in message
    assert after in message


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("f.csv", b"review,stars\na,1\n", "has no column 'text', it has 'review', 'stars'; name the right one with"),
        ("f.csv", b"", "does not start with a CSV header; write the column names on line 1."),
        ("f.csv", b"text,stars\na, b,1\n", "line 2 has 3 cells, but the header has 2; put quotes around texts"),
        ("f.txt", b"a caf\xe9\n", "f.txt line 1 is not UTF-8; convert the file with iconv; or pass --on-error skip."),
        ("f.txt", b"\n", "f.txt line 1: the text is empty; pass at least one word; or pass --on-error skip."),
        ("f.csv", b"text,stars\n,1\n", "f.csv line 2: the text is empty; pass at least one word; or pass --on-error"),
        ("f.jsonl", b'{"text": " "}\n', "f.jsonl line 1: the text is empty; pass at least one word"),
        ("f.jsonl", b'{"text": "a", "text_pair": "", "task": "same"}\n', "line 1: the text is empty; pass at least"),
        ("f.jsonl", b'{"text": "\\ud800"}\n', "f.jsonl line 1: the text holds half a character (a lone surrogate)"),
        ("f.jsonl", b'{"text": 5}\n', "f.jsonl line 1 has 5 where a text belongs; write it as a string"),
        ("f.jsonl", b'{"text": "a", "text_pair": "b"}\n', "line 1: 'topic' reads single texts"),
        ("f.jsonl", b'{"text": "a", "task": "same"}\n', "'same' reads pairs, but there is no second text; name its"),
        ("f.jsonl", b'{"text": "a", "task": "topik"}\n', "line 1: no task 'topik' in"),
    ],
)
def test_bad_file(run: Command, tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    message = refused(run("--task", "topic", "--input", tmp_path / name))
    assert says in message


def test_row_without_a_task(run: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "atom", "task": "topic"}, {"text": "atom"})
    result = run("--json", "--input", path)
    assert 'line 2 names no task; pass --task NAME, or give the row a "task" entry' in refused(result)
    assert [row["line"] for row in rows_of(result.stdout)] == [1]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Return a file whose rows 4 and 6 of 7 cannot be used."""
    good = [{"text": f"film {i}"} for i in range(5)]
    return write(tmp_path / "rows.jsonl", *good[:3], b'{"text": "fi', good[3], b'{"text": "caf\xe9"}', good[4])


def test_wrong_json_names_its_line_and_keeps_what_came_before(run: Command, faulty: Path) -> None:
    result = run("--json", "--task", "topic", "--input", faulty)
    message = refused(result)
    assert f"{faulty} line 4 is not JSON (" in message
    assert message.endswith("or pass --on-error skip.")
    assert [(row["line"], row["text"]) for row in rows_of(result.stdout)] == [
        (1, "film 0"),
        (2, "film 1"),
        (3, "film 2"),
    ]


def test_skipped_rows_are_counted(run: Command, faulty: Path) -> None:
    result = run("--json", "--task", "topic", "--input", faulty, "--on-error", "skip")
    assert result.returncode == 0
    assert [row["line"] for row in rows_of(result.stdout)] == [1, 2, 3, 5, 7]
    first, last = result.stderr.splitlines()
    assert first.startswith(f"mpt-edge: skipping a row: {faulty} line 4 is not JSON")
    assert last == "mpt-edge: skipped 2 of 7 rows."


@pytest.mark.parametrize("name", ["rows", "rows.jsonl"])
def test_directory_as_input(run: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    message = refused(run("--task", "topic", "--input", tmp_path / name))
    assert name in message
    assert ("Is a directory; check the path" in message) if "." in name else ("pass --format" in message)


def test_standard_input_without_rows_is_no_error(run: Command, tmp_path: Path) -> None:
    """A command before the pipe may have no output."""
    result = run("--task", "topic", "--json", input="")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "mpt-edge: standard input holds no rows.\n"


@pytest.mark.parametrize(
    "option", [["--text-column", "review"], ["--pair-column", "b"], ["--format", "jsonl"]], ids=str
)
def test_options_for_rows_beside_a_text(run: Command, option: list[str]) -> None:
    assert "are for rows of a file; leave them out beside TEXT." in refused(run("--task", "topic", "atom", *option))


def test_each_text_is_tokenized_once(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are skipped cost the others no second pass."""
    tokenized: list[object] = []
    encode = TextEncoder.encode

    def counted(self: TextEncoder, texts: Sequence[Text], *arguments: Any, **options: Any) -> list[Encoded]:
        tokenized.extend(texts)
        return encode(self, texts, *arguments, **options)

    rows = [{"text": f"film {i}" if i % 5 else " ", "task": ("topic", "sentiment")[i % 2]} for i in range(1200)]
    path = write(tmp_path / "rows.jsonl", *rows)
    monkeypatch.setattr(TextEncoder, "encode", counted)
    result = run("--json", "--input", path, "--on-error", "skip")
    assert result.stderr.splitlines()[-1] == "mpt-edge: skipped 240 of 1,200 rows."
    given = [row["text"] for row in rows if row["text"] != " "]
    assert [row["text"] for row in rows_of(result.stdout)] == given
    assert sorted(set(tokenized) - set(given)) == [
        "atom cell",
        "bad dull film",
        "ball game",
        "great witty film",
        "vote party",
    ]
    assert sorted(text for text in tokenized if text in given) == sorted(given)


def test_unsure_labels_are_marked_and_withheld(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    task = Bundle.open(bundle).task("sentiment")
    replace(task, threshold=1.0, version=2, reference_example={}).save(tmp_path / "t")
    Bundle.open(bundle).install_untested(tmp_path / "t")
    command = ("run", "--bundle", bundle, "--task", "sentiment", "a witty film")
    assert done(commands.run_here(*command)).splitlines()[1].endswith("a witty film (unsure)")
    withheld = done(commands.run_here(*command, "--abstain")).splitlines()[1]
    assert withheld.startswith("?")
    (row,) = answered(commands.run_here(*command, "--abstain", "--json"))
    (marked,) = answered(commands.run_here(*command, "--json"))
    assert (row["label"], row["abstain"]) == (None, True)
    assert row | {"label": marked["label"]} == marked
