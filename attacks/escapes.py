"""Give every command values that a terminal would obey, and read what it prints.

python attacks/escapes.py

Prints one line a kind of output. `--no-generation` leaves out the generated texts, whose model takes longest to build.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer

from attacks.common import Tally
from attacks.tiny import build
from mpt_edge.cli import main as command
from mpt_edge.cli.app import build_app
from mpt_edge.formats.bundle_reader import BundleReader, hash_bytes
from mpt_edge.formats.history import Action, ChangeRecord
from mpt_edge.formats.manifest import MANIFEST, read_manifest
from mpt_edge.formats.vectors import VectorFolder

#: A value with each kind of control: colors, a title, a reset, a carriage return, C1, DEL, turns and line separators.
HOSTILE = "p\x1b[38;5;213mq\x9b31m\x1b]0;t\x07\x1bc\rz\x7f\u202e\u2066\u200f\u061c\u2028\x85\x9d"

#: What consoles of rich themselves send to a terminal. None of it is in `HOSTILE`.
_OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\x1b\[|[^z])")

_OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|38;5;213m(?<=\x1b.{9})"
)


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit status."""

    status: int
    output: str
    error: str


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def run(*arguments: object, is_terminal: bool = True) -> Printed:
    """Run the command in this process, on a terminal or in a pipe."""
    kind = Terminal if is_terminal else io.TextIOWrapper
    stdout, stderr = kind(io.BytesIO(), "utf-8"), kind(io.BytesIO(), "utf-8")
    variables = {"TERM": "xterm-256color", "COLUMNS": "400"}
    with (
        patch.object(sys, "argv", ["mpt-edge", *map(str, arguments)]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8")),
        patch.dict("os.environ", variables),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            command()
        except SystemExit as left:
            status = left.code
    texts = []
    for stream in (stdout, stderr):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
    return Printed(int(status or 0), *texts)


def leaks(text: str, *, is_terminal: bool) -> set[str]:
    """Return the control characters of a text, but for those that a console of ours sends to a terminal."""
    if "\x1b[38;5;213m" in text:
        return {"\x1b[38;5;213m"}
    return set(_OBEYED.findall(_OWN.sub("", text) if is_terminal else text))


@dataclass(frozen=True)
class Case:
    """Arguments of a command, in which a value is hostile."""

    kind: str
    arguments: Sequence[object]
    is_raw: bool = False
    """Whether a pipe gets the text itself, as generated texts do."""

    @property
    def path(self) -> str:
        """Name of the command within the whole."""
        words = [str(each) for each in self.arguments[:2]]
        return " ".join(words if words[0] in _GROUPS else words[:1])


#: Commands of commands.
_GROUPS = ("tasks", "train", "import", "keys")


def leaf_commands() -> set[str]:
    """Return the names of all commands, so that a new one without a case shows."""
    root: Any = typer.main.get_command(build_app())
    names = set()
    for name, item in root.commands.items():
        names |= {f"{name} {leaf}" for leaf in item.commands} if hasattr(item, "commands") else {name}
    return names


def hostile_bundle(source: Path, place: Path) -> Path:
    """Copy a bundle into a folder of a hostile name, and make every free text in it hostile."""
    bundle = Path(shutil.copytree(source, place / HOSTILE))
    vectors, name = VectorFolder(bundle), "topic"
    task = vectors.tasks()[name]
    labels = tuple(f"{label}{HOSTILE}" for label in task.labels)
    example = {"text": "ball", "label": f"other{HOSTILE}", "score": 0.5}
    metrics = {"test": {"accuracy": 0.5}}
    facts = {"source": HOSTILE, HOSTILE: HOSTILE}
    vectors.save(
        replace(
            task, labels=labels, license=HOSTILE, training=facts, metrics=metrics, reference_example=example,
        )
    )  # fmt: skip
    entries = json.loads((bundle / MANIFEST).read_text("utf-8"))
    entries |= {"name": HOSTILE, "made_by": HOSTILE}
    entries["backbone"] |= {"id": HOSTILE, "license": HOSTILE}
    record = ChangeRecord(when=HOSTILE, action=Action.INSTALL, task=HOSTILE, version=1, sha256=HOSTILE)
    entries["changes"] = [vars(record)]
    _seal(bundle, entries)
    return bundle


def _seal(bundle: Path, entries: dict[str, Any]) -> None:
    """Write a manifest with its hash, and with those of the files as they are."""
    from tests.support.bundles import sealed

    for name, entry in entries["files"].items():
        data = (bundle / name).read_bytes()
        entry |= {"size": len(data), "sha256": hash_bytes(data)}
    (bundle / MANIFEST).write_bytes(sealed(entries))
    read_manifest(bundle / MANIFEST)
    BundleReader.open(bundle)


def hostile_files(place: Path) -> dict[str, Path]:
    """Write rows, recipes, a run and an adapter with hostile names and values."""
    text = json.dumps(HOSTILE)
    contents = {
        "rows.jsonl": json.dumps({"text": f"ball {HOSTILE}"}) + "\n",
        "columns.csv": "text,a\n".replace("a", "z" + HOSTILE.replace("\r", "")),
        "bad.jsonl": json.dumps({HOSTILE: 1}) + "\n",
        "task.jsonl": json.dumps({"text": "ball", "task": HOSTILE}) + "\n",
        "name.toml": f"name = {text}\ntrain = 't.jsonl'\nvalidation = 't.jsonl'\n",
        "entry.toml": f"name = 'a'\ntrain = 't.jsonl'\nvalidation = 't.jsonl'\n{text} = 1\n",
        "path.toml": f"name = 'a'\ntrain = {text}\nvalidation = 't.jsonl'\n",
        "value.toml": f"name = 'a'\ntrain = 't.jsonl'\nvalidation = 't.jsonl'\nmax_length = {text}\n",
        "broken.toml": HOSTILE,
        "label.toml": "name = 'a'\ntrain = 'rows.jsonl'\nvalidation = 'rows.jsonl'\nlabel = " + text + "\n",
        "adapter_config.json": json.dumps({"peft_type": HOSTILE, "task_type": HOSTILE}),
        "log.jsonl": json.dumps({"step": HOSTILE}) + "\n",
        "config.json": json.dumps({"model_type": HOSTILE}),
    }
    folder = place / f"files{HOSTILE}"
    folder.mkdir()
    paths = {name: folder / f"{HOSTILE}{name}" for name in contents}
    for name, content in contents.items():
        target = folder / name if name.endswith(".json") or name == "log.jsonl" else paths[name]
        target.write_text(content, "utf-8")
    return paths | {"folder": folder}


def cases(bundle: Path, files: dict[str, Path], model: Path, out: Path) -> Iterator[Case]:
    """Yield the cases of all commands but those that generate text."""
    b, folder = ("--bundle", bundle), files["folder"]
    missing = out / f"none{HOSTILE}"
    yield from (Case("run, table", ("run", *b, "--task", "topic", text)) for text in ("ball", f"ball {HOSTILE}"))
    yield Case("run, table", ("run", *b, "--task", "topic", "--input", files["rows.jsonl"]))
    yield Case("run, JSON", ("run", *b, "--task", "topic", "--json", f"ball {HOSTILE}"))
    yield Case("run, JSON", ("run", *b, "--task", "topic", "--json", "--input", files["rows.jsonl"]))
    yield Case("run, file", ("run", *b, "--task", "topic", "--output", out / f"{HOSTILE}.jsonl", f"ball {HOSTILE}"))
    yield Case("tables", ("tasks", "list", *b))
    yield from (Case("tables", ("tasks", word, *b)) for word in ("log", "digest"))
    yield from (
        Case("JSON", ("tasks", *words, *b)) for words in (("list", "--json"), ("log", "--json"), ("show", "topic"))
    )
    yield Case("errors", ("tasks", "verify", *b))
    for name in ("columns.csv", "bad.jsonl", "task.jsonl"):
        yield Case("errors", ("run", *b, "--input", files[name]))
    yield Case("errors", ("run", *b, "--task", "topic", "--input", files["rows.jsonl"], "--text-column", HOSTILE))
    yield Case("notes", ("run", *b, "--task", "topic", "--input", files["bad.jsonl"], "--on-error", "skip"))
    yield Case("errors", ("run", *b, "--task", HOSTILE, "ball"))
    for word in ("show", "remove", "rollback", "verify"):
        yield Case("errors", ("tasks", word, HOSTILE, *b))
    yield Case("errors", ("tasks", "install", files["rows.jsonl"], *b))
    for words in (("run", "--task", "a", "b"), ("tasks", "list"), ("tasks", "log"), ("bench",)):
        yield Case("errors", (*words, "--bundle", missing))
    yield from _key_cases(b, files["rows.jsonl"], missing)
    yield Case("errors", ("serve", "--bundle", missing))
    yield from _hub_cases(b, missing)
    yield Case("errors", ("export-peft", "--task", HOSTILE, "--output", missing, *b))
    yield Case("errors", ("import", "peft", folder, "--backbone", model, "--output", missing))
    yield Case("errors", ("import", "peft", missing, "--backbone", model, "--output", missing))
    yield Case("errors", ("import", "peft", folder, "--backbone", model, "--output", missing, "--task", HOSTILE))
    yield from (Case("errors", ("export", source, "--output", missing)) for source in (folder, missing, HOSTILE))
    yield Case("errors", ("export", model, "--output", missing, "--vectors", missing))
    for name in ("name.toml", "entry.toml", "path.toml", "value.toml", "broken.toml", "label.toml", "none.toml"):
        recipe = files.get(name, missing)
        for stage in ("source", "target", "probe"):
            source = ("--from", bundle) if stage == "target" else ()
            places = ("--output", out / "run", "--data", folder, "--backbone", model)
            yield Case("errors", ("train", stage, recipe, *source, *places))
    yield from (Case("errors", ("train", "report", run)) for run in (folder, missing))
    for name in sorted(leaf_commands()):
        for option in (f"--{HOSTILE}", f"--threads={HOSTILE}", f"--test={HOSTILE}"):
            yield Case("usage", (*name.split(), option))
    yield Case("usage", (HOSTILE,))


def _key_cases(b: tuple[object, ...], file: Path, missing: Path) -> Iterator[Case]:
    """Yield the cases of keys and signatures; the file is no key and no task."""
    yield Case("tables", ("keys", "list", *b))
    yield from (Case("errors", ("keys", word, HOSTILE, *b)) for word in ("pin", "unpin"))
    yield from (Case("errors", ("keys", word, file)) for word in ("new", "show"))
    yield Case("errors", ("keys", "apply", file, *b))
    yield Case("errors", ("keys", "rotate", "--key", file, "--new-key", HOSTILE, "--output", missing))
    yield Case("errors", ("sign", file, "--key", file))


def _hub_cases(b: tuple[object, ...], missing: Path) -> Iterator[Case]:
    """Yield the cases of a model hub; none of them asks it."""
    yield Case("errors", ("push", HOSTILE, *b))
    yield Case("errors", ("push", "owner/name", *b, "--task", HOSTILE))
    yield Case("errors", ("push", "owner/name", "--bundle", missing))
    yield Case("errors", ("pull", HOSTILE))
    for words in (("--task", HOSTILE), ("--revision", HOSTILE), ("--digest", HOSTILE), ()):
        yield Case("errors", ("pull", "owner/name", "--offline", "--output", missing, *words))


def check(case: Case, tally: Tally, *, has_traceback: bool, is_terminal: bool) -> None:
    """Run a case, and count what got through."""
    options = ("--debug",) if has_traceback else ()
    printed = run(*options, *case.arguments, is_terminal=is_terminal)
    found = leaks(printed.error, is_terminal=is_terminal)
    if is_terminal or not case.is_raw:
        found |= leaks(printed.output, is_terminal=is_terminal)
    trouble = f"{found!r} in" if found else _trouble(case, printed, has_traceback=has_traceback)
    is_shown = any(part in printed.output + printed.error for part in ("\\x9b", "\\u009b"))
    tally.add("escaped" if is_shown else "left out", trouble and f"{trouble} {case.arguments!r}")


def _trouble(case: Case, printed: Printed, *, has_traceback: bool) -> str | None:
    """Return what else is wrong: a traceback, or JSON that is not valid or has another value."""
    expected = {"errors": 1, "usage": 2}.get(case.kind, 0)
    if printed.status != expected:
        return f"status {printed.status} ({printed.error[-200:]!r}) of"
    if "Traceback" in printed.error and not has_traceback:
        return "traceback of"
    if "JSON" not in case.kind:
        return None
    try:
        texts = [printed.output] if "show" in case.arguments else printed.output.splitlines()
        values = json.dumps([json.loads(text) for text in texts])
    except ValueError as error:
        return f"no JSON ({error}) of"
    is_kept = json.dumps(HOSTILE)[1:-1] in values or "list" in case.arguments
    return None if is_kept else "another value of"


def writer_bundle(place: Path) -> Path:
    """Build a bundle of a model that writes bytes at random."""
    from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
    from mpt_edge.training.backbones.opening import open_backbone
    from tests.support import writers

    backbone = open_backbone(str(writers.save_writer(place / "writer")))
    assert isinstance(backbone, GenerativeBackbone)
    return writers.export_writer(backbone, writers.LENGTH, place)


def generation_cases(bundle: Path) -> Iterator[Case]:
    """Yield cases in which a model writes control characters: at this temperature, it writes any byte."""
    sampled = ("--temperature", 50, "--max-new-tokens", 120)
    for seed in range(3):
        words = ("run", "--bundle", bundle, "--task", "story", *sampled, "--seed", seed)
        yield Case("generated, stream", (*words, "The cat"), is_raw=True)
        yield Case("generated, blocks", (*words, "The cat", "A dog"))
        yield Case("generated, lines", (*words, "The cat", "--json"))


def attack(model: Path, bundle: Path, writer: Path | None, place: Path, stride: int = 1) -> list[Tally]:
    """Run the cases on terminals and in pipes, with and without the traceback.

    Args:
        model: folder of a small model.
        bundle: its bundle, with a task ``topic``.
        writer: a bundle that generates text; None to leave these cases out.
        place: an empty folder.
        stride: run each such case.
    """
    tallies: dict[str, Tally] = {}
    changed, out = hostile_bundle(bundle, place), place / "out"
    out.mkdir()
    every = list(cases(changed, hostile_files(place), model, out))
    trials = [*every, *(generation_cases(writer) if writer else ())]
    for case, has_traceback, is_terminal in list(product(trials, (False, True), (False, True)))[::stride]:
        tally = tallies.setdefault(case.kind, Tally(case.kind))
        check(case, tally, has_traceback=has_traceback, is_terminal=is_terminal)
    covered = Tally("commands")
    for name in sorted(leaf_commands()):
        covered.add("covered", None if name in {case.path for case in every} else f"{name!r} has no case")
    return [*tallies.values(), covered]


def main(
    generation: Annotated[bool, typer.Option(help="Generate texts, too.")] = True,
    stride: Annotated[int, typer.Option(min=1, help="Run each such case.")] = 1,
) -> None:
    """Run all cases, and exit with 1 if a control character got through."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        build(place)
        writer = writer_bundle(place / "generation") if generation else None
        (place / "work").mkdir()
        tallies = attack(place / "bert", place / "bundle", writer, place / "work", stride)
    for tally in tallies:
        print(tally)
    sys.exit(any(tally.problems for tally in tallies))


if __name__ == "__main__":
    typer.run(main)
