"""`mpt-edge train`: the source and the target stage, the probe, and a report about a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from mpt_edge._extras import check_installed, require
from mpt_edge.formats.metrics import headline_text
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.settings import DistillationSettings, Precision, Settings, TeacherPlan, Trained

if TYPE_CHECKING:
    from mpt_edge.training.data.recipes import Recipe
    from mpt_edge.training.trainer import Progress

app = typer.Typer(help="Learn a shared prompt and tasks on a frozen backbone.", no_args_is_help=True)

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
Data = Annotated[Path, typer.Option(help="Folder that the recipes' paths start from.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for vectors, checkpoint and log.")]
Backbone = Annotated[str, typer.Option(help="minilm-l6, a local folder, or a hub id.")]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs over all tasks' rows.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows per batch.")]
MicroBatch = Annotated[int, typer.Option(min=0, help="Rows read at once, to save memory; 0 reads a batch whole.")]
TasksPerStep = Annotated[int, typer.Option(min=1, help="Batches per step, each of one task.")]
MostTasks = Annotated[
    int,
    typer.Option(min=0, help="Sample 2 to this many tasks per step; 0 takes one task per batch."),
]
RowsPerEpoch = Annotated[int, typer.Option(min=1, help="Most rows of one task in an epoch.")]
PromptRate = Annotated[float, typer.Option(min=0.0, max=100.0, help="Learning rate of the shared prompt.")]
TaskRate = Annotated[float, typer.Option(min=0.0, max=100.0, help="Learning rate of u and v.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes start, order and sampling.")]
InPrecision = Annotated[
    Precision | None, typer.Option("--precision", help="bf16 or fp16 where the hardware has it.", show_default="no")
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing", help="Keep fewer activations and compute them again: less memory, more time."
    ),
]
Distill = Annotated[float, typer.Option(min=0.0, help="Distillation weight λ; 0 uses no teachers.")]
Temperature = Annotated[float, typer.Option(min=0.01, help="Temperature T of the distillation.")]
Hidden = Annotated[bool, typer.Option(help="Distill hidden states as well as answers.")]
Test = Annotated[bool, typer.Option("--test", help="Measure the test split, once, at the end.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to PyTorch.")]


@app.command(epilog=SOURCE_EPILOG)
def source(
    recipes: Recipes,
    output: Output,
    data: Data = Path(),
    backbone: Backbone = "minilm-l6",
    name: Annotated[str, typer.Option(help="Name of the shared prompt.")] = "mpt",
    length: Annotated[int, typer.Option("--length", "-l", min=1, help="Rows of the shared prompt.")] = 100,
    layout: Annotated[
        Layout,
        typer.Option(
            help="prefix: prompt rows do not attend to the text and are cached; joint: both attend to each other."
        ),
    ] = Layout.PREFIX,
    entry: Annotated[
        Entry | None,
        typer.Option(
            help="first_layer: the prompt is input of the first layer alone; inputs_embeds: it takes the place of word "
            "embeddings, as in PEFT; every_layer: each layer has prompt rows of its own.",
            show_default="every_layer; first_layer in the joint layout",
        ),
    ] = None,
    init: Annotated[
        str, typer.Option(help="Start of the prompt: vocabulary (sampled tokens), random, or a text.")
    ] = "vocabulary",
    epochs: Epochs = Settings.epochs,
    batch_size: Batch = Settings.batch_size,
    micro_batch_size: MicroBatch = Settings.micro_batch_size,
    tasks_per_step: TasksPerStep = Settings.tasks_per_step,
    max_tasks: MostTasks = Settings.max_tasks,
    examples_per_epoch: RowsPerEpoch = Settings.examples_per_epoch,
    prompt_lr: PromptRate = Settings.prompt_lr,
    task_lr: TaskRate = Settings.task_lr,
    distill: Distill = DistillationSettings.weight,
    temperature: Temperature = DistillationSettings.temperature,
    hidden: Hidden = DistillationSettings.hidden,
    teachers: Annotated[
        Path | None, typer.Option(help="Folder of teachers, to share between runs.", show_default="OUTPUT/teachers")
    ] = None,
    teacher_epochs: Annotated[int, typer.Option(min=1, help="Epochs over a teacher's rows.")] = TeacherPlan.epochs,
    teacher_lr: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="Learning rate of a teacher.")
    ] = TeacherPlan.rate,
    precision: InPrecision = None,
    gradient_checkpointing: Recompute = Settings.gradient_checkpointing,
    seed: Seed = Settings.seed,
    test: Test = False,
    threads: Threads = 0,
) -> None:
    """Learn one shared prompt over many tasks, and each task's u and v, with one teacher prompt for each task."""
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        tasks_per_step=tasks_per_step,
        max_tasks=max_tasks,
        examples_per_epoch=examples_per_epoch,
        prompt_lr=prompt_lr,
        task_lr=task_lr,
        precision=str(precision or ""),
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    counted = DistillationSettings(weight=distill, temperature=temperature, hidden=hidden)
    folder = teachers or output / "teachers"
    taught = TeacherPlan(folder=folder, epochs=teacher_epochs, rate=teacher_lr, distillation=counted)
    loaded = _ready(recipes, threads)
    from mpt_edge.training.backbones.opening import open_backbone
    from mpt_edge.training.stages import NewPrompt, Plan, train_source

    plan = Plan(loaded, data, output, settings, test=test)
    prompt = NewPrompt(name=name, length=length, layout=layout, entry=entry, init=init)
    with _bar() as observe:
        tasks = train_source(open_backbone(backbone), plan, prompt, observe, taught if distill else None)
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
        str, typer.Option(help="Which prompt, where there are several; or a task that carries its own.")
    ] = "",
    layout: Annotated[
        Layout | None, typer.Option(help="Read the prompt in another layout from here on.", show_default="its own")
    ] = None,
    train: Annotated[
        Trained, typer.Option(help="u and v alone, a copy of the prompt too, or one copy for a group of tasks.")
    ] = Trained.VECTORS,
    name: Annotated[str, typer.Option(help="Name of a group's shared prompt.")] = "group",
    start: Annotated[
        str,
        typer.Option(
            help="Start of u and v: average of the source tasks; nearest, the source task with the least loss on your "
            "rows, where one resembles your task; ones; or a task's name."
        ),
    ] = "average",
    teacher: Annotated[
        Path | None,
        typer.Option(help="Bundle or folder with a finished task of each recipe's name, in any layout, to learn from."),
    ] = None,
    distill: Distill = DistillationSettings.weight,
    temperature: Temperature = DistillationSettings.temperature,
    hidden: Hidden = DistillationSettings.hidden,
    shots: Annotated[int, typer.Option(min=0, help="Rows per label for few-shot training; 0 takes all.")] = 0,
    subset_seed: Annotated[int, typer.Option(min=0, help="Fixes which rows those are.")] = 0,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Keep the last step, not the best epoch: for few validation rows.")
    ] = False,
    epochs: Epochs = Settings.epochs,
    batch_size: Batch = Settings.batch_size,
    micro_batch_size: MicroBatch = Settings.micro_batch_size,
    tasks_per_step: TasksPerStep = 1,
    examples_per_epoch: RowsPerEpoch = 20000,
    prompt_lr: PromptRate = Settings.prompt_lr,
    task_lr: TaskRate = Settings.task_lr,
    precision: InPrecision = None,
    gradient_checkpointing: Recompute = Settings.gradient_checkpointing,
    seed: Seed = Settings.seed,
    test: Test = False,
    threads: Threads = 0,
) -> None:
    """Learn further tasks on a shared prompt: u and v alone, or with a copy of the prompt."""
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
        precision=str(precision or ""),
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    counted = DistillationSettings(weight=distill, temperature=temperature, hidden=hidden)
    loaded = _ready(recipes, threads)
    from mpt_edge.training.backbones.opening import open_backbone
    from mpt_edge.training.initialization import find_prompt
    from mpt_edge.training.stages import Origin, Plan, train_target
    from mpt_edge.training.teachers import Teaching

    plan = Plan(loaded, data, output, settings, test=test, shots=shots, subset_seed=subset_seed)
    teaching = Teaching(folder=teacher, distillation=counted) if teacher and distill else None
    shared = find_prompt(source, prompt)
    origin = Origin(folder=source, shared=shared, start=start, trained=train, name=name, teaching=teaching)
    origin = origin.placed(layout)
    with _bar() as observe:
        tasks = train_target(open_backbone(backbone), plan, origin, observe)
    _report(tasks, output, test=test)


@app.command()
def probe(
    recipes: Recipes,
    output: Annotated[Path, typer.Option("--output", "-o", help="A run's folder; its task files get the figures.")],
    data: Data = Path(),
    backbone: Backbone = "minilm-l6",
    test: Test = False,
    threads: Threads = 0,
) -> None:
    """Fit the logistic-regression baseline on the same rows, and record it in a run's task files."""
    loaded = _ready(recipes, threads)
    from mpt_edge.training.backbones.encoder_backbone import load_encoder
    from mpt_edge.training.stages import Plan, add_probe

    plan = Plan(loaded, data, output, Settings(), test=test)  # a probe reads none of the settings
    with _error_console().status("loading the backbone") as status:

        def observe(task: str) -> None:
            status.update(f"fitting the probe of {task}")

        tasks = add_probe(load_encoder(backbone), plan, observe)
    _report(tasks, output, test=test)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a source or target run.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page.", show_default="RUN/report.html")
    ] = None,
) -> None:
    """Write a page with learning curves, the tasks' figures, and a map of their vectors."""
    require("train", "matplotlib")
    from mpt_edge.training.report import write_report

    page = output or run / "report.html"
    write_report(run, page)
    typer.echo(f"written to {page}")


def _ready(recipes: list[Path], threads: int) -> list[Recipe]:
    """Read the recipes, then bring in PyTorch and set its threads."""
    from mpt_edge.training.data.recipes import load_recipe

    loaded = [load_recipe(path) for path in recipes]  # before PyTorch, whose import takes seconds
    check_installed("train", "torch", "sklearn", "scipy", "sacrebleu", "rouge_score", "tensorboardX")
    require("train", "torch", "transformers", "accelerate", "datasets")
    import torch

    if threads:
        torch.set_num_threads(threads)
    return loaded


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar with the parts of the loss and the validation score on the error stream."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}  validation {task.fields[score]}"),
    )
    from mpt_edge.training.hardware import is_main_process

    bar = Bar(*columns, console=_error_console(), disable=not is_main_process())
    try:
        rows: dict[str, TaskID] = {}

        def observe(progress: Progress) -> None:
            bar.start()  # at the first step: what is refused before has no empty bar above it
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


def _error_console() -> Console:
    """Return the error stream; a file or a pipe has room for a whole line."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else 160)


def _report(tasks: list[TaskFile], output: Path, *, test: bool) -> None:
    from mpt_edge.training.hardware import is_main_process

    if not is_main_process():
        return
    probed = any("probe" in task.metrics for task in tasks)
    probes = ("probe, validation", "probe, test") * probed
    table = Table("task", "labels", "validation", "test", *probes, "bytes", box=None, pad_edge=False)
    for task in tasks:
        size = VectorFolder(output).task_path(task.name).stat().st_size
        parts = (task.metrics, task.metrics.get("probe", {}))[: 1 + probed]
        figures = [headline_text(part.get(split), 4) for part in parts for split in ("validation", "test")]
        table.add_row(task.name, str(len(task.labels)), *figures, f"{size:,}")
    console = Console()
    console.print(table)
    console.print(f"written to {output}", highlight=False, markup=False)
    untested = [task.name for task in tasks if test and "test" not in task.metrics]
    if untested:
        typer.echo(f"mpt-edge: {', '.join(untested)}: the recipe names no test split, so none was measured.", err=True)
    stuck = unlearned(tasks)
    if stuck:
        typer.echo(
            f"mpt-edge: {', '.join(stuck)}: the answers have nothing to do with the text (Matthews correlation 0); "
            "train again with a lower --prompt-lr or --task-lr, or from another --start.",
            err=True,
        )


def unlearned(tasks: list[TaskFile]) -> list[str]:
    """Return the tasks whose answers on validation are no better than one answer to every row.

    Rates that are too high do that to some tasks of a long run, and they then stay there (docs/results.md).
    """
    return [task.name for task in tasks if task.metrics.get("validation", {}).get("matthews") == 0.0]
