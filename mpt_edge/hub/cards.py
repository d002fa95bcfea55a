"""Model cards for repositories that have none; an export writes those of bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.markdown import front_matter, hub_link, plain
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.hub.repositories import Repository

_TAGS = ["multitask-prompt-tuning", "onnx"]

_TEXT = """
# {title}

Tasks of `mpt-edge` for {base}. Each is two vectors `u`, `v` that scale a shared
prompt of the bundle that it was made for.

| task | head type | labels | version | data license |
| --- | --- | --: | --: | --- |
{rows}
"""


def make_card(repository: Repository, manifest: Manifest, tasks: Iterable[TaskFile]) -> str:
    """Return a card with a table of the tasks."""
    base = manifest.backbone.get("id", "")
    entries: Mapping[str, object] = {"library_name": "mpt-edge", "base_model": base, "license": "other", "tags": _TAGS}
    rows = "\n".join(map(_row, tasks))
    return front_matter(entries) + _TEXT.format(title=plain(repository.id), base=hub_link(base), rows=rows)


def _row(task: TaskFile) -> str:
    cells = task.name, task.head_type, len(task.labels), task.version, task.license or "-"
    return "| " + " | ".join(map(plain, cells)) + " |"
