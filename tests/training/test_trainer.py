"""The trainer: stops at NaN, keeps what is frozen, adds up parts of a batch, and learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from mpt_edge.errors import InputError, TrainingError
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.data.examples import Examples
from mpt_edge.training.initialization import sample_vocabulary
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.distillation import Loss
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import MixedPrecision, Settings
from mpt_edge.training.trainer import Progress
from tests.support.runs import SETTINGS, state, toy, trainer
from tests.support.stages import silent


def test_the_last_step_is_kept_where_validation_has_too_few_examples(tiny: EncoderBackbone, tmp_path: Path) -> None:
    """A learning rate that overshoots: the best epoch is an earlier one, and validation is read once."""
    wild = replace(SETTINGS, epochs=6, task_lr=3.0, prompt_lr=3.0)
    last: dict[str, dict[str, torch.Tensor]] = {}
    for keep in (False, True):
        run = trainer(tiny, tmp_path / str(keep), replace(wild, keep_last=keep))
        run.train(lambda progress, run=run, keep=keep: last.update({str(keep): state(run)}))  # type: ignore[misc]
        kept = state(run)
        assert all(torch.equal(kept[key], last[str(keep)][key]) for key in kept) is keep
    lines = (tmp_path / "True/log.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum("validation" in line for line in lines) == 1


def test_the_best_validated_values_are_kept(
    tiny: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny, tmp_path)
    scores = iter([0.5, 0.9, 0.9, 0.9, 0.1, 0.2])  # two tasks an epoch: means 0.7, 0.9, 0.15
    for objective in run.objectives:
        monkeypatch.setattr(objective, "score", lambda *_: next(scores))
    after: dict[int, dict[str, torch.Tensor]] = {}
    run.train(lambda progress: after.update({progress.step: state(run)}))
    assert run.best_score == pytest.approx(0.9)
    assert all(torch.equal(value, state(run)[key]) for key, value in after[10].items())
    assert not torch.equal(after[10]["scaled"], after[15]["scaled"])


def test_an_epoch_is_scored_on_examples_of_every_label(
    tiny: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy("mood", ("dull",), ("witty",), rows=40)
    order = np.argsort(task.train.labels, kind="stable").tolist()
    by_label = Examples([task.train.texts[i] for i in order], [task.train.labels[i] for i in order])
    prompts = MultitaskPrompt(sample_vocabulary(tiny, 5, 0), 1)
    run = trainer(
        tiny, tmp_path, tasks=[replace(task, validation=by_label)], label_texts=[[["sport"], ["vote"]]], prompts=prompts
    )
    read: list[Examples] = []
    monkeypatch.setattr(run.objectives[0], "score", lambda _, examples: read.append(examples) or 0.5)
    run.train(silent)
    assert len(read) == SETTINGS.epochs
    assert all(examples == read[0] for examples in read)
    assert read[0].labels == [0] * 4 + [1] * 4


def test_nan_names_step_task_and_rates_and_keeps_the_checkpoint(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, tasks_per_step=1, prompt_lr=0.0125, task_lr=0.0375))
    saved: list[bytes] = []

    def poison(progress: Progress) -> None:
        if progress.step == 3:
            run.save()
            saved.append((tmp_path / "checkpoint.pt").read_bytes())
            with torch.no_grad():
                run.prompts.v[1].fill_(torch.nan)

    hit = next(i for i, step in enumerate(run.schedule) if i >= 3 and step[0].task == 1) + 1
    with pytest.raises(TrainingError) as caught:
        run.train(poison)
    for part in (f"step {hit} ", "'size'", "0.0125", "0.0375", "lower ones", "nan"):
        assert part in str(caught.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == saved[0]


def test_a_huge_learning_rate_ends_in_the_same_error(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, prompt_lr=1e30, task_lr=1e30))
    with pytest.raises(TrainingError, match=r"1e\+30 \(prompt\) and 1e\+30 \(u, v\)"):
        run.train(silent)


@pytest.mark.parametrize(("part", "value"), [("shared", 66000.0), ("u", 1e10), ("v", -1e10)])
def test_a_value_that_float16_does_not_hold_ends_the_run(
    tiny: EncoderBackbone, tmp_path: Path, part: str, value: float
) -> None:
    """Files are written in float16, and one with an infinity is refused by its reader."""
    run = trainer(tiny, tmp_path)

    def grow(progress: Progress) -> None:
        if progress.step == 2:
            with torch.no_grad():
                (run.prompts.scaled if part == "shared" else getattr(run.prompts, part)[1])[0] = value

    with pytest.raises(TrainingError, match=r"a value became .* at step 3 on task .*start again with lower ones"):
        run.train(grow)


def test_vectors_that_balance_are_not_too_large(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, epochs=1, task_lr=0.0, prompt_lr=0.0))
    run.prompts.set_vectors(1, torch.full((5,), 1e6), torch.full((32,), 1e-6))
    run.train(silent)
    run.prompts.finish()
    assert torch.allclose(run.prompts.u[1], torch.ones(5), atol=1e-3)


def test_prompt_lr_zero_leaves_the_shared_prompt_alone(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, prompt_lr=0.0))
    start = state(run)
    weights = {key: value.clone() for key, value in tiny.model.state_dict().items()}
    run.train(silent)
    end = state(run)
    assert torch.equal(start["scaled"], end["scaled"])
    assert not torch.equal(start["u.0"], end["u.0"])
    assert not torch.equal(start["v.1"], end["v.1"])
    assert all(torch.equal(value, tiny.model.state_dict()[key]) for key, value in weights.items())


def test_a_task_outside_a_step_does_not_move(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, tasks_per_step=1))
    states = [state(run)]
    run.train(lambda _: states.append(state(run)))
    for step, before, after in zip(run.schedule[:8], states, states[1:], strict=False):
        other = 1 - step[0].task
        moved = [not torch.equal(before[f"u.{task}"], after[f"u.{task}"]) for task in (step[0].task, other)]
        assert moved == [True, False]


def test_progress_counts_to_the_end_and_scores_each_epoch(tiny: EncoderBackbone, tmp_path: Path) -> None:
    seen: list[Progress] = []
    trainer(tiny, tmp_path).train(seen.append)
    assert [p.step for p in seen] == list(range(1, 16))
    assert {p.steps for p in seen} == {15}
    assert all(p.score is None for p in seen[:4])
    assert all(p.score is not None for p in seen[4:])


def test_training_raises_the_accuracy_of_a_separable_task(tiny: EncoderBackbone, tmp_path: Path) -> None:
    task = toy("mood", ("dull", "bad"), ("witty", "gorgeous"), rows=48)
    settings = Settings(
        epochs=10, batch_size=8, tasks_per_step=1, max_tasks=0, prompt_lr=0.05, task_lr=0.1, validation_examples=48
    )
    prompts = MultitaskPrompt(sample_vocabulary(tiny, 5, 0), 1)
    run = trainer(tiny, tmp_path, settings, tasks=[task], label_texts=[[["sport"], ["vote"]]], prompts=prompts)
    before = run.objectives[0].score(run.prompts(0), task.validation)
    losses: list[float] = []
    run.train(lambda progress: losses.append(progress.loss["total"]))
    after = run.objectives[0].score(run.prompts(0), task.validation)
    assert after == run.best_score
    assert after >= 0.9
    assert after >= before + 0.2
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


def test_too_little_memory_says_what_to_lower(
    tiny: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny, tmp_path)

    def huge(*_: object) -> None:
        torch.empty(1 << 60)  # what PyTorch itself raises when an allocation fails

    monkeypatch.setattr(run.objectives[run.schedule[0][0].task], "loss", huge)
    with pytest.raises(
        TrainingError, match=r"memory ran out at step 1; .* --micro-batch-size below 4, .*--prompt-length"
    ):
        run.train(silent)


def test_other_runtime_errors_are_not_taken_for_it(
    tiny: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny, tmp_path)
    for objective in run.objectives:
        monkeypatch.setattr(objective, "loss", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run.train(silent)


def test_learning_rates_rise_to_the_full_one_and_fall_to_nothing(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, warmup=0.25))
    (group,) = (group for group in run.optimizer.param_groups if len(group["params"]) > 1)  # u and v
    rates = [group["lr"]]
    run.train(lambda _: rates.append(group["lr"]))
    total, warm = len(run.schedule), len(run.schedule) // 4
    assert warm > 2
    expected = np.interp(np.arange(total + 1), [-1, warm - 1, warm, total], [0, 1, 1, 0])
    np.testing.assert_allclose(rates, SETTINGS.task_lr * expected, atol=1e-9)


def test_a_step_follows_the_mean_of_its_batches(tiny: EncoderBackbone, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path)
    step, rng = run.schedule[0], np.random.default_rng(0)
    losses = [run.objectives[batch.task].loss(run.prompts(batch.task), batch, rng).total for batch in step]
    (expected,) = torch.autograd.grad(sum(losses) / SETTINGS.tasks_per_step, run.prompts.scaled)
    run._train_step(step)
    torch.testing.assert_close(run.prompts.scaled.grad, expected)


def test_parts_of_a_batch_draw_the_same_and_other_batches_do_not(
    tiny: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny, tmp_path, replace(SETTINGS, micro_batch_size=2))
    own, drawn = [objective.loss for objective in run.objectives], []

    def loss(prompt: torch.Tensor, batch: TaskBatch, rng: np.random.Generator) -> Loss:
        drawn.append(rng.random())
        return own[batch.task](prompt, batch, rng)

    for objective in run.objectives:
        monkeypatch.setattr(objective, "loss", loss)
    run.train(silent)
    assert len(set(drawn)) == sum(len(step) for step in run.schedule) < len(drawn)


@pytest.mark.parametrize("micro", [1, 3])
def test_parts_of_a_batch_add_up_to_its_gradient(tiny: EncoderBackbone, tmp_path: Path, micro: int) -> None:
    whole, cut = (
        trainer(tiny, tmp_path / f"g{m}", replace(SETTINGS, micro_batch_size=m, epochs=1)) for m in (None, micro)
    )
    gradients = []
    for run in (whole, cut):
        run._train_step(run.schedule[0])
        gradients.append({name: p.grad for name, p in run.prompts.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1]) != set()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-6), name


def test_recomputed_activations_give_the_same_gradients(tiny_folder: Path, tmp_path: Path) -> None:
    """Each layer runs twice a step instead of once, and nothing else changes."""
    gradients, calls = [], []
    for gradient_checkpointing in (False, True):
        backbone = load_encoder(str(tiny_folder))
        counted: list[int] = []
        layer = backbone.model.get_submodule("model.encoder.layer.0.attention")
        layer.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        run = trainer(
            backbone,
            tmp_path / str(gradient_checkpointing),
            replace(SETTINGS, gradient_checkpointing=gradient_checkpointing),
        )
        run._train_step(run.schedule[0])
        calls.append(len(counted))
        gradients.append([p.grad for p in run.prompts.parameters() if p.grad is not None])
    assert calls[1] == 2 * calls[0]
    for kept, again in zip(*gradients, strict=True):
        assert kept.abs().sum() > 0
        torch.testing.assert_close(kept, again, atol=1e-6, rtol=1e-5)


def test_bfloat16_stays_near_float32(tiny: EncoderBackbone, tmp_path: Path) -> None:
    """Products are computed in bfloat16, prompts and optimizer stay in float32."""
    first = trainer(tiny, tmp_path / "float32", replace(SETTINGS, precision=MixedPrecision.NO))
    exact = first._train_step(first.schedule[0])["total"]
    AcceleratorState._reset_state()
    try:
        run = trainer(tiny, tmp_path / "bfloat16", replace(SETTINGS, precision=MixedPrecision.BF16))
        rounded = run._train_step(run.schedule[0])["total"]
        assert rounded != exact
        assert rounded == pytest.approx(exact, rel=0.05)
        assert {p.dtype for p in run.prompts.parameters()} == {torch.float32}
    finally:
        AcceleratorState._reset_state()


def test_precision_that_the_hardware_lacks(tiny: EncoderBackbone, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU computes in float16")
    AcceleratorState._reset_state()
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        trainer(tiny, tmp_path, replace(SETTINGS, precision=MixedPrecision.FP16))
    AcceleratorState._reset_state()
