"""`mpt-edge tasks`: list, show, install, verify, remove and roll back the tasks of a bundle, and show its history."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpt_edge.cli.options import BundleFolder, Commands, PrecisionOption, RequireKey
from mpt_edge.cli.output import json_text
from mpt_edge.cli.sources import Sha256, Sources, local_files
from mpt_edge.cli.table import printable
from mpt_edge.errors import CorruptFileError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.history import ChangeRecord
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.metrics import headline_text
from mpt_edge.formats.public_keys import PREFIX
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Answer
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.loading import default_bundle, open_model
from mpt_edge.inference.model import Model

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

#: Maximum characters of an answer in a message.
_MAX_SHOWN = 60

#: Digits of a hash, and characters of a key, in the history; `--json` has all.
_SHOWN_DIGITS = 12

#: Tolerance of a reference example's score. int8 moves scores without changing answers: the largest difference of
#: the shipped tasks is 0.04.
_SELF_TEST_TOLERANCE = {Precision.FLOAT32: 0.02, Precision.INT8: 0.1}


def _open(folder: Path | None) -> Bundle:
    return Bundle.open(folder or default_bundle())


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
        Console().print(_table(rows))
    if damaged:
        raise damaged[0]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("task", "head type", "inputs", "labels", "bytes", "contents", "test", box=None, pad_edge=False)
    for row in rows:
        texts = (
            row["task"],
            row["head_type"],
            row["inputs"],
            row["labels"],
            f"{row['bytes']:,}",
            row["contents"],
            headline_text(row["test"], 3),
        )
        table.add_row(*(Text(str(text)) for text in texts))  # text from a file is no markup
    return table


@app.command()
def show(task: Name, bundle: BundleFolder = None) -> None:
    """Print a task file's metadata as JSON."""
    opened = _open(bundle)
    file = opened.task(task)
    signature = file.signature
    facts = {key: value for key, value in vars(file).items() if key not in ("u", "v", "own_prompt")}
    facts["signature"] = signature and {
        "signer": signature.key,
        "expires": signature.expires and str(signature.expires),
    }
    facts |= {"u": list(file.u.shape), "v": list(file.v.shape), "dtype": file.u.dtype.name}
    typer.echo(json_text(_summary(opened, file) | facts, sys.stdout, indent=2))


@app.command(epilog=INSTALL_EPILOG)
def install(
    files: Sources,
    bundle: BundleFolder = None,
    sha256: Sha256 = None,
    require_key: RequireKey = None,
) -> None:
    """Add task files to the bundle, all or none, if they were made for this backbone and prompt."""
    opened = _open(bundle)
    with local_files(files, sha256) as paths:
        installed = opened.install_all(paths, require_keys=require_key or ())
    for task in installed:
        typer.echo(f"installed {task.name} ({opened.task_bytes(task.name):,} bytes) in {opened.folder}")


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
        Console().print(_log_table(records))


def _log_table(records: list[ChangeRecord]) -> Table:
    table = Table("when", "change", "task", "version", "sha256", "signer", box=None, pad_edge=False)
    for record in records:
        version = "" if record.version is None else record.version
        signer = (record.signer or "").removeprefix(PREFIX)[:_SHOWN_DIGITS]
        cells = (record.when, record.action, record.task, version, record.sha256[:_SHOWN_DIGITS], signer)
        table.add_row(*(Text(printable(str(cell), sys.stdout, always=True)) for cell in cells))
    return table


@app.command()
def verify(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks to verify; all if none is named.")] = None,
    bundle: BundleFolder = None,
    precision: PrecisionOption = None,
    require_key: RequireKey = None,
) -> None:
    """Check every file's hash and required signature, and each task's answer to its recorded reference example."""
    opened = _open(bundle)
    opened.verify_files()
    model = open_model(opened, precision=precision, verify=False)
    tolerance = _SELF_TEST_TOLERANCE[opened.choose_precision(precision)]
    names = tasks or opened.task_names
    for name in names:
        file = model.task(name).file
        opened.check_signer(file, require_key or ())
        _self_test(model, file, tolerance)
    count = "1 task" if len(names) == 1 else f"{len(names)} tasks"
    typer.echo(f"{len(opened.manifest.files)} files and {count} are as they were made.")


def _self_test(model: Model, file: TaskFile, tolerance: float) -> None:
    """Answer a task's reference example. Raises CorruptFileError for another answer."""
    example = file.reference_example
    if not example:
        return
    try:
        text, label, score = example["text"], str(example["label"]), float(example["score"])
        given = tuple(text) if isinstance(text, list) else text
        if isinstance(model, GenerativeModel) and "log_likelihood" in example:
            # Of two tokens that are equally likely, rounding decides; it hardly moves the likelihood of a text.
            score = float(example["log_likelihood"])
            answered, confidence = label, model.log_likelihood(given, file.name, label)
        else:
            answer: Answer = model.run([given], file.name)[0]
            answered, confidence = answer.summary, answer.confidence or 0.0
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptFileError(
            f"the reference example of {file.name} cannot be used; install the task again."
        ) from error
    if answered != label or not abs(confidence - score) <= tolerance:
        raise CorruptFileError(
            f"{file.name} answers its reference example with {_short(answered)} ({confidence:.3f}) instead of "
            f"{_short(label)} ({score:.3f}); install the task again or export the bundle again."
        )


def _short(text: str) -> str:
    """Return an answer that fits into a sentence."""
    return " ".join(printable(text, sys.stderr, always=True).split())[:_MAX_SHOWN] or "nothing"


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
