"""Reports of training runs: learning curves, a table of the tasks and a map of their vectors."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mpt_edge._escapes import one_line
from mpt_edge._files import atomic_write, check_listable
from mpt_edge.errors import InputError
from mpt_edge.formats.metrics import headline_text
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.runlog import LOG, read_log

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } th, td { padding: .25rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr:nth-child(even) { background: #f4f4f4; }
svg { max-width: 100%; height: auto; }
"""
#: Colors of the highlighted line and of the others.
_FRONT, _BACK = "#1f5fa8", "#b9bec6"

#: Characters of a name in a figure.
_MAX_NAME = 40

_MAP_TEXT = (
    "<p>Distances are those of the scales u vᵀ, in the plane that keeps most of them; tasks close to each other scale "
    "the shared prompt alike.</p>"
)


def write_report(folder: Path, output: Path) -> None:
    """Write a report as one self-contained HTML file.

    Args:
        folder: folder of a source or target run.
        output: path of the report.

    Raises:
        InputError: the folder holds no run.
        CorruptFileError: it cannot be read.
    """
    check_listable(folder)
    runs = sorted(path.parent for path in folder.rglob(LOG))
    if not runs:
        raise InputError(f"{folder} holds no run (no {LOG}); pass the folder of a training run.")
    tasks = list(VectorFolder(folder).tasks().values())
    parts = [f"<h1>{html.escape(folder.resolve().name)}</h1>"]
    for run in runs:
        entries = read_log(run)
        if entries:
            title = "Training" if run == folder else str(run.relative_to(folder))
            parts += [f"<h2>{html.escape(title)}</h2>", _svg(_curves(entries))]
    parts += ["<h2>Tasks</h2>", _table(tasks)] if tasks else []
    parts += _maps(tasks)
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Run</title><style>{_STYLE}</style>'
    with atomic_write(output) as temporary:
        temporary.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")


def scaling_map(tasks: Sequence[TaskFile]) -> NDArray[np.float64]:
    """Return coordinates of each task in the plane, ``(tasks, 2)``: principal components of the ``u vᵀ``.

    The inner product of two scales is ``(u_j·u_k)(v_j·v_k)``, so no l x d matrix is formed.
    """
    u, v = (np.stack([getattr(task, name).astype(np.float64) for task in tasks]) for name in ("u", "v"))
    gram = (u @ u.T) * (v @ v.T)
    center = np.eye(len(tasks)) - 1 / len(tasks)
    values, vectors = np.linalg.eigh(center @ gram @ center)
    top = np.argsort(values)[::-1][:2]
    points: NDArray[np.float64] = vectors[:, top] * np.sqrt(np.maximum(values[top], 0))
    return points


def _maps(tasks: Sequence[TaskFile]) -> list[str]:
    """Return a map for each shared prompt with at least three two-vector tasks, of one pair of vectors each."""
    groups: dict[tuple[object, ...], list[TaskFile]] = {}
    for task in tasks:
        if task.is_two_vectors and task.u.ndim == 1:
            groups.setdefault((task.prompt_sha256, task.u.shape, task.v.shape), []).append(task)
    parts = []
    for group in groups.values():
        if len(group) >= 3:
            parts += [
                f"<h2>Map of the tasks on {html.escape(group[0].prompt or '')}</h2>",
                _svg(_map(group)),
                _MAP_TEXT,
            ]
    return parts


def _curves(entries: Sequence[dict[str, Any]]) -> Figure:
    """Plot loss and validation scores."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [entry for entry in entries if "loss" in entry]
    if losses:
        names = [name for name in losses[0]["loss"] if any(entry["loss"].get(name) for entry in losses)]
        names = names if len(names) > 2 else ["total"]
        lines = {name: _smooth([entry["loss"].get(name, np.nan) for entry in losses]) for name in names}
        _lines(left, [entry["step"] for entry in losses], lines, front="total")
    scored = [entry for entry in entries if "validation" in entry]
    if scored:
        names = scored[0]["validation"]
        lines = {name: [entry["validation"].get(name, np.nan) for entry in scored] for name in names}
        if len(lines) > 1:
            lines["mean"] = [entry.get("mean", np.nan) for entry in scored]
        _lines(right, [entry["step"] for entry in scored], lines, front="mean")
    for axes, title in ((left, "loss, smoothed"), (right, "validation")):
        axes.set_title(title, loc="left")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _lines(axes: Axes, steps: Sequence[int], lines: Mapping[str, Sequence[float]], *, front: str) -> None:
    """Plot lines with their names at the right end, the line ``front`` highlighted."""
    for name, values in lines.items():
        style: dict[str, Any] = {"color": _BACK, "linewidth": 1}
        if name == front:
            style = {"color": _FRONT, "linewidth": 2, "zorder": 3}
        axes.plot(steps, values, marker="o" if len(steps) < 3 else None, **style)
    low, high = axes.get_ylim()
    ends = {name: values[-1] for name, values in lines.items() if np.isfinite(values[-1])}
    for name, height in _spread(ends, 0.05 * (high - low)).items():
        style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "parse_math": False}
        axes.annotate(one_line(name)[:_MAX_NAME], (steps[-1], height), (4, 0), **style)


def _spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Move labels up that are closer than ``gap`` to the one below."""
    result: dict[str, float] = {}
    last = -np.inf
    for name in sorted(heights, key=heights.__getitem__):
        last = max(heights[name], last + gap)
        result[name] = last
    return result


def _smooth(values: Sequence[float]) -> list[float]:
    """Return exponential moving averages, without bias at the start."""
    averages, average = [], 0.0
    for i, value in enumerate(values, start=1):
        average = 0.8 * average + 0.2 * value
        averages.append(average / (1 - 0.8**i))
    return averages


def _map(tasks: Sequence[TaskFile]) -> Figure:
    """Plot the scales of tasks on one prompt."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    points = scaling_map(tasks)
    axes.scatter(points[:, 0], points[:, 1], color=_FRONT)
    for task, point in zip(tasks, points, strict=True):
        axes.annotate(task.name, tuple(point), (5, 3), textcoords="offset points", fontsize=9, parse_math=False)
    axes.set_aspect("equal", "datalim")
    axes.margins(0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"\A.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.DOTALL)


def _table(tasks: Sequence[TaskFile]) -> str:
    """Return the table of the tasks as HTML."""
    head = ["task", "labels", "examples", "validation", "test", "linear probe (test)", "vectors"]
    rows = []
    for task in tasks:
        probe = task.metrics.get("linear_probe", {})
        splits = [task.metrics.get("validation"), task.metrics.get("test"), probe.get("test")]
        scores = [headline_text(split, 1, percent=True) for split in splits]
        examples = task.training.get("examples", 0)
        count = f"{examples:,}" if isinstance(examples, int) else "-"
        rows.append([task.name, len(task.labels), count, *scores, task.contents])
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return "<table>" + "\n".join(lines) + "</table>"


def _row(cell: str, values: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{cell}>{html.escape(str(value))}</{cell}>" for value in values) + "</tr>"
