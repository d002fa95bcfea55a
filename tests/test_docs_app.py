"""All commands and code of docs/app.md, batch.md, server.md, index.md, training.md and results.md, in order."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import types
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.blocks import Example, assert_shown, examples
from tests.support.http import served_by
from tests.support.pages import shell
from tests.support.places import ROOT, SHARED

needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the larger data sets")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[Example]:
    return [example for example in examples(page(name)) if example.language == language and not example.is_setup]


def run_python(name: str, folder: Path) -> None:
    """Run a page's Python blocks as one program, and compare its output with all that the page shows."""
    parts = blocks(name, "python")
    code = "\n".join(part.code for part in parts)
    assert_shown(parts[0].run(folder, code), "".join(part.output or "" for part in parts))


def shortened(script: str) -> str:
    """Return a script whose training runs take seconds; an option given twice counts the last time."""
    script = script.replace("\\\n", " ")
    script = re.sub(
        r"(train source .*)", r"\1 --epochs 1 --teacher-epochs 1 --examples-per-epoch 32 --prompt-length 4", script
    )
    return re.sub(r"(train target .*)", r"\1 --epochs 1 --examples-per-epoch 32", script)


def write_few_examples(task: str, folder: Path) -> None:
    """Write the first two examples of each of a task's first eight labels."""
    folder.mkdir(parents=True)
    labels: list[str] = []
    for split in ("train", "validation", "test"):
        lines = (SHARED / "data" / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [(json.loads(line)["label"], line) for line in lines]
        labels = labels or list(dict.fromkeys(label for label, _ in rows))[:8]
        few = [[line for label, line in rows if label == name][:2] for name in labels]
        (folder / f"{split}.jsonl").write_text("\n".join(line for two in few for line in two), encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a clone looks, with the bundle of docs/app.md built, which is the default one too."""
    folder = tmp_path_factory.mktemp("app") / "clone"
    shutil.copytree(ROOT / "models" / "recipes", folder / "models" / "recipes")
    shutil.copytree(ROOT / "data", folder / "data")
    for kind in ("prompts", "tasks"):
        shutil.copytree(ROOT / "models" / "minilm-l6" / kind, folder / "models" / "minilm-l6" / kind)
    (script,) = blocks("app.md", "sh")
    assert "12 tasks are as they were made" in script.run(folder)
    shutil.copytree(folder / "bundles" / "app", folder / "models" / "minilm-l6", dirs_exist_ok=True)
    return folder


def test_the_app(clone: Path):
    run_python("app.md", clone)


def run_script(script: str, folder: Path) -> str:
    """Run a script of several lines that belong together, and return what it prints."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_server(clone: Path, monkeypatch: pytest.MonkeyPatch):
    """The page's servers take a free port, and its clients ask there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the hub's client calls this machine
    host, replies = "", []
    with ExitStack() as stack:
        for block in examples(page("server.md")):
            if "mpt-edge serve" in block.code:
                host = stack.enter_context(served_by(block.code, clone)).host
            elif not block.is_setup:
                code = block.code.replace("127.0.0.1:8080", host)
                replies.append(run_script(code, clone) if block.language == "sh" else block.run(clone, code))
                if block.output:
                    assert_shown(replies[-1], block.output)
    labels, rows, *_, tasks, installed = replies
    shown = json.loads(re.search(r"```json\n(.*?)```", page("server.md"), re.DOTALL)[1])
    assert json.loads(labels) == [{**row, "score": pytest.approx(row["score"], abs=0.005)} for row in shown]
    assert [each.get("label", each.get("error")) for each in json.loads(rows)["answers"]] == [
        "number", "play music", "the text is empty; pass at least one word.",
    ]  # fmt: skip
    assert len(json.loads(tasks)["tasks"]) == 12
    assert json.loads(installed)["task"] == "sst2"


def test_the_quick_start(clone: Path):
    first, others = blocks("index.md", "sh")
    assert_shown(first.run(clone), first.output)
    assert '"label": "number"' in others.run(clone)
    assert len((clone / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    run_python("index.md", clone)


def test_large_batches(clone: Path):
    """All blocks but Ray's own: a Ray cluster is started in `tests/batch/test_ray_executor.py` alone."""
    parts = blocks("batch.md", "python")
    ours = [part for part in parts if "import ray" not in part.code and "from ray" not in part.code]
    (on_ray,) = [part.code for part in parts if "ray.init" in part.code]
    frame = next(line for line in on_ray.splitlines() if line.startswith("reviews = "))
    code = "\n".join(["import pandas as pd", frame, *(part.code for part in ours)])
    shown = "".join(part.output or "" for part in ours)
    assert_shown(ours[0].run(clone, code), shown)
    parquet, job = blocks("batch.md", "sh")
    parquet.run(clone)
    assert len((clone / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    assert job.run(clone) == (clone / "answers.jsonl").read_text(encoding="utf-8")


def test_the_class_of_ray_serve(clone: Path, monkeypatch: pytest.MonkeyPatch):
    """The deployment's code, with decorators that leave it as it is; Ray Serve takes too long to start here."""
    ray = pytest.importorskip("ray")
    (block,) = [part for part in blocks("batch.md", "python") if "from ray import serve" in part.code]
    plain = types.SimpleNamespace(deployment=lambda **_: _bound, batch=lambda **_: lambda function: function)
    monkeypatch.setattr(ray, "serve", plain, raising=False)
    monkeypatch.chdir(clone)
    names = {}
    exec(block.code, names)  # noqa: S102 - our page
    app = names["app"]
    right, wrong = asyncio.run(
        app.answer([{"task": "sst2", "text": "a gorgeous, witty film"}, {"task": "sst2", "text": " "}])
    )
    assert right["label"] == "positive"
    assert wrong == {"error": "the text is empty; pass at least one word."}


def _bound(cls: type) -> type:
    """Return a class whose ``bind`` makes an object."""
    cls.bind = classmethod(lambda bound, *arguments: bound(*arguments))
    return cls


def test_a_task_of_your_own(clone: Path):
    script = blocks("training.md", "sh")[0]
    printed = script.run(clone, shortened(script.code))
    assert "installed support" in printed
    assert "the app crashes" in printed.splitlines()[-1]


def test_a_task_of_your_own_from_csv(clone: Path):
    recipe = re.search(r"```toml\n(.*?)```", page("training.md"), re.DOTALL)[1]
    (clone / "mine.toml").write_text(recipe, encoding="utf-8")
    texts = {"delivery": "where is my parcel, it never came", "payment": "the card was charged twice this week"}
    rows = [f'"{text} {i}",{label}' for label, text in texts.items() for i in range(8)]
    for split in ("train", "validation"):
        path = clone / "data" / "mine" / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["message,topic", *rows]), encoding="utf-8")
    done = shell(
        "mpt-edge train target mine.toml --from models/minilm-l6 --data data --output runs/mine --epochs 1", clone
    )
    assert done.returncode == 0, done.stderr
    assert (clone / "runs" / "mine" / "tasks" / "mine.safetensors").is_file()


@needs_data
def test_the_stages_and_the_commands_of_the_results(clone: Path):
    for recipe in (ROOT / "models" / "recipes" / "minilm-l6").glob("*.toml"):
        write_few_examples(recipe.stem, clone / "datasets" / recipe.stem)
    _, stages, install = blocks("training.md", "sh")
    assert "3 tasks" in stages.run(clone, shortened(stages.code))
    assert (clone / "runs" / "source" / "report.html").is_file()
    printed = install.run(clone)
    assert "installed cr" in printed
    assert "removed cr" in printed
    shipped, targets, _ = blocks("results.md", "sh")
    shipped.run(clone, shortened(shipped.code))
    assert len(list((clone / "runs" / "shipped" / "tasks").iterdir())) == 9
    targets.run(clone, shortened(targets.code))
    assert len(list((clone / "runs" / "targets" / "tasks").iterdir())) == 7
