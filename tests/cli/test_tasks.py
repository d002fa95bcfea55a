"""`mpt-edge tasks`: list, show, install, verify, remove and roll back, on copies of small bundles."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.model import Model
from tests.support import commands
from tests.support.bundles import previous_path, read_files, task_path
from tests.support.examples import with_example
from tests.support.outcomes import done, refused
from tests.support.writers import TEXTS

Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]
NAMES = ["same", "sentiment", "topic"]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def tasks(bundle: Path) -> Command:
    return lambda command, *arguments: commands.run_here("tasks", command, "--bundle", bundle, *arguments)


@pytest.fixture
def make(tiny_vectors: Path, tmp_path: Path, tiny_model: Model) -> Callable[..., Path]:
    """Return a function that writes a changed copy of the task `sentiment`, with a reference example."""

    def write(**changes: object) -> Path:
        task = replace(TaskFile.load(tiny_vectors / "tasks" / "sentiment.safetensors"), **changes)
        path = tmp_path / "made.safetensors"
        with_example(tiny_model, task).save(path)
        return path

    return write


def listed(tasks: Command) -> dict[str, dict]:
    rows = [json.loads(line) for line in done(tasks("list", "--json")).splitlines()]
    return {row["task"]: row for row in rows}


def test_list(tasks: Command, bundle: Path) -> None:
    rows = listed(tasks)
    assert list(rows) == NAMES
    assert list(rows["topic"]) == [
        "task",
        "head_type",
        "inputs",
        "labels",
        "bytes",
        "contents",
        "test_accuracy",
        "test",
        "version",
    ]
    assert (rows["same"]["inputs"], rows["topic"]["inputs"]) == ("pair", "text")
    assert (rows["topic"]["head_type"], rows["topic"]["labels"], rows["topic"]["contents"]) == ("similarity", 3, "u, v")
    for name in NAMES:
        assert rows[name]["bytes"] == (bundle / "tasks" / f"{name}.safetensors").stat().st_size
    table = done(tasks("list")).splitlines()
    assert table[0].startswith("task")
    assert [line.split()[0] for line in table[1:]] == NAMES


def test_list_with_a_damaged_task_prints_the_others(tasks: Command, bundle: Path) -> None:
    path = bundle / "tasks" / "sentiment.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    result = tasks("list")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["same", "topic"]
    assert f"{path} is damaged" in refused(result)


def test_a_file_damaged_in_transit_is_not_installed(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    path = make(name="new")
    data = bytearray(path.read_bytes())
    data[-9] ^= 4  # a digit of one of the vectors
    path.write_bytes(data)
    assert f"{path} is damaged: it is not what was written; fetch it again." in refused(tasks("install", path))
    assert "new" not in listed(tasks)


def test_list_shows_accuracy_and_own_prompts(tasks: Command, make: Callable[..., Path], tiny_bundle: Path) -> None:
    backbone = Bundle.open(tiny_bundle).task("sentiment").backbone
    prompt = SharedPrompt("own", np.zeros((6, 32), np.float16), Placement(), backbone)
    done(tasks("install", make(name="own", own_prompt=prompt, metrics={"test": {"accuracy": 0.875}})))
    row = listed(tasks)["own"]
    assert (row["contents"], row["test_accuracy"]) == ("u, v and its own prompt", 0.875)
    assert "0.875" in done(tasks("list"))


def test_list_prints_names_of_metrics_as_they_are(tasks: Command, make: Callable[..., Path]) -> None:
    done(tasks("install", make(name="odd", metrics={"test": {"[/x]": 0.5}})))
    assert "[/x] 0.500" in done(tasks("list"))


def test_metrics_of_another_shape_are_not_installed(tasks: Command, make: Callable[..., Path]) -> None:
    message = refused(tasks("install", make(metrics={"test": {"accuracy": "abc"}})))
    assert "its metrics are not numbers by name; train or export the task again." in message
    assert list(listed(tasks)) == NAMES


def test_show(tasks: Command) -> None:
    facts = json.loads(done(tasks("show", "topic")))
    assert (facts["name"], facts["labels"]) == ("topic", ["sport", "law", "science"])
    assert facts["label_texts"] == [["ball game"], ["vote party"], ["atom cell"]]
    assert (facts["u"], facts["v"], facts["dtype"], facts["max_length"]) == ([6], [32], "float16", 16)


@pytest.mark.parametrize("command", ["show", "remove", "verify"])
def test_unknown_task(tasks: Command, command: str) -> None:
    message = refused(tasks(command, "topik"))
    assert "no task 'topik'" in message
    assert "did you mean 'topic'?" in message


def test_install_and_run(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    path = make(name="fresh", labels=("no", "yes"))
    said = done(tasks("install", path))
    assert said == f"installed fresh ({path.stat().st_size:,} bytes) in {bundle}\n"
    assert list(listed(tasks)) == ["fresh", *NAMES]
    assert task_path(bundle, "fresh").read_bytes() == path.read_bytes()
    row = json.loads(done(commands.run_here("run", "-b", bundle, "--json", "--task", "fresh", "a witty film")))
    original = mpt_edge.load(bundle).task("sentiment")("a witty film")  # of the same vectors, by other names
    assert row["label"] == {"bad": "no", "good": "yes"}[original.label]
    assert row["score"] == pytest.approx(original.score, abs=1e-4)
    assert done(tasks("verify")).endswith(" and 4 tasks are as they were made.\n")


def test_install_replaces_an_older_version_only(tasks: Command, make: Callable[..., Path]) -> None:
    done(tasks("install", make(version=3)))
    assert listed(tasks)["sentiment"]["version"] == 3
    message = refused(tasks("install", make(version=2)))
    assert (
        "'sentiment' was installed in version 3, and this is version 2; train or import it with --task-version 4, or"
        in message
    )
    assert listed(tasks)["sentiment"]["version"] == 3
    message = refused(tasks("install", make(version=3, scale=3.0)))
    assert (
        "'sentiment' was installed in version 3, with other content; train or import it with --task-version 4"
        in message
    )
    done(tasks("remove", "sentiment"))
    assert "was installed in version 3" in refused(tasks("install", make(version=2)))
    done(tasks("install", make(version=2), "--allow-downgrade"))
    assert listed(tasks)["sentiment"]["version"] == 2
    done(tasks("install", make(version=3)))  # as it was installed before


def test_dry_run(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    before = read_files(bundle)
    said = done(tasks("install", make(version=3), "--dry-run"))
    assert said == f"would install sentiment, version 3, in {bundle}\n"
    refused(tasks("install", make(version=1, scale=3.0), "--dry-run"))
    assert read_files(bundle) == before


def test_install_without_a_reference_example(tasks: Command, bundle: Path, tiny_vectors: Path) -> None:
    message = refused(tasks("install", tiny_vectors / "tasks" / "topic.safetensors"))
    assert "'topic' has no reference example, so nothing shows that it works here; train it again, or" in message


def test_digest(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    digest = done(tasks("digest")).strip()
    run = ("run", "-b", bundle, "--task", "topic", "a film", "--digest")
    for command in (("tasks", "verify", "-b", bundle, "--digest", digest), (*run, digest)):
        done(commands.run_here(*command))
    done(tasks("install", make(version=2), "--digest", digest))
    message = refused(commands.run_here(*run, digest))
    new = done(tasks("digest")).strip()
    assert message.endswith(
        f"{bundle} has the digest {new}, and another is pinned; restore the bundle, or pin this digest."
    )
    done(tasks("rollback", "sentiment"))
    done(commands.run_here(*run, digest))
    assert "'abc' is no digest; pass the 64 digits of `mpt-edge tasks digest`." in refused(
        commands.run_here(*run, "abc")
    )


def test_rollback_restores_the_replaced_version(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    first = task_path(bundle, "sentiment").read_bytes()
    done(tasks("install", make(version=2)))
    second = task_path(bundle, "sentiment").read_bytes()
    assert done(tasks("rollback", "sentiment")) == f"rolled sentiment back to version 1 in {bundle}\n"
    assert task_path(bundle, "sentiment").read_bytes() == first
    done(tasks("verify"))
    done(tasks("rollback", "sentiment"))
    assert task_path(bundle, "sentiment").read_bytes() == second
    done(tasks("remove", "sentiment"))
    assert not any("sentiment" in name for name in Bundle.open(bundle).manifest.files)
    done(tasks("verify"))


def test_installing_the_same_file_again_keeps_the_earlier_one(tasks: Command, make: Callable[..., Path]) -> None:
    path = make(version=2)
    done(tasks("install", path))
    done(tasks("install", path))
    done(tasks("rollback", "sentiment"))
    assert listed(tasks)["sentiment"]["version"] == 1


def test_rollback_without_an_earlier_version(tasks: Command) -> None:
    assert "'topic' has no earlier version" in refused(tasks("rollback", "topic"))
    assert "did you mean 'topic'?" in refused(tasks("rollback", "topik"))


def test_rollback_to_a_damaged_file_changes_nothing(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    done(tasks("install", make(version=2)))
    kept = previous_path(bundle, "sentiment")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert "is damaged" in refused(tasks("rollback", "sentiment"))
    assert listed(tasks)["sentiment"]["version"] == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbone": "0" * 64}, "backbone than tiny-bert"),
        ({"tokenizer": "0" * 64}, "tokenizer"),
        ({"prompt_sha256": "0" * 64}, "shared prompt than this bundle's mpt"),
        ({"v": np.ones(16, np.float16)}, "width than 32"),
    ],
)
def test_install_of_a_stranger(
    tasks: Command, bundle: Path, make: Callable[..., Path], changes: dict, says: str
) -> None:
    before = (bundle / "bundle.json").read_bytes()
    message = refused(tasks("install", make(name="stranger", **changes)))
    assert f"the task 'stranger' was made for another {says}; install the task file made for this bundle." in message
    assert (bundle / "bundle.json").read_bytes() == before
    assert not (bundle / "tasks" / "stranger.safetensors").exists()


def test_task_with_vectors_longer_than_the_prompt(tasks: Command, make: Callable[..., Path]) -> None:
    refused(tasks("install", make(u=np.ones(9, np.float16))))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda path: path.unlink(),
            "cannot read {} (No such file or directory); check the path, or restore the file.",
        ),
        (lambda path: path.write_bytes(b"x" * 99), "{} is not a readable safetensors file; restore it"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "{} is not a readable safetensors file; restore it"),
    ],
)
def test_install_of_no_task_file(
    tasks: Command, make: Callable[..., Path], damage: Callable[[Path], object], says: str
) -> None:
    path = make(name="fresh")
    damage(path)
    assert says.format(path) in refused(tasks("install", path))
    assert list(listed(tasks)) == NAMES


def test_install_of_a_prompt_file(tasks: Command, bundle: Path) -> None:
    assert "is not a task file this version reads" in refused(tasks("install", bundle / "prompts" / "mpt.safetensors"))


def test_install_of_several_files(tasks: Command, bundle: Path, make: Callable[..., Path], tmp_path: Path) -> None:
    files = [make(name=name).rename(tmp_path / name) for name in ("one", "two")]
    bad = make(name="three", tokenizer="0" * 64)
    assert "the task 'three' was made for another tokenizer" in refused(tasks("install", *files, bad))
    assert list(listed(tasks)) == NAMES
    said = done(tasks("install", *files)).splitlines()
    assert said == [f"installed {path.name} ({path.stat().st_size:,} bytes) in {bundle}" for path in files]
    assert list(listed(tasks)) == ["one", *NAMES, "two"]


def test_remove(tasks: Command, bundle: Path) -> None:
    assert done(tasks("remove", "topic")) == f"removed topic from {bundle}\n"
    assert list(listed(tasks)) == ["same", "sentiment"]
    assert not (bundle / ".lock").exists()


def reference_example(bundle: Path, text: str) -> dict:
    answer = mpt_edge.load(bundle).task("sentiment")(text)
    return {"text": text, "label": answer.label, "score": answer.score}


def test_verify(tasks: Command, bundle: Path, make: Callable[..., Path]) -> None:
    done(tasks("install", make(version=2, reference_example=reference_example(bundle, "a witty film"))))
    count = len(json.loads((bundle / "bundle.json").read_text())["files"])
    assert done(tasks("verify")) == f"{count} files and 3 tasks are as they were made.\n"
    assert done(tasks("verify", "sentiment")) == f"{count} files and 1 task are as they were made.\n"


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tasks/topic.safetensors", "README.md"])
def test_verify_finds_a_tampered_file(tasks: Command, bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    message = refused(tasks("verify"))
    assert f"{bundle / name} is damaged (its SHA-256 is not the manifest's); restore it or export again." in message


@pytest.mark.parametrize("change", ["label", "score"])
def test_another_answer_is_found(tasks: Command, bundle: Path, make: Callable[..., Path], change: str) -> None:
    before = read_files(bundle)
    right = reference_example(bundle, "a witty film")
    other = {"label": {"good": "bad", "bad": "good"}[right["label"]], "score": right["score"] - 0.05}
    forged = make(version=2, reference_example=right | {change: other[change]})
    says = f"sentiment answers its reference example with {right['label']} ({right['score']:.3f}) instead of"
    message = refused(tasks("install", forged))
    assert says in message
    assert message.endswith("; get its file again, or export the bundle again.")
    assert read_files(bundle) == before
    Bundle.open(bundle).install_untested(forged)
    assert says in refused(tasks("verify"))
    assert done(tasks("verify", "topic"))


@pytest.mark.parametrize(
    "bad",
    [
        {"text": "a film"},
        {"text": "", "label": "good", "score": 0.5},
        {"label": 1},
        {"text": "a film", "label": "good", "score": 10**400},
    ],
)
def test_unusable_reference_example(tasks: Command, bundle: Path, make: Callable[..., Path], bad: dict) -> None:
    path = make(version=2, reference_example=bad)
    assert "the reference example of 'sentiment' cannot be used" in refused(tasks("install", path))
    Bundle.open(bundle).install_untested(path)
    assert "the reference example of 'sentiment' cannot be used" in refused(tasks("verify"))


def test_tasks_of_a_generative_model(writer_bundle: Path) -> None:
    table = done(commands.run_here("tasks", "list", "--bundle", writer_bundle)).splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["ask", "generation"],
        ["mood", "choice"],
        ["other-story", "generation"],
        ["story", "generation"],
    ]
    facts = json.loads(done(commands.run_here("tasks", "show", "story", "--bundle", writer_bundle)))
    assert (facts["head_type"], facts["generation"]) == ("generation", {"max_new_tokens": 24})
    verified = done(commands.run_here("tasks", "verify", "--bundle", writer_bundle))
    assert "4 tasks are as they were made" in verified


def test_a_reference_text_is_verified_by_its_likelihood(writer_bundle: Path, tmp_path: Path) -> None:
    """Rounding may change a generated text, but hardly its likelihood; another model changes that."""
    copy = Path(shutil.copytree(writer_bundle, tmp_path / "writer"))
    model = mpt_edge.load(copy, threads=1)
    assert isinstance(model, GenerativeModel)
    likelihood = model.log_likelihood(TEXTS[0], "story", "another text")
    for version, (moved, passes) in enumerate(((0.0, True), (0.01, True), (0.5, False)), start=2):
        example = {"text": TEXTS[0], "label": "another text", "score": 0.0, "log_likelihood": likelihood + moved}
        replace(model.bundle.task("story"), version=version, reference_example=example).save(
            tmp_path / "story.safetensors"
        )
        model.bundle.install_untested(tmp_path / "story.safetensors")
        result = commands.run_here("tasks", "verify", "story", "--bundle", copy)
        if passes:
            assert result.returncode == 0, result.stderr
        else:
            assert "story answers its reference example with another text (-" in refused(result)
