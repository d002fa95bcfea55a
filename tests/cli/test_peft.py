"""`mpt-edge import peft` and `mpt-edge export-peft`: from an adapter to answers, and back."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from tests.support import adapters, commands, outcomes

refused = partial(outcomes.refused, before=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapters.save_base("bert", tmp_path_factory.mktemp("base") / "tiny-bert")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "reviews"
    adapters.make_adapter(base, "SEQ_CLS", folder)
    return folder


@pytest.fixture(scope="module")
def bundle(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle made of an imported adapter, by the two commands that users run."""
    root = tmp_path_factory.mktemp("imported")
    names = ("--task", "film=0", "--task", "book=2", "--label", "bad", "--label", "fair", "--label", "good")
    result = commands.run("import", "peft", adapter, "--backbone", base, *names, "-o", root / "v")  # as users do
    assert result.returncode == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [
        ["film", "0", "classifier", "3", "u,", "v"],
        ["book", "2", "classifier", "3", "u,", "v"],
    ]
    assert result.stdout.splitlines()[-1] == f"written to {root / 'v'}"
    result = commands.run_here("export", base, "--vectors", root / "v", "-o", root / "bundle")
    assert result.returncode == 0, result.stderr
    return root / "bundle"


def test_imported_tasks_answer(bundle: Path) -> None:
    result = commands.run_here("run", "--bundle", bundle, "--json", "--task", "book", "a witty film")
    result = json.loads(outcomes.done(result))
    assert (result["task"], result["label"] in ("bad", "fair", "good")) == ("book", True)
    assert set(result["scores"]) == {"bad", "fair", "good"}
    listed = outcomes.done(commands.run_here("tasks", "list", "--bundle", bundle))
    assert "and a head" not in listed  # the prompt file has it, once


def test_into_a_bundle_that_is_there(base: Path, bundle: Path, tmp_path: Path) -> None:
    """A task then carries a copy of its prompt, since a bundle's shared prompts are fixed."""
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    adapters.make_adapter(base, "TOKEN_CLS", tmp_path / "names", multitask=False)
    adapters.make_adapter(base, "SEQ_CLS", tmp_path / "other", num_ranks=2)
    for name in ("names", "other"):
        result = commands.run_here("import", "peft", tmp_path / name, "--backbone", base, "-o", copy)
        assert result.returncode == 0, result.stderr
    rows = outcomes.done(commands.run_here("tasks", "list", "--json", "--bundle", copy)).splitlines()
    contents = {row["task"]: row["contents"] for row in map(json.loads, rows)}
    assert contents["names"] == "u, v, its own prompt and a head"
    assert contents["other-1"] == "2 pairs of u, v, its own prompt and a head"
    result = commands.run_here("run", "--bundle", copy, "--json", "--task", "names", "a witty film")
    tokens = json.loads(outcomes.done(result))["tokens"]
    table = outcomes.done(commands.run_here("run", "--bundle", copy, "--task", "names", "a witty film")).splitlines()
    assert table[1].startswith(" ".join(token["label"] for token in tokens)[:20])
    assert [token["text"] for token in tokens] == ["a", "witty", "film"]
    assert "are as they were made" in outcomes.done(commands.run_here("tasks", "verify", "--bundle", copy))


def test_another_prompt_of_the_same_name(base: Path, bundle: Path, adapter: Path, tmp_path: Path) -> None:
    """Only tasks of the prompt that the bundle holds share it."""
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    adapters.make_adapter(base, "SEQ_CLS", tmp_path / "reviews", num_ranks=2)
    own = "2 pairs of u, v, its own prompt and a head"
    for version, folder, contents in ((1, tmp_path / "reviews", own), (2, adapter, "u, v")):
        command = ("import", "peft", folder, "--backbone", base, "-o", copy, "--task-version")
        if version > 1:
            assert "import it with --task-version 2, or pass" in refused(commands.run_here(*command, 1))
        result = commands.run_here(*command, version)
        assert result.returncode == 0, result.stderr
        rows = outcomes.done(commands.run_here("tasks", "list", "--json", "--bundle", copy)).splitlines()
        assert {row["task"]: row["contents"] for row in map(json.loads, rows)}["reviews-1"] == contents


def test_another_base_model_is_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(base, tmp_path / "another"))
    result = commands.run_here("import", "peft", adapter, "--backbone", renamed, "-o", tmp_path / "v")
    assert result.returncode == 0
    assert f"names {base} as its base model; another was passed." in result.stderr
    prompt = SharedPrompt.load(tmp_path / "v/prompts/reviews.safetensors")
    assert TaskFile.load(tmp_path / "v/tasks/reviews-1.safetensors").prompt_sha256 == prompt.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "film"], "--task film is not understood; write --task NAME=ID, such as --task sst2=0."),
        (["--task", "film=-1"], "--task film=-1 is not understood; write --task NAME=ID, such as --task sst2=0."),
        (["--task", "a=0", "--task", "a=1"], "--task a is given twice; give each task its own name."),
        (["--task", "film=7"], "has no task 7; its ids are 0 to 2."),
        (["--label", "one"], "1 labels were given and the head has 3; name each of them once."),
    ],
)
def test_options_that_cannot_be_used(
    base: Path, adapter: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = ("import", "peft", adapter, "--backbone", base, "--output", tmp_path / "v", *options)
    assert refused(commands.run_here(*arguments)).endswith(message)
    assert not (tmp_path / "v").exists()


def test_bundle_of_another_backbone(base: Path, adapter: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = (copy / "bundle.json").read_bytes()
    arguments = ("import", "peft", adapter, "--backbone", base, "--output", copy)
    assert "was made for another backbone than tiny-bert" in refused(commands.run_here(*arguments))
    assert (copy / "bundle.json").read_bytes() == before


def test_back_to_peft(adapter: Path, bundle: Path, tmp_path: Path) -> None:
    tasks = ("--task", "film", "--task", "book")
    result = commands.run_here("export-peft", "--bundle", bundle, *tasks, "--output", tmp_path / "back")
    assert outcomes.done(result) == f"written to {tmp_path / 'back'}\n"
    given, result = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "back"))
    assert np.array_equal(result["prefix_task_cols"], given["prefix_task_cols"][[0, 2]])
    assert np.array_equal(result["prompt_embeddings"], given["prompt_embeddings"])
    result = commands.run_here("export-peft", "--bundle", bundle, *tasks, "--fold", "--output", tmp_path / "folded")
    assert outcomes.done(result) == f"written to {tmp_path / 'folded'}\n"
    assert {path.name for path in (tmp_path / "folded").iterdir()} == {"film", "book"}
    result = commands.run_here("export-peft", "--bundle", bundle, *tasks, "--output", tmp_path / "back")
    assert refused(result) == f"mpt-edge: {tmp_path / 'back'} is in use; pass a new or empty folder."
