"""A map of the tasks: their scale matrices in two dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Response

from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.server import bodies
from mpt_edge.server.service import Service

#: Maximum number of tasks on a map. Its cost grows with the cube of this.
MAX_TASKS = 500

_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A task on the map."""

    task: str
    x: float
    y: float
    nearest: str | None
    """The task at the shortest distance, of all dimensions; None where there is no other."""
    distance: float | None
    """Root mean square of the difference of the two tasks' scales."""


@dataclass(frozen=True)
class Map:
    """Tasks of one shared prompt."""

    points: list[Point]
    shares: tuple[float, float]
    """Shares of the variance that the two axes show."""
    left_out: list[str]
    """Tasks of other prompts, damaged ones, and those beyond `MAX_TASKS`."""


def router(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["Tasks"])

    @routes.get("/map", summary="Return a map of the tasks by their two vectors")
    async def map_() -> Response:
        result = await service.in_thread(partial(_of_bundle, service.model.bundle))
        return bodies.json_response(asdict(result))

    return routes


def _of_bundle(bundle: Bundle) -> Map:
    bundle = Bundle.open(bundle.folder)  # with the tasks of now
    files, damaged = [], []
    for name in bundle.task_names:
        try:
            files.append(bundle.task(name))
        except MptEdgeError:  # the list of tasks has the reason
            damaged.append(name)
    prompt = most_frequent_prompt(files)
    shown = [file for file in files if file.own_prompt is None and file.prompt_sha256 == prompt][:MAX_TASKS]
    left_out = {file.name for file in files} - {file.name for file in shown} | set(damaged)
    return project(shown, sorted(left_out))


def most_frequent_prompt(files: Sequence[TaskFile]) -> str | None:
    """Return the fingerprint of the shared prompt of most tasks. Scales of different prompts are not comparable."""
    counts = Counter(file.prompt_sha256 for file in files if file.own_prompt is None)
    return max(counts, key=lambda prompt: counts[prompt]) if counts else None


def project(files: Sequence[TaskFile], left_out: Sequence[str] = ()) -> Map:
    """Project tasks of one prompt onto the two directions in which their scales differ most.

    A task scales the prompt by the matrix ``u vᵀ``. Distances are those of the matrices, so it does not
    matter how a scale is divided between ``u`` and ``v``. The map is their principal components.
    """
    if not files:
        return Map([], (0.0, 0.0), list(left_out))
    products = _products(files)
    centered = products - products.mean(0) - products.mean(1)[:, None] + products.mean()
    values, vectors = np.linalg.eigh(centered)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    width = min(2, len(files))
    axes = np.zeros((len(files), 2))
    axes[:, :width] = vectors[:, :width] * np.sqrt(values[:width])
    axes *= np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)  # a sign is free; the same at every call
    shares = np.zeros(2)
    shares[:width] = values[:width] / max(values.sum(), np.finfo(float).tiny)
    points = [
        Point(file.name, float(x), float(y), *nearest)
        for file, (x, y), nearest in zip(files, axes, _nearest(products, files), strict=True)
    ]
    return Map(points, (float(shares[0]), float(shares[1])), list(left_out))


def _products(files: Sequence[TaskFile]) -> _Doubles:
    """Return the mean product of the scale matrices of each two tasks, without making these matrices."""
    u = [np.atleast_2d(file.u.astype(np.float64).T) for file in files]  # (pairs of vectors, prompt length)
    v = [np.atleast_2d(file.v.astype(np.float64)) for file in files]
    starts = np.cumsum([0, *(len(each) for each in u[:-1])])
    every_u, every_v = np.concatenate(u), np.concatenate(v)
    products = (every_u @ every_u.T) * (every_v @ every_v.T)
    sums = np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
    return np.asarray(sums / (every_u.shape[1] * every_v.shape[1]))


def _nearest(products: _Doubles, files: Sequence[TaskFile]) -> list[tuple[str | None, float | None]]:
    """Return for each task the nearest other one, and its distance."""
    if len(files) < 2:
        return [(None, None)] * len(files)
    norms = np.diag(products)
    squares = norms[:, None] + norms[None] - 2 * products
    np.fill_diagonal(squares, np.inf)
    best = squares.argmin(1)
    return [(files[j].name, float(np.sqrt(max(squares[i, j], 0)))) for i, j in enumerate(best)]
