"""`mpt-edge tasks`: list, show, install, verify, remove and roll back the tasks of a bundle, and show its history."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mpt_edge._console import PlainConsole, PlainTable
from mpt_edge.batch.json_answers import json_text
from mpt_edge.cli.options import BundleFolder, Commands, DigestOption, PrecisionOption, RequireKey
from mpt_edge.cli.sources import Sha256, Sources, local_files
from mpt_edge.errors import CorruptFileError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.history import ChangeRecord
from mpt_edge.formats.metrics import headline_text
from mpt_edge.formats.public_keys import PREFIX
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.loading import default_bundle, open_model
from mpt_edge.inference.model import Model
from mpt_edge.inference.self_test import self_test

app = Commands(
    help="List, show, install, verify, remove and roll back the tasks of a bundle, and show its history.",
    no_args_is_help=True,
)

INSTALL_EPILOG = """
Examples:

mpt-edge tasks install runs/mine/tasks/mine.safetensors --bundle bundles/app

mpt-edge tasks install hf://owner/name@v2/tasks/mine.safetensors
"""

Name = Annotated[str, typer.Argument(help="A task's name, as `mpt-edge tasks list` shows it.", show_default=False)]

#: Digits of a hash, and characters of a key, in the history; `--json` has all.
_SHOWN_DIGITS = 12


def _open(folder: Path | None, digest: str | None = None) -> Bundle:
    return Bundle.open(folder or default_bundle(), digest=digest)


@app.command("list")
def list_(
    bundle: BundleFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the tasks with their sizes and test metrics: accuracy, or the metric that is named."""
    opened = _open(bundle)
    rows, damaged = [], []
    for name in opened.task_names:
        try:
            rows.append(_summary(opened, opened.task(name)))
        except (CorruptFileError, MismatchError) as error:  # the others can still be used
            damaged.append(error)
        except UnknownTaskError:  # another process has removed it meanwhile
            continue
    if as_json:
        for row in rows:
            typer.echo(json_text(row, sys.stdout))
    else:
        PlainConsole().print(_table(rows))
    if damaged:
        raise damaged[0]


def _table(rows: list[dict[str, Any]]) -> PlainTable:
    table = PlainTable("task", "head type", "inputs", "labels", "bytes", "contents", "test")
    for row in rows:
        table.row(
            row["task"],
            row["head_type"],
            row["inputs"],
            row["labels"],
            f"{row['bytes']:,}",
            row["contents"],
            headline_text(row["test"], 3),
        )
    return table


@app.command()
def show(task: Name, bundle: BundleFolder = None) -> None:
    """Print a task file's metadata as JSON."""
    opened = _open(bundle)
    file = opened.task(task)
    signature = file.signature
    facts = {key: value for key, value in vars(file).items() if key not in ("u", "v", "own_prompt", "label_vectors")}
    facts["signature"] = signature and {
        "signer": signature.key,
        "expires": signature.expires and str(signature.expires),
    }
    facts |= {"u": list(file.u.shape), "v": list(file.v.shape), "dtype": file.u.dtype.name}
    facts["label_vectors"] = file.label_vectors and {
        "labels": len(file.label_vectors),
        "levels": file.label_vectors.levels,
    }
    typer.echo(json_text(_summary(opened, file) | facts, sys.stdout, indent=2))


@app.command(epilog=INSTALL_EPILOG)
def install(
    files: Sources,
    bundle: BundleFolder = None,
    precision: PrecisionOption = None,
    digest: DigestOption = None,
    sha256: Sha256 = None,
    require_key: RequireKey = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Take a version that is not above the highest ever installed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, and change nothing.")
    ] = False,
) -> None:
    """Add task files to the bundle, all or none, after they have answered their reference examples here."""
    model = open_model(_open(bundle, digest), precision=precision)
    folder = model.bundle.folder
    with local_files(files, sha256) as paths:
        tasks = model.install(*paths, require_keys=require_key or (), allow_downgrade=allow_downgrade, dry_run=dry_run)
    for task in tasks:
        if dry_run:
            typer.echo(f"would install {task.name}, version {task.file.version}, in {folder}")
        else:
            typer.echo(f"installed {task.name} ({model.bundle.task_bytes(task.name):,} bytes) in {folder}")


@app.command()
def remove(task: Name, bundle: BundleFolder = None) -> None:
    """Remove a task from the bundle."""
    opened = _open(bundle)
    opened.remove(task)
    typer.echo(f"removed {task} from {opened.folder}")


@app.command()
def rollback(task: Name, bundle: BundleFolder = None) -> None:
    """Restore the version that the last install replaced."""
    opened = _open(bundle)
    restored = opened.rollback(task)
    typer.echo(f"rolled {task} back to version {restored.version} in {opened.folder}")


@app.command()
def log(
    bundle: BundleFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the last changes to the bundle's tasks, the newest first."""
    records = list(reversed(_open(bundle).manifest.changes))
    if as_json:
        for record in records:
            typer.echo(json_text(asdict(record), sys.stdout))
    else:
        PlainConsole().print(_log_table(records))


def _log_table(records: list[ChangeRecord]) -> PlainTable:
    table = PlainTable("when", "change", "task", "version", "sha256", "signer")
    for record in records:
        version = record.version if record.task else ""  # keys have a sequence number instead
        signer = (record.signer or "").removeprefix(PREFIX)[:_SHOWN_DIGITS]
        table.row(_shown_time(record.when), record.action, record.task, version, record.sha256[:_SHOWN_DIGITS], signer)
    return table


def _shown_time(when: str) -> str:
    return when.replace("+00:00", "Z")


@app.command()
def digest(bundle: BundleFolder = None) -> None:
    """Print one hash for the whole bundle but its history, to pin with --digest."""
    typer.echo(_open(bundle).digest)


@app.command()
def verify(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks to verify; all if none is named.")] = None,
    bundle: BundleFolder = None,
    precision: PrecisionOption = None,
    digest: DigestOption = None,
    require_key: RequireKey = None,
) -> None:
    """Check every file's hash and required signature, and each task's answer to its recorded reference example."""
    opened = _open(bundle, digest)
    opened.verify_files()
    model = open_model(opened, precision=precision, verify=False)
    names = tasks or opened.task_names
    check_answers(model, names, require_key or ())
    count = "1 task" if len(names) == 1 else f"{len(names)} tasks"
    typer.echo(f"{len(opened.manifest.files)} files and {count} are as they were made.")


def check_answers(model: Model, names: Sequence[str], keys: Sequence[str] = ()) -> None:
    """Check that some tasks are signed by one of some keys, if any are given, and answer their reference examples.

    Raises:
        SignatureError: one is not signed as required.
        MptEdgeError: one cannot be read, or answers otherwise.
    """
    for name in names:
        task = model.task(name)
        model.bundle.check_signer(task.file, keys)
        if task.file.reference_example:
            self_test(task, model.precision)


def _summary(bundle: Bundle, file: TaskFile) -> dict[str, Any]:
    test = file.metrics.get("test", {})
    return {
        "task": file.name,
        "head_type": file.head_type,
        "inputs": file.inputs,
        "labels": len(file.labels),
        "bytes": bundle.task_bytes(file.name),
        "contents": file.contents,
        "test_accuracy": test.get("accuracy"),
        "test": dict(test),
        "version": file.version,
    }
