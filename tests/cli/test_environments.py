"""Users without a home folder, names in ``~``, and files that may be read or written by others alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.outcomes import done, refused
from tests.support.users import has_users, run_bound, run_nameless

as_other_user = pytest.mark.skipif(not has_users(), reason="needs the right to become another user")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take this process's home folder away, and return an empty current folder."""
    import pwd

    def getpwuid(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "MPT_EDGE_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that every user may write to, in folders that every user may enter."""
    folders = [tmp_path, *tmp_path.parents[:2]]
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    yield tmp_path
    for folder, mode in zip(folders, modes, strict=True):
        folder.chmod(mode)


@as_other_user
@pytest.mark.parametrize("home", [None, "/", "/nonexistent"])
def test_run_needs_no_home(tiny_bundle: Path, open_folder: Path, home: str | None) -> None:
    options = ("--bundle", tiny_bundle, "--task", "topic", "atom")
    assert "atom" in done(run_nameless("run", *options, home=home, cwd=open_folder))
    assert list(open_folder.iterdir()) == []


@as_other_user
@pytest.mark.parametrize("arguments", [("run", "--task", "topic", "atom"), ("tasks", "list"), ("bench",)])
def test_default_bundle_without_a_home(open_folder: Path, arguments: tuple[str, ...]) -> None:
    message = refused(run_nameless(*arguments, cwd=open_folder))
    assert "there is no home folder" in message
    assert "--bundle" in message
    assert list(open_folder.iterdir()) == []


@as_other_user
def test_default_bundle_where_the_home_is_the_root(open_folder: Path) -> None:
    assert "no bundle in /.cache/mpt-edge/minilm-l6" in refused(
        run_nameless("tasks", "list", home="/", cwd=open_folder)
    )


def test_export_without_a_home_names_the_option(homeless: Path, tiny_folder: Path) -> None:
    assert "--output" in refused(commands.run_here("export", tiny_folder))
    assert list(homeless.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--bundle", "~/b", "--task", "topic", "a"),
        ("run", "--task", "topic", "--input", "~/rows.txt"),
        ("run", "--task", "topic", "--output", "~/out.jsonl", "a"),
        ("tasks", "install", "~/task.safetensors"),
        ("tasks", "verify", "--bundle", "~/b"),
        ("bench", "--bundle", "~/b"),
        ("export", "~/model", "--output", "out"),
        ("export", "minilm-l6", "--output", "~/out"),
        ("export", "minilm-l6", "--output", "out", "--vectors", "~/run"),
        ("import", "peft", "~/adapter", "--backbone", "minilm-l6", "--output", "out"),
        ("export-peft", "--task", "a", "--output", "~/out"),
        ("train", "source", "~/a.toml", "--output", "out"),
        ("train", "target", "a.toml", "--from", "~/b", "--output", "out"),
        ("train", "probe", "a.toml", "--output", "out", "--data", "~/data"),
        ("train", "report", "~/run"),
    ],
    ids=" ".join,
)
def test_tilde_without_a_home(homeless: Path, arguments: tuple[str, ...]) -> None:
    message = refused(commands.run_here(*arguments))
    assert "starts from a home folder, and there is none; set HOME, or write the whole path." in message
    assert list(homeless.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("export", "owner/model", "--output", "out"), ("import", "peft", "owner/a", "--backbone", "b", "--output", "out")],
    ids=" ".join,
)
def test_downloads_without_a_home(homeless: Path, arguments: tuple[str, ...]) -> None:
    assert "no home folder to keep downloads in; set HOME or HF_HOME" in refused(commands.run_here(*arguments))
    assert list(homeless.iterdir()) == []


def test_tilde_is_the_home_folder(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    (tmp_path / "rows.txt").write_text("atom\n", "utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ("--bundle=~/b", "--task=topic", "--input=~/rows.txt", "--output=~/new/out.jsonl")
    assert commands.run_here("run", *options).returncode == 0
    assert (tmp_path / "new" / "out.jsonl").read_text("utf-8").startswith("{")
    monkeypatch.setenv("MPT_EDGE_BUNDLE", "~/b")
    assert "topic" in done(commands.run_here("tasks", "list", cwd=tmp_path))
    assert not (tmp_path / "~").exists()


@as_other_user
@pytest.mark.parametrize("name", ["bundle.json", "tokenizer.json", "onnx/model.onnx_data", "tasks/topic.safetensors"])
def test_unreadable_file_of_a_bundle(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    message = refused(run_bound("run", "--task", "topic", "--bundle", folder, "atom"))
    assert f"cannot read {folder / name} (Permission denied); change its permissions." in message


@as_other_user
@pytest.mark.parametrize("name", ["bundle.json", "prompts/mpt.safetensors"])
def test_unreadable_file_where_all_are_verified(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    message = refused(run_bound("tasks", "verify", "--bundle", folder))
    assert f"cannot read {folder / name} (Permission denied); change its permissions." in message


@as_other_user
@pytest.mark.parametrize("command", ["install", "remove", "rollback"])
def test_bundle_that_may_not_be_changed(folder: Path, task_file, command: str) -> None:
    argument = task_file() if command == "install" else "topic"
    folder.chmod(0o555)
    message = refused(run_bound("tasks", command, argument, "--bundle", folder))
    assert f"{folder} could not be changed and stays as it was (Permission denied)" in message


@as_other_user
@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])  # both are read by libraries
def test_unreadable_file_of_a_backbone(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    (copy / name).chmod(0)
    message = refused(run_bound("export", copy, "--output", tmp_path / "out"))
    assert f"cannot read {copy / name} (Permission denied); change its permissions." in message


@as_other_user
def test_export_into_a_folder_of_others(tiny_folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    message = refused(run_bound("export", tiny_folder, "--output", tmp_path / "new" / "out"))
    assert (
        f"cannot make the folder {tmp_path / 'new' / 'out'} (Permission denied); name another with --output." in message
    )


@as_other_user
def test_vectors_that_may_not_be_listed(tiny_folder: Path, tiny_vectors: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
    (copy / "tasks").chmod(0)
    result = run_bound("export", tiny_folder, "--vectors", copy, "--output", tmp_path / "out")
    (copy / "tasks").chmod(0o755)
    assert f"cannot read {copy / 'tasks'} (Permission denied); change its permissions." in refused(result)


@as_other_user
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_unreadable_file_of_an_adapter(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    config = '{"peft_type": "PROMPT_TUNING", "task_type": "SEQ_CLS", "num_virtual_tokens": 2}'
    (tmp_path / "adapter_config.json").write_text(config, "utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / name).chmod(0)
    options = ("--backbone", tiny_folder, "--output", tmp_path / "out")
    message = refused(run_bound("import", "peft", tmp_path, *options))
    assert f"cannot read {tmp_path / name} (Permission denied); change its permissions." in message


@as_other_user
@pytest.mark.parametrize("name", ["toy.toml", "train.jsonl"])
def test_unreadable_recipe_and_data(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    recipe = 'name = "toy"\ntrain = "train.jsonl"\nvalidation = "train.jsonl"\n'
    (tmp_path / "toy.toml").write_text(recipe, "utf-8")
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n', "utf-8")
    (tmp_path / name).chmod(0)
    options = ("--data", tmp_path, "--backbone", tiny_folder, "--output", tmp_path / "out")
    result = run_bound("train", "source", tmp_path / "toy.toml", *options)
    assert f"{tmp_path / name} (Permission denied)" in refused(result)


@as_other_user
@pytest.mark.parametrize(
    "arguments", [("run", "--task", "topic", "--input"), ("tasks", "install"), ("train", "report")], ids=" ".join
)
def test_unreadable_argument(tiny_bundle: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "rows.txt"
    path.mkdir() if arguments[-1] == "report" else path.write_text("atom\n", "utf-8")
    path.chmod(0)
    options = () if arguments[-1] == "report" else ("--bundle", tiny_bundle)
    result = run_bound(*arguments, path, *options)
    path.chmod(0o755)
    assert str(path) in refused(result)
    assert "Permission denied" in refused(result)


@as_other_user
def test_output_that_may_only_be_written(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.touch(0o200)
    result = run_bound("run", "--bundle", tiny_bundle, "--task", "topic", "--output", output, "atom")
    assert result.returncode == 0
