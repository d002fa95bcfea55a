"""Good files of the kinds that `attacks/workstation.py` damages."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.weights import quiet_transformers
from mpt_edge.training.trainer import Trainer

#: Folder that code of a file makes where it is run.
CODE_MARK = "code-was-run"


def with_code(folder: Path) -> Any:
    """Return an object that makes a folder when it is unpickled."""
    from tests.support.adapters import Code

    return Code(folder / CODE_MARK)


def adapter(base: Path, place: Path, *, safe: bool = True) -> Path:
    """Write a multitask adapter of a sequence classifier, as PEFT saves it."""
    from tests.support.adapters import make_adapter

    with quiet_transformers():
        make_adapter(base, "SEQ_CLS", place, safe_serialization=safe)
    (place / "README.md").unlink(missing_ok=True)
    return place


def folded_prompt(place: Path) -> Path:
    """Write a prompt as caikit folds it."""
    import torch

    torch.save(torch.randn(4, 8), place / "decoder.pt")
    (place / "config.yml").write_text("base_model_name: owner/base\nverbalizer: 'Classify: {{input}} label:'\n")
    return place


def data_folder(place: Path) -> Path:
    """Write a recipe and data of each format."""
    from tests.support.tables import write_table

    rows = [{"text": f"the film {i}", "label": ("bad", "good")[i % 2]} for i in range(6)]
    for suffix in ("jsonl", "csv", "json", "parquet"):
        write_table(place / f"{suffix}.{suffix}", rows)
        entries = {"name": suffix, "license": "mit", "source": "made up"}
        entries |= dict.fromkeys(("train", "validation", "test"), f"{suffix}.{suffix}")
        lines = [f"{name} = {json.dumps(value)}" for name, value in entries.items()]
        labels = '[labels]\nbad = "a bad one"\ngood = ["a good one", "fine"]\n'
        (place / f"{suffix}.toml").write_text("\n".join([*lines, "max_length = 16", labels]))
    return place


def small_trainer(backbone: EncoderBackbone, place: Path) -> Trainer:
    """Return a run of two tasks in a folder."""
    from tests.support.runs import trainer

    return trainer(backbone, place)


def killed_run(backbone: EncoderBackbone, place: Path) -> Path:
    """Train two tasks for some steps, and leave checkpoint and log."""
    from tests.support.runs import killed

    run = small_trainer(backbone, place)
    with contextlib.suppress(KeyboardInterrupt):
        run.train(killed(run, 6, 7))
    return place


def finished_run(backbone: EncoderBackbone, place: Path) -> Path:
    """Train two tasks for some steps, and write prompt and tasks beside checkpoint and log."""
    from mpt_edge.training.results import save_shared_prompt, write_tasks

    run = small_trainer(backbone, place)
    run.train(lambda _: None)
    facts: dict[str, Any] = {"stage": "source"}
    shared = save_shared_prompt(place, "shared", run.prompts, run.objectives, facts)  # type: ignore[arg-type]
    write_tasks(run.objectives, run.prompts, shared, place, [facts, facts])  # type: ignore[arg-type]
    return place
