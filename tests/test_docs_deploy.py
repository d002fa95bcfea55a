"""docs/deploy.md and deploy/: the start command as it is confined, and the recipes as far as a machine allows.

No image is built and no unit is started: that takes a Docker daemon and systemd.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.blocks import examples
from tests.support.bundles import read_files
from tests.support.places import ROOT
from tests.support.users import confined, has_mounts

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
RECIPE = ROOT / "deploy" / "Dockerfile"
UNIT = ROOT / "deploy" / "mpt-edge.service"

#: Largest exposure by `systemd-analyze security`, from 0 to 10.
MAX_EXPOSURE = 1.5


@pytest.fixture(scope="module")
def recipe() -> dict[str, str]:
    """Return the last of each instruction in the recipe."""
    text = RECIPE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return dict(lines)


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    """Return the settings of the unit."""
    lines = [line for line in UNIT.read_text(encoding="utf-8").splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def start_command(recipe: dict[str, str]) -> list[str]:
    return [*json.loads(recipe["ENTRYPOINT"]), *json.loads(recipe["CMD"])]


@contextmanager
def served(command: list[str], variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a server; yield it and its port once it is ready."""
    process = subprocess.Popen(
        command, env=variables, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[1].startswith("ready: 3 tasks"), process.communicate()
        yield process, int(lines[0].rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def test_the_start_command_confined(tiny_bundle: Path, tmp_path: Path, recipe: dict[str, str]) -> None:
    """Another user without a home folder, nothing writable, no memory that is writable and executable."""
    if not has_mounts():
        pytest.skip("this user may not mount file systems")
    name, *arguments = start_command(recipe)
    assert name == "mpt-edge"
    variables = dict(re.findall(r"(\w+)=(\S+)", recipe["ENV"]))
    assert "MPT_EDGE_BUNDLE" in variables
    place = tmp_path / "bundle"
    place.mkdir()
    tmp_path.chmod(0o755)
    arguments[arguments.index("8080")] = "0"
    command = confined(tiny_bundle, place, ["-m", "mpt_edge", *arguments], recipe["USER"])
    before = read_files(tiny_bundle)
    variables |= {"PATH": "/usr/bin:/bin", "MPT_EDGE_BUNDLE": str(place)}
    with served(command, variables) as (process, port):
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "\nUid:\t65532\t65532" in status
        assert "\nNoNewPrivs:\t1" in status
        mounts = [line.split() for line in Path(f"/proc/{process.pid}/mounts").read_text().splitlines()]
        places = {path: options.split(",")[0] for _, path, kind, options, *_ in mounts if not kind.endswith("proc")}
        assert (places["/"], places[str(place)]) == ("ro", "ro")
        assert str(place) not in Path("/proc/mounts").read_text()  # the mounts are its own
        body = json.dumps({"inputs": "a witty film"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict?task=sentiment", body) as answer:
            assert {each["label"] for each in json.load(answer)} == {"bad", "good"}
        check = json.loads(recipe["HEALTHCHECK"].partition("CMD")[2])
        assert check[:2] == ["python", "-c"]
        code = check[2].replace(":8080", f":{port}")
        assert code != check[2]
        exec(code, {})  # noqa: S102 - of our recipe
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert "Traceback" not in errors
    assert read_files(tiny_bundle) == before


def test_the_recipe(recipe: dict[str, str]) -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", recipe["USER"])
    assert recipe["EXPOSE"] == start_command(recipe)[-1]
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(["hadolint", RECIPE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_build_gets_what_the_package_is_made_of() -> None:
    lines = RECIPE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [ROOT / line[1:] for line in lines if line.startswith("!")]
    assert all(path.exists() for path in kept)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], "pyproject.toml", "constraints.txt"]
    needed += [project["project"]["readme"], *project["project"]["license-files"]]
    assert [each for each in needed if not any((ROOT / each).is_relative_to(path) for path in kept)] == []


def test_the_unit(unit: dict[str, str], tmp_path: Path) -> None:
    program, *arguments = shlex.split(unit["ExecStart"])
    assert (program, arguments[0]) == ("/opt/mpt-edge/bin/mpt-edge", "serve")
    assert (unit["DynamicUser"], unit["ProtectSystem"], unit["CapabilityBoundingSet"]) == ("yes", "strict", "")
    assert int(unit["TimeoutStopSec"]) > 30  # the server's own limit
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if UNIT.name in line]) == (0, [])
    rating = ["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT]
    rated = subprocess.run(rating, capture_output=True, text=True, check=False).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated)
    assert exposure is not None
    assert float(exposure[1]) <= MAX_EXPOSURE
    assert f"rates it {exposure[1]} of 10" in PAGE


def test_the_blocks(recipe: dict[str, str], unit: dict[str, str]) -> None:
    """Paths, ports and names in the commands are those of the recipes."""
    lines = [shlex.split(line) for example in examples(PAGE) for line in example.code.replace("\\\n", " ").splitlines()]
    for line in (line for line in lines if line[0] == "docker"):
        if "build" in line[:3]:
            assert (ROOT / line[line.index("--file") + 1]) == RECIPE
            continue
        values = {flag: value for flag, value in pairwise(line) if flag.startswith("--")}
        assert "--read-only" in line
        assert "$PWD/bundles/app:" + recipe["ENV"].rpartition("MPT_EDGE_BUNDLE=")[2].strip() + ":ro" in line
        assert values["--publish"].endswith(f":{recipe['EXPOSE']}")
        assert "serve" not in line or line[line.index("serve") :][:3] == start_command(recipe)[1:4]
    program, *arguments = shlex.split(unit["ExecStart"])
    said = [word for line in lines for word in line]
    assert f"{program.rpartition('/')[0]}/pip" in said
    assert arguments[-1] in said
    assert UNIT.relative_to(ROOT).as_posix() in said
