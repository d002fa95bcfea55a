"""The schedule: fixed by the seed, capped, fair, and each batch of one task."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mpt_edge.training.schedule import TaskBatch, multitask_schedule, stochastic_schedule

SIZES = (50, 7, 23)


def lengths(sizes: tuple[int, ...] = SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, 30, size) for size in sizes]


def draw(**changes: object) -> list[list[TaskBatch]]:
    options = {"epochs": 4, "batch_size": 4, "examples_per_epoch": 20, "tasks_per_step": 2, "seed": 5}
    return multitask_schedule(lengths(), **(options | changes))


def flat(schedule: list[list[TaskBatch]]) -> list[tuple[int, tuple[int, ...]]]:
    return [(batch.task, tuple(map(int, batch.rows))) for step in schedule for batch in step]


def test_the_seed_alone_fixes_the_draw() -> None:
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    first = draw()
    np.random.seed(2)  # noqa: NPY002
    assert flat(first) == flat(draw())
    assert [len(step) for step in first] == [len(step) for step in draw()]
    assert flat(first) != flat(draw(seed=6))


def test_each_epoch_holds_each_task_up_to_the_cap() -> None:
    rows = Counter()
    for task, chosen in flat(draw()):
        rows[task] += len(chosen)
    assert rows == {0: 4 * 20, 1: 4 * 7, 2: 4 * 20}


def test_the_cap_holds_in_each_epoch_by_itself() -> None:
    schedule = draw()
    steps = len(schedule) // 4
    assert steps * 4 == len(schedule)
    for epoch in range(4):
        counted = Counter()
        for task, chosen in flat(schedule[epoch * steps : (epoch + 1) * steps]):
            counted[task] += len(chosen)
        assert counted == {0: 20, 1: 7, 2: 20}


def test_all_rows_are_seen_in_turn() -> None:
    schedule = draw(epochs=5)
    seen = Counter()
    for task, chosen in flat(schedule):
        seen.update((task, row) for row in chosen)
    # 5 epochs of 20 rows go through 50 rows exactly twice, and through 23 rows four or five times.
    assert {seen[0, row] for row in range(50)} == {2}
    assert {seen[1, row] for row in range(7)} == {5}
    assert {seen[2, row] for row in range(23)} == {4, 5}
    assert len(seen) == sum(SIZES)


def test_no_row_twice_before_all_were_seen() -> None:
    schedule = draw(epochs=2)
    steps = len(schedule) // 2
    first = {row for task, rows in flat(schedule[:steps]) if task == 0 for row in rows}
    second = {row for task, rows in flat(schedule[steps:]) if task == 0 for row in rows}
    assert len(first) == len(second) == 20
    assert not first & second


def test_batches_are_of_one_task_and_not_too_large() -> None:
    tokens = lengths()
    for task, rows in flat(draw()):
        assert 1 <= len(rows) <= 4
        assert 0 <= min(rows) <= max(rows) < len(tokens[task])


def test_steps_have_the_given_number_of_batches() -> None:
    schedule = draw(epochs=1, tasks_per_step=3)
    # ceil(20/4) + ceil(7/4) + ceil(20/4) batches
    assert [len(step) for step in schedule] == [3, 3, 3, 3]
    assert {len(step) for step in draw(tasks_per_step=1)} == {1}


def test_texts_of_a_batch_are_of_similar_length() -> None:
    tokens = np.random.default_rng(0).permutation(np.arange(64))
    options = {"epochs": 1, "examples_per_epoch": 64, "tasks_per_step": 1, "seed": 0}
    schedule = multitask_schedule([tokens], batch_size=8, **options)
    spread = [np.ptp(tokens[batch.rows]) for (batch,) in schedule]
    assert spread == [7] * 8


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (3, 200)])
def test_odd_sizes(sizes: tuple[int, ...]) -> None:
    options = {"epochs": 3, "batch_size": 32, "examples_per_epoch": 1000, "tasks_per_step": 2, "seed": 0}
    seen = Counter()
    for task, rows in flat(multitask_schedule(lengths(sizes), **options)):
        seen.update((task, row) for row in rows)
    assert seen == {(task, row): 3 for task, size in enumerate(sizes) for row in range(size)}


def sample(sizes: tuple[int, ...] = (300, 100, 200, 40), **changes: object) -> list[list[TaskBatch]]:
    options = {"epochs": 60, "rows_per_step": 32, "examples_per_epoch": 150, "max_tasks": 3, "seed": 5}
    return stochastic_schedule(lengths(sizes), **(options | changes))


def test_sampled_steps_have_two_to_max_different_tasks_and_all_rows() -> None:
    schedule = sample()
    counts = Counter(len(step) for step in schedule)
    assert set(counts) == {2, 3}
    assert counts[2] == pytest.approx(counts[3], rel=0.15)  # K is uniform
    for step in schedule:
        assert len({batch.task for batch in step}) == len(step)
    full = [sum(len(batch.rows) for batch in step) for step in schedule]
    assert max(full) == 32
    assert np.mean(np.array(full) == 32) > 0.7  # the last of a task's rows come in smaller batches


def test_sampled_tasks_come_in_proportion_to_their_capped_rows() -> None:
    drawn = Counter(batch.task for step in sample(max_tasks=2, epochs=200) for batch in step)
    capped = np.array([150, 100, 150, 40])
    # Two of four without replacement: the probability of each pair is that of drawing one after the other.
    probs = capped / capped.sum()
    expected = [probs[k] + sum(probs[j] * probs[k] / (1 - probs[j]) for j in range(4) if j != k) for k in range(4)]
    shares = np.array([drawn[k] for k in range(4)]) / sum(drawn.values()) * 2
    assert shares == pytest.approx(expected, abs=0.03)


def test_sampled_rows_come_in_turn_and_of_similar_length() -> None:
    schedule = sample((64, 64), epochs=40, max_tasks=2, examples_per_epoch=64)
    tokens = lengths((64, 64))
    seen = Counter((batch.task, int(row)) for step in schedule for batch in step for row in batch.rows)
    assert set(seen) == {(task, row) for task in range(2) for row in range(64)}
    for task in range(2):
        counts = [seen[task, row] for row in range(64)]
        assert max(counts) - min(counts) <= 1
    within = np.mean([np.ptp(tokens[b.task][b.rows]) for step in schedule for b in step])
    rng = np.random.default_rng(0)
    random = np.mean([np.ptp(rng.choice(tokens[0], 16, replace=False)) for _ in range(200)])
    assert within < 0.7 * random


def test_sampling_is_fixed_by_the_seed_alone() -> None:
    assert flat(sample()) == flat(sample())
    assert flat(sample()) != flat(sample(seed=6))


@pytest.mark.parametrize(("sizes", "max_tasks"), [((1,), 4), ((3, 2), 5), ((500, 1, 1), 3)])
def test_sampling_with_few_tasks_or_rows(sizes: tuple[int, ...], max_tasks: int) -> None:
    schedule = sample(sizes, max_tasks=max_tasks, epochs=2)
    assert schedule
    for step in schedule:
        assert 1 <= len(step) <= min(max_tasks, len(sizes))
        for batch in step:
            assert 1 <= len(batch.rows) <= min(32, sizes[batch.task])
