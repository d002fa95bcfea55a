"""`mpt-edge train` with a small backbone: from data files to a task that a bundle runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from tests.support import commands, outcomes

refused = partial(outcomes.refused, before=True)  # bars and warnings may precede the sentence
Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]
WORDS = {
    "mood": {"good": "great witty gorgeous", "bad": "dull bad"},
    "topic": {"sport": "sport ball game", "law": "vote law party", "science": "atom cell star"},
    "pairs": {"same": "good great", "other": "bad dull"},
}
SIZES = ("--epochs", 2, "--batch-size", 8, "--threads", 1)
SOURCE = ("--prompt-length", 4, "--teacher-epochs", 1, "--epochs", 4, "--test")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three recipes and their examples."""
    folder = tmp_path_factory.mktemp("data")
    for task, labels in WORDS.items():
        rows = [
            {"text": f"the {word} film {i}", "label": label} | ({"text_pair": f"a {word}"} if task == "pairs" else {})
            for i in range(8)
            for label, words in labels.items()
            for word in words.split()
        ]
        for split, part in (("train", rows), ("validation", rows[:12]), ("test", rows[-12:])):
            path = folder / task / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in part))
        inputs = "pair" if task == "pairs" else "text"
        splits = "".join(f'{split} = "{task}/{split}.jsonl"\n' for split in ("train", "validation", "test"))
        (folder / f"{task}.toml").write_text(f'name = "{task}"\ninputs = "{inputs}"\nmax_length = 16\n{splits}')
    return folder


@pytest.fixture(scope="module")
def train(tiny_folder: Path, data: Path) -> Command:
    def call(
        stage: str, names: list[str], output: Path, *arguments: object, run: Command = commands.run_here
    ) -> Result:
        recipes = [data / f"{name}.toml" for name in names]
        places = ("--output", output, "--data", data, "--backbone", tiny_folder)
        return run("train", stage, *recipes, *places, *SIZES, *arguments)

    return call


@pytest.fixture(scope="module")
def source(train: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return the folder of a source run, by a process of its own, and the command's result."""
    output = tmp_path_factory.mktemp("source") / "run"
    result = train("source", ["mood", "topic"], output, *SOURCE, run=commands.run)
    assert result.returncode == 0, result.stderr
    return output, result


@pytest.fixture(scope="module")
def target(train: Command, source: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a target run."""
    output = tmp_path_factory.mktemp("target") / "run"
    result = train("target", ["pairs"], output, "--from", source[0])
    assert result.returncode == 0, result.stderr
    return output


def contents(folder: Path) -> dict[str, bytes]:
    """Return each file's bytes, except for TensorBoard's, which hold the time."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "tensorboard/" not in name}


def test_source(source: tuple[Path, Result]) -> None:
    output, result = source
    assert set(contents(output)) == {
        "prompts/mpt.safetensors",
        "tasks/mood.safetensors",
        "tasks/topic.safetensors",
        "checkpoint.pt",
        "log.jsonl",
        *(f"teachers/{name}/{file}" for name in ("mood", "topic") for file in ("checkpoint.pt", "log.jsonl")),
    }
    prompt = SharedPrompt.load(output / "prompts" / "mpt.safetensors")
    task = TaskFile.load(output / "tasks" / "topic.safetensors")
    assert (prompt.values.shape, prompt.placement.position) == (
        (4, 2, 32),
        "all_layers",
    )  # the small model has two layers
    assert (task.u.shape, task.v.shape, task.labels) == ((4,), (32,), ("law", "science", "sport"))
    assert task.prompt_sha256 == prompt.fingerprint
    assert {"validation", "test"} == set(task.metrics)
    header, mood, topic, written = result.stdout.splitlines()
    assert header.split()[:4] == ["task", "labels", "validation", "test"]
    assert mood.split()[:2] == ["mood", "2"]
    assert topic.split()[:4] == [
        "topic",
        "3",
        f"{task.metrics['validation']['accuracy']:.4f}",
        f"{task.metrics['test']['accuracy']:.4f}",
    ]
    assert written == f"written to {output}"


@pytest.mark.parametrize("tested", [False, True])
def test_probe(source: tuple[Path, Result], data: Path, tiny_folder: Path, tmp_path: Path, tested: bool) -> None:
    """Its metrics are printed beside the task's, and written to its file."""
    run = Path(shutil.copytree(source[0], tmp_path / "run"))
    places = ("--output", run, "--data", data, "--backbone", tiny_folder, *["--test"] * tested)
    result = commands.run_here("train", "probe", data / "mood.toml", *places)
    assert result.returncode == 0, result.stderr
    metrics = TaskFile.load(run / "tasks/mood.safetensors").metrics
    assert ("test" in metrics["linear_probe"]) == tested
    header, row, _ = result.stdout.splitlines()
    assert header.split("  ")[-3:] == ["probe, validation", "probe, test", "bytes"]
    probed = metrics["linear_probe"]
    parts = (metrics["validation"], metrics["test"], probed["validation"], probed.get("test"))
    expected = [f"{part['accuracy']:.4f}" if part else "-" for part in parts]
    assert row.split()[2:-1] == expected


def test_a_test_split_that_no_recipe_names(
    train: Command, source: tuple[Path, Result], data: Path, tmp_path: Path
) -> None:
    whole = (data / "mood.toml").read_text()
    (data / "untested.toml").write_text("".join(f"{line}\n" for line in whole.splitlines() if "test" not in line))
    result = train("target", ["untested"], tmp_path, "--from", source[0], "--init", "ones", "--test")
    assert result.returncode == 0, result.stderr
    assert "mpt-edge: mood: the recipe names no test split, so none was measured." in result.stderr


def test_a_task_that_was_not_learned_is_named(train: Command, source: tuple[Path, Result], tmp_path: Path) -> None:
    """Learning rates that are too high leave one answer to every text; the command names the fix."""
    result = train("target", ["pairs"], tmp_path, "--from", source[0], "--task-lr", 100, "--task-version", 4)
    assert result.returncode == 0, result.stderr
    assert TaskFile.load(tmp_path / "tasks/pairs.safetensors").version == 4
    matthews = TaskFile.load(tmp_path / "tasks/pairs.safetensors").metrics["validation"]["matthews"]
    said = "mpt-edge: pairs: the answers have nothing to do with the text" in result.stderr
    assert said == (matthews == 0)
    assert matthews == 0
    assert "nothing to do" not in source[1].stderr


def test_target_keeps_the_prompt(source: tuple[Path, Result], target: Path) -> None:
    before, after = (SharedPrompt.load(run / "prompts" / "mpt.safetensors") for run in (source[0], target))
    task = TaskFile.load(target / "tasks" / "pairs.safetensors")
    assert before.fingerprint == after.fingerprint == task.prompt_sha256
    assert (task.inputs, task.training["stage"]) == ("pair", "target")
    assert abs(task.u - 1).max() > 0.01
    assert abs(task.v - 1).max() > 0.01


@pytest.mark.parametrize("stage", ["source", "target"])
def test_a_finished_run_is_not_trained_again(
    train: Command, source: tuple[Path, Result], target: Path, stage: str
) -> None:
    output = source[0] if stage == "source" else target
    checkpoint = output / "checkpoint.pt" if stage == "source" else output / "runs" / "pairs" / "checkpoint.pt"
    before, made = contents(output), checkpoint.stat().st_mtime_ns
    extra = SOURCE if stage == "source" else ("--from", source[0])
    result = train(stage, ["mood", "topic"] if stage == "source" else ["pairs"], output, *extra)
    assert result.returncode == 0, result.stderr
    assert contents(output) == before
    assert checkpoint.stat().st_mtime_ns == made


def test_other_settings_in_the_same_folder(train: Command, source: tuple[Path, Result]) -> None:
    before = contents(source[0])
    message = refused(train("source", ["mood", "topic"], source[0], "--prompt-length", 5))
    assert "other data, settings or backbone; choose another folder, or delete its checkpoint.pt" in message
    assert contents(source[0]) == before


def test_from_training_to_an_installed_task(
    tiny_folder: Path, source: tuple[Path, Result], target: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    made = commands.run_here("export", tiny_folder, "--vectors", source[0], "--output", bundle)
    assert made.returncode == 0, made.stderr
    task = target / "tasks" / "pairs.safetensors"
    assert commands.run_here("tasks", "install", task, "--bundle", bundle).returncode == 0
    # Each reference example was answered by PyTorch; here ONNX Runtime answers it.
    assert all(TaskFile.load(path).reference_example for path in (bundle / "tasks").iterdir())
    verified = commands.run_here("tasks", "verify", "--bundle", bundle)
    assert verified.returncode == 0, verified.stderr
    assert "3 tasks are as they were made." in verified.stdout
    row = commands.run_here("run", "-b", bundle, "--json", "-t", "pairs", "a good film", "--pair", "a great")
    answer = mpt_edge.load(bundle).task("pairs")(("a good film", "a great"))
    assert tuple(answer.scores) == TaskFile.load(task).labels
    assert json.loads(row.stdout)["scores"] == pytest.approx(dict(answer.scores), abs=1e-4)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (
            'name = "x"\ntrain = "mood/train.jsonl"\nvalidatoin = "v"\n',
            "unknown entry 'validatoin'; known are name, tr",
        ),
        (
            'name = "x"\ntrain = "mood/no.jsonl"\nvalidation = "v"\n',
            "check the recipe, or pass the folder with --data.",
        ),
        (
            'name = "x"\ntrain = "mood/train.jsonl"\nvalidation = "mood/validation.jsonl"\ntext = "review"\n',
            "x: the train split has no column 'review' (it has text, label); name the right one in the recipe.",
        ),
        (
            'name = "x"\ntrain = "mood/train.jsonl"\nvalidation = "topic/validation.jsonl"\n',
            "which the recipe does not list; add it under [labels] or mend the data.",
        ),
    ],
)
def test_bad_recipe(train: Command, data: Path, tmp_path: Path, recipe: str, says: str) -> None:
    (data / "x.toml").write_text(recipe)
    assert says in refused(train("source", ["x"], tmp_path / "out"))
    assert not (tmp_path / "out" / "tasks").exists()


def test_missing_recipe(train: Command, data: Path, tmp_path: Path) -> None:
    message = refused(train("source", ["none"], tmp_path / "out"))
    assert f"cannot read the recipe {data / 'none.toml'} (No such file or directory); check the path." in message


def test_target_of_a_folder_without_a_prompt(train: Command, tmp_path: Path) -> None:
    message = refused(train("target", ["pairs"], tmp_path / "out", "--from", tmp_path))
    assert f"{tmp_path} holds no prompt; pass a bundle or a source run." in message


def test_target_from_a_task_that_is_not_there(train: Command, source: tuple[Path, Result], tmp_path: Path) -> None:
    message = refused(train("target", ["pairs"], tmp_path / "out", "--from", source[0], "--init", "none"))
    assert "holds no task 'none' to start from (it has mood, topic)" in message


def test_report(source: tuple[Path, Result], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = commands.run_here("train", "report", source[0], "--output", page)
    assert (result.returncode, result.stdout) == (0, f"written to {page}\n")
    text = page.read_text(encoding="utf-8")
    for part in ("<h2>Training</h2>", "<h2>teachers/mood</h2>", "validation", "<td>topic</td>", "</html>"):
        assert part in text


def test_report_of_no_run(tmp_path: Path) -> None:
    message = refused(commands.run_here("train", "report", tmp_path))
    assert f"{tmp_path} holds no run (no log.jsonl); pass the folder of a training run." in message


def test_a_typo_in_a_recipe_shows_before_pytorch_is_imported(data: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('name = "r"\ntrian = "t.jsonl"\n')
    code = "import sys; sys.modules['torch'] = None; from mpt_edge.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "source", "r.toml", "--output", "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "unknown entry 'trian'" in refused(result)
