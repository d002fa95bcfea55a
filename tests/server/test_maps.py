"""The map of the tasks, compared with distances of whole scale matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.server import maps
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.encoders import make_task
from tests.support.http import App


@pytest.fixture(scope="module")
def files(tiny: EncoderBackbone, shared_prompt: SharedPrompt) -> list[TaskFile]:
    """Return tasks of one pair of vectors, and one of two."""
    rng = np.random.default_rng(3)
    tasks = [make_task(tiny, shared_prompt, "t" * count, {"no": "bad", "yes": "good"}) for count in range(1, 7)]
    return [*tasks, replace(tasks[0], name="ranks", u=rng.normal(size=(6, 2)), v=rng.normal(size=(2, 32)))]


def scales(file: TaskFile) -> np.ndarray:
    u, v = np.float64(file.u), np.float64(file.v)
    return u @ v if u.ndim == 2 else np.outer(u, v)


def test_it_is_the_principal_components_of_the_scale_matrices(files: list[TaskFile]) -> None:
    rows = np.stack([scales(file).ravel() for file in files]) / np.sqrt(6 * 32)
    left, singular, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = left[:, :2] * singular[:2]
    result = maps.project(files)
    axes = np.array([(point.x, point.y) for point in result.points])
    np.testing.assert_allclose(np.abs(axes), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(result.shares, singular[:2] ** 2 / (singular**2).sum())
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.diag(np.full(len(rows), np.inf))
    for point, row in zip(result.points, distances, strict=True):
        assert point.nearest == files[row.argmin()].name
        assert point.distance == pytest.approx(row.min())


def test_how_a_scale_is_divided_does_not_matter(files: list[TaskFile]) -> None:
    halves = [replace(file, u=np.float64(file.u) / -2, v=np.float64(file.v) * -2) for file in files]
    points = [maps.project(each).points for each in (files, halves)]
    for one, other in zip(*points, strict=True):
        assert (one.x, one.y, one.distance) == pytest.approx((other.x, other.y, other.distance), abs=1e-9)


def test_maps_of_few_tasks(files: list[TaskFile]) -> None:
    assert maps.project([], ["broken"]) == maps.Map([], (0.0, 0.0), ["broken"])
    (point,) = maps.project(files[:1]).points
    assert (abs(point.x) < 1e-6, point.y, point.nearest, point.distance) == (True, 0, None, None)
    two = maps.project(files[:2])
    assert two.points[0].x == pytest.approx(-two.points[1].x)
    assert two.shares == pytest.approx((1, 0), abs=1e-6)


def test_the_prompt_of_most_tasks_is_mapped(files: list[TaskFile], shared_prompt: SharedPrompt) -> None:
    other, own = replace(files[0], prompt_sha256="0" * 64), replace(files[0], own_prompt=shared_prompt)
    assert maps.most_frequent_prompt([own, other, *files]) == shared_prompt.fingerprint
    assert maps.most_frequent_prompt([own]) is None


def test_the_route(app: App) -> None:
    answer = app.get("/map").json
    assert [point["task"] for point in answer["points"]] == ["same", "sentiment", "topic"]
    assert answer["left_out"] == []
    assert sum(answer["shares"]) == pytest.approx(1)
