"""`mpt-edge train`: source stage, target stage, linear probe, and a report about a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from mpt_edge._console import PlainConsole, PlainTable, error_console
from mpt_edge._extras import check_installed, require
from mpt_edge.cli.options import Commands, TaskVersion
from mpt_edge.cli.output import note
from mpt_edge.formats.metrics import headline_text
from mpt_edge.formats.placement import Layout, PromptPosition
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.settings import DistillationSettings, MixedPrecision, Settings, TeacherPlan, Trained

if TYPE_CHECKING:
    from mpt_edge.training.data.recipes import Recipe
    from mpt_edge.training.trainer import Progress

app = Commands(help="Train a shared prompt and tasks on a frozen backbone.", no_args_is_help=True)

SOURCE_EPILOG = """
Examples:

mpt-edge train source sst2.toml trec.toml --data data --output runs/source

mpt-edge train source sst2.toml trec.toml --data data --output runs/plain --distill 0 --max-tasks 0   (no teachers)
"""

TARGET_EPILOG = """
Examples:

mpt-edge train target mine.toml --from models/minilm-l6 --data data --output runs/mine

mpt-edge train target mine.toml --from models/minilm-l6 --data data --output runs/few --shots 16 --keep-last
"""

Recipes = Annotated[list[Path], typer.Argument(help="Task recipes, one TOML file each.", show_default=False)]
Data = Annotated[Path, typer.Option(help="Folder that the recipes' paths are relative to.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for vectors, checkpoint and log.")]
Backbone = Annotated[str, typer.Option(help="Frozen model: minilm-l6, a local folder, a GGUF file, or a hub id.")]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs over all tasks' examples.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples per batch.")]
MicroBatchSize = Annotated[
    int | None, typer.Option(min=1, help="Examples per forward pass, to save memory.", show_default="a whole batch")
]
TasksPerStep = Annotated[int, typer.Option(min=1, help="Batches per step, each of one task.")]
MaxTasks = Annotated[
    int,
    typer.Option(min=0, help="Sample 2 to this many tasks per step; 0 takes --tasks-per-step batches."),
]
ExamplesPerEpoch = Annotated[int, typer.Option(min=1, help="Maximum examples of one task in an epoch.")]
ValidationExamples = Annotated[int, typer.Option(min=1, help="Maximum validation examples after each epoch.")]
PromptLr = Annotated[float, typer.Option(min=0.0, max=100.0, help="Learning rate of the shared prompt.")]
TaskLr = Annotated[float, typer.Option(min=0.0, max=100.0, help="Learning rate of u and v.")]
LabelLr = Annotated[float, typer.Option(min=0.0, max=100.0, help="Learning rate of label vectors.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of initialization, order and sampling.")]
PrecisionOption = Annotated[
    MixedPrecision | None,
    typer.Option(
        "--precision", help="Mixed precision, if the hardware supports it.", show_default="accelerate's, or no"
    ),
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass, to save memory."),
]
Distill = Annotated[float, typer.Option(min=0.0, help="Distillation weight λ; 0 uses no teachers.")]
DistillTemperature = Annotated[float, typer.Option(min=0.01, help="Temperature T of the distillation.")]
DistillHidden = Annotated[bool, typer.Option(help="Distill hidden states as well as answers.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of PyTorch.", show_default="automatic")]
Test = Annotated[bool, typer.Option("--test", help="Measure the test split at the end.")]


@app.command(epilog=SOURCE_EPILOG)
def source(
    recipes: Recipes,
    output: Output,
    data: Data = Path(),
    backbone: Backbone = "minilm-l6",
    name: Annotated[str, typer.Option(help="Name of the shared prompt.")] = "mpt",
    length: Annotated[
        int | None,
        typer.Option(
            "--prompt-length",
            "-l",
            min=1,
            help="Virtual tokens of the prompt.",
            show_default="8 for encoders, 100 for generative models",
        ),
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(
            help="Attention layout. prefix: the prompt attends to no text, so it is cached; "
            "joint: both attend to each other."
        ),
    ] = Layout.PREFIX,
    position: Annotated[
        PromptPosition | None,
        typer.Option(
            "--prompt-position",
            help="Where the prompt enters. first_layer: as the first layer's input; embeddings: in place of word "
            "embeddings, as in PEFT; all_layers: at each layer, with virtual tokens of its own.",
            show_default="all_layers; first_layer in the joint layout",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Initialization of the prompt: vocabulary (sampled tokens), examples (training examples, as the "
            "model reads them), random, or a text.",
            show_default="examples for decoder-only models, vocabulary for others",
        ),
    ] = None,
    epochs: Epochs = Settings.epochs,
    batch_size: BatchSize = Settings.batch_size,
    micro_batch_size: MicroBatchSize = Settings.micro_batch_size,
    tasks_per_step: TasksPerStep = Settings.tasks_per_step,
    max_tasks: MaxTasks = Settings.max_tasks,
    examples_per_epoch: ExamplesPerEpoch = Settings.examples_per_epoch,
    prompt_lr: PromptLr = Settings.prompt_lr,
    task_lr: TaskLr = Settings.task_lr,
    label_lr: LabelLr = Settings.label_lr,
    validation_examples: ValidationExamples = Settings.validation_examples,
    distill: Distill = DistillationSettings.weight,
    distill_temperature: DistillTemperature = DistillationSettings.temperature,
    distill_hidden: DistillHidden = DistillationSettings.hidden,
    teachers: Annotated[
        Path | None, typer.Option(help="Folder of teachers, to share between runs.", show_default="OUTPUT/teachers")
    ] = None,
    teacher_epochs: Annotated[int, typer.Option(min=1, help="Epochs over a teacher's examples.")] = TeacherPlan.epochs,
    teacher_lr: Annotated[float, typer.Option(min=0.0, max=100.0, help="Learning rate of a teacher.")] = TeacherPlan.lr,
    precision: PrecisionOption = None,
    gradient_checkpointing: GradientCheckpointing = Settings.gradient_checkpointing,
    seed: Seed = Settings.seed,
    test: Test = False,
    threads: Threads = None,
) -> None:
    """Train one shared prompt and the u and v of many tasks, each distilled from a teacher prompt."""
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        tasks_per_step=tasks_per_step,
        max_tasks=max_tasks,
        examples_per_epoch=examples_per_epoch,
        prompt_lr=prompt_lr,
        task_lr=task_lr,
        label_lr=label_lr,
        validation_examples=validation_examples,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    distillation = DistillationSettings(weight=distill, temperature=distill_temperature, hidden=distill_hidden)
    folder = teachers or output / "teachers"
    teaching = TeacherPlan(folder=folder, epochs=teacher_epochs, lr=teacher_lr, distillation=distillation)
    loaded = _load_recipes(recipes, threads)
    from mpt_edge.training.backbones.opening import open_backbone
    from mpt_edge.training.plan import NewPrompt, Plan
    from mpt_edge.training.source_stage import train_source

    plan = Plan(loaded, data, output, settings, test=test)
    prompt = NewPrompt(name=name, length=length, layout=layout, position=position, init=init)
    with _bar() as observe:
        tasks = train_source(open_backbone(backbone), plan, prompt, observe, teaching if distill else None)
    _report(tasks, output, test=test)


@app.command(epilog=TARGET_EPILOG)
def target(
    recipes: Recipes,
    output: Output,
    source: Annotated[
        Path, typer.Option("--from", help="Bundle, or folder of a source run, that holds the shared prompt.")
    ],
    data: Data = Path(),
    backbone: Backbone = "minilm-l6",
    prompt: Annotated[
        str | None, typer.Option(help="Name of the prompt, if there are several, or of a task that carries its own.")
    ] = None,
    layout: Annotated[
        Layout | None, typer.Option(help="Attention layout to train in.", show_default="the prompt's own")
    ] = None,
    train: Annotated[
        Trained,
        typer.Option(
            help="Parameters to train: u and v; u, v and a copy of the prompt; or one copy for a group of tasks."
        ),
    ] = Trained.VECTORS,
    name: Annotated[str, typer.Option(help="Name of a group's shared prompt.")] = "group",
    init: Annotated[
        str,
        typer.Option(
            help="Initialization of u and v: average (of the source tasks), nearest (the source task with the "
            "lowest loss on your examples), ones, or a task's name."
        ),
    ] = "average",
    teacher: Annotated[
        Path | None,
        typer.Option(help="Bundle or folder with a finished task of each recipe's name, in any layout, as teacher."),
    ] = None,
    distill: Distill = DistillationSettings.weight,
    distill_temperature: DistillTemperature = DistillationSettings.temperature,
    distill_hidden: DistillHidden = DistillationSettings.hidden,
    shots: Annotated[int, typer.Option(min=0, help="Examples per label for few-shot training; 0 takes all.")] = 0,
    subset_seed: Annotated[int, typer.Option(min=0, help="Random seed of the few-shot choice.")] = 0,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Keep the last step, not the best epoch; for few validation examples.")
    ] = False,
    epochs: Epochs = Settings.epochs,
    batch_size: BatchSize = Settings.batch_size,
    micro_batch_size: MicroBatchSize = Settings.micro_batch_size,
    tasks_per_step: TasksPerStep = 1,
    examples_per_epoch: ExamplesPerEpoch = 20000,
    prompt_lr: PromptLr = Settings.prompt_lr,
    task_lr: TaskLr = Settings.task_lr,
    label_lr: LabelLr = Settings.label_lr,
    validation_examples: ValidationExamples = Settings.validation_examples,
    precision: PrecisionOption = None,
    gradient_checkpointing: GradientCheckpointing = Settings.gradient_checkpointing,
    seed: Seed = Settings.seed,
    task_version: TaskVersion = None,
    test: Test = False,
    threads: Threads = None,
) -> None:
    """Train further tasks on a shared prompt: u and v alone, or a copy of the prompt too."""
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        tasks_per_step=tasks_per_step,
        max_tasks=0,  # the default is a source run's, whose steps have many tasks
        keep_last=keep_last,
        examples_per_epoch=examples_per_epoch,
        prompt_lr=prompt_lr,
        task_lr=task_lr,
        label_lr=label_lr,
        validation_examples=validation_examples,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    distillation = DistillationSettings(weight=distill, temperature=distill_temperature, hidden=distill_hidden)
    loaded = _load_recipes(recipes, threads)
    if task_version is not None:
        loaded = [replace(recipe, version=task_version) for recipe in loaded]
    from mpt_edge.training.backbones.opening import open_backbone
    from mpt_edge.training.plan import Origin, Plan
    from mpt_edge.training.target_stage import train_target
    from mpt_edge.training.teachers import Teaching

    plan = Plan(loaded, data, output, settings, test=test, shots=shots, subset_seed=subset_seed)
    teaching = Teaching(folder=teacher, distillation=distillation) if teacher and distill else None
    shared = VectorFolder(source).find_prompt(prompt)
    origin = Origin(folder=source, shared=shared, init=init, trained=train, name=name, teaching=teaching)
    origin = origin.placed(layout)
    with _bar() as observe:
        tasks = train_target(open_backbone(backbone), plan, origin, observe)
    _report(tasks, output, test=test)


@app.command()
def probe(
    recipes: Recipes,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run whose task files get the metrics.")],
    data: Data = Path(),
    backbone: Backbone = "minilm-l6",
    test: Test = False,
    threads: Threads = None,
) -> None:
    """Fit a linear probe on the same examples, and record its metrics in a run's task files."""
    loaded = _load_recipes(recipes, threads)
    from mpt_edge.training.backbones.encoder_backbone import load_encoder
    from mpt_edge.training.linear_probe import add_linear_probe
    from mpt_edge.training.plan import Plan

    plan = Plan(loaded, data, output, Settings(), test=test)  # a probe uses no settings
    with error_console().status("loading the backbone") as status:

        def observe(task: str) -> None:
            status.update(Text(f"fitting the linear probe of {task}"))  # a string would be markup

        tasks = add_linear_probe(load_encoder(backbone), plan, observe)
    _report(tasks, output, test=test)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a source or target run.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The HTML page.", show_default="RUN/report.html")
    ] = None,
) -> None:
    """Write an HTML page with learning curves, metrics, and a map of the tasks' vectors."""
    require("train", "matplotlib")
    from mpt_edge.training.report import write_report

    page = output or run / "report.html"
    write_report(run, page)
    typer.echo(f"written to {page}")


def _load_recipes(recipes: list[Path], threads: int | None) -> list[Recipe]:
    """Read the recipes, then import PyTorch and set its threads."""
    from mpt_edge.training.data.recipes import load_recipe

    loaded = [load_recipe(path) for path in recipes]  # before PyTorch, which takes seconds to import
    check_installed("train", "torch", "sklearn", "scipy", "sacrebleu", "rouge_score", "tensorboardX")
    require("train", "torch", "transformers", "accelerate")
    import torch

    if threads:
        torch.set_num_threads(threads)
    return loaded


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar with loss and validation score on the error stream."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}  validation {task.fields[score]}", markup=False),
    )
    from mpt_edge.training.hardware import is_main_process

    bar = Bar(*columns, console=error_console(), disable=not is_main_process())
    try:
        rows: dict[str, TaskID] = {}

        def observe(progress: Progress) -> None:
            if progress.forecast is not None:
                note(f"{progress.stage}: {progress.forecast}, for {progress.steps:,} steps with their validation.")
                return
            bar.start()  # at the first step, so that no empty bar precedes an error
            if progress.stage not in rows:
                rows[progress.stage] = bar.add_task(progress.stage, total=progress.steps, loss="-", score="-")
            score = "-" if progress.score is None else f"{progress.score:.4f}"
            parts = {name: value for name, value in progress.loss.items() if value}
            loss = f"{parts.pop('total', 0.0):.3f}"
            if len(parts) > 1:
                loss += " (" + ", ".join(f"{name} {value:.3f}" for name, value in parts.items()) + ")"
            bar.update(rows[progress.stage], completed=progress.step, loss=loss, score=score)

        yield observe
    finally:
        if bar.live.is_started:
            bar.stop()


def _report(tasks: list[TaskFile], output: Path, *, test: bool) -> None:
    from mpt_edge.training.hardware import is_main_process

    if not is_main_process():
        return
    has_probe = any("linear_probe" in task.metrics for task in tasks)
    probes = ("probe, validation", "probe, test") * has_probe
    table = PlainTable("task", "labels", "validation", "test", *probes, "bytes")
    for task in tasks:
        size = VectorFolder(output).task_path(task.name).stat().st_size
        parts = (task.metrics, task.metrics.get("linear_probe", {}))[: 1 + has_probe]
        metrics = [headline_text(part.get(split), 4) for part in parts for split in ("validation", "test")]
        table.row(task.name, len(task.labels), *metrics, f"{size:,}")
    console = PlainConsole()
    console.print(table)
    console.print(f"written to {output}")
    untested = [task.name for task in tasks if test and "test" not in task.metrics]
    if untested:
        note(f"{', '.join(untested)}: the recipe names no test split, so none was measured.")
    constant = constant_tasks(tasks)
    if constant:
        note(
            f"{', '.join(constant)}: the answers have nothing to do with the text (Matthews correlation 0); "
            "train again with a lower --prompt-lr or --task-lr, or from another --init."
        )


def constant_tasks(tasks: list[TaskFile]) -> list[str]:
    """Return the tasks whose validation answers are no better than one answer to every example.

    Learning rates that are too high do that to some tasks of a long run (docs/results.md).
    """
    return [task.name for task in tasks if task.metrics.get("validation", {}).get("matthews") == 0.0]
