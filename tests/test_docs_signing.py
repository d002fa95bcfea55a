"""docs/signing.md: its commands run in order, and its formats are those of the files."""

from __future__ import annotations

import base64
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mpt_edge.formats import tensors
from mpt_edge.formats.bundle import Bundle
from tests.support.blocks import examples
from tests.support.commands import run_here
from tests.support.outcomes import done
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "signing.md").read_text(encoding="utf-8")


def run_line(line: str, folder: Path) -> str:
    """Run a command of ours as a shell would, with the commands in it first."""
    line = re.sub(r"\$\((.+?)\)", lambda match: run_line(match[1], folder).strip(), line)
    program, *arguments = shlex.split(line)
    assert program == "mpt-edge"
    return done(run_here(*arguments, cwd=folder))


def test_the_commands(tiny_bundle: Path, task_file: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundles" / "app")
    bundle = Bundle.open(tmp_path / "bundles" / "app")
    for name in list(bundle.task_names):
        bundle.remove(name)
    path = tmp_path / "runs" / "mine" / "tasks" / "mine.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copyfile(task_file("mine"), path)
    blocks = [example.code for example in examples(PAGE) if example.language == "sh"]
    assert len(blocks) == 5
    printed = [run_line(line, tmp_path) for block in blocks for line in block.splitlines()]
    keys = [run_line(f"mpt-edge keys show {name}.pem", tmp_path).strip() for name in ("release", "next")]
    assert f"{keys[0]}\n" in printed  # of the list
    assert run_line("mpt-edge keys list --bundle bundles/app", tmp_path) == f"{keys[1]}\n"
    assert bundle.open(bundle.folder).task("mine").signature.key == keys[1]


def test_the_message_of_a_task(task_file: Callable[..., Path], tmp_path: Path) -> None:
    template = next(block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if "task signature" in block)
    path = task_file("mine")
    done(run_here("keys", "new", tmp_path / "key.pem"))
    done(run_here("sign", path, "--key", tmp_path / "key.pem", "--expires", "2099-12-31"))
    entries = tensors.parse(path.read_bytes(), "x")[1]
    key, day, value = entries["signature"].split(" ")
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("ed25519:")))
    message = template.replace("ed25519:…", key).replace("sha256 …", f"sha256 {entries['sha256']}")
    assert day in message
    public.verify(base64.b64decode(value), message.encode("ascii"))
