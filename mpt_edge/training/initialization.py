"""Where a new task starts: a prompt that is there, and u and v averaged, nearest, a named task's, or ones.

Starts of u and v are those of the paper's section 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.prompts import Entry, SharedPrompt, compose, rows_and_width
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.deep_prompt import recorded_inputs
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge.training.multitask import balanced, scaled
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.schedule import TaskBatch

#: Starts that are computed; any other word is a task's name.
AVERAGE, NEAREST, ONES = "average", "nearest", "ones"

#: Training rows on which source tasks are tried for the nearest start.
_TRIED_ROWS = 256

Vectors = tuple[Tensor, Tensor]


def find_prompt(folder: Path, name: str = "") -> SharedPrompt:
    """Return a folder's shared prompt, or the whole prompt of one of its tasks, as a shared prompt.

    Args:
        folder: a bundle, or a folder with ``prompts/`` and ``tasks/``.
        name: of the prompt, or of a task that carries its own; empty where there is only one.

    Raises:
        InputError: there is none of that name, or there are several and none is named.
    """
    vectors = VectorFolder(folder)
    found = vectors.prompt_files
    if not found or (name and name not in found):
        whole = {task.name: own for task in vectors.tasks().values() if (own := _as_shared(task)) is not None}
        if name in whole or (len(whole) == 1 and not name):
            return whole[name or next(iter(whole))]
        found |= dict.fromkeys(whole, folder)
    if name in found or (len(found) == 1 and not name):
        return SharedPrompt.load(found[name or next(iter(found))])
    if name or not found:
        raise InputError(f"{folder} holds no prompt {name}".rstrip() + "; pass a bundle or a source run's folder.")
    raise InputError(f"{folder} holds several prompts; name one with --prompt: {', '.join(found)}.")


def task_prompt(folder: Path, task: TaskFile) -> SharedPrompt:
    """Return the prompt that a task of a folder scales, its own or a shared one.

    Raises:
        InputError: the shared prompt is not in the folder.
        MismatchError: another prompt has its name there.
    """
    own = task.whole_prompt()
    if own is not None:
        return own
    path = VectorFolder(folder).prompt_path(task.prompt)
    if not path.is_file():
        raise InputError(f"{folder} lacks the prompt {task.prompt!r} of its task {task.name!r}; copy it to {path}.")
    shared = SharedPrompt.load(path)
    if shared.fingerprint != task.prompt_sha256:
        raise MismatchError(f"the task {task.name!r} scales another prompt than {path}; copy the right one there.")
    return shared


def _as_shared(task: TaskFile) -> SharedPrompt | None:
    """Return the composed prompt of a task that carries its own, for others to scale."""
    own = task.whole_prompt()
    return own and replace(own, values=compose(own.values, task.u, task.v), head=None)


def source_tasks(folder: Path, shared: SharedPrompt) -> dict[str, Vectors]:
    """Return the vectors of all tasks in ``folder/tasks`` that scale ``shared``, balanced, by name.

    Tasks with several pairs of vectors, which PEFT can train, are left out: new tasks have one. So are tasks that
    carry a prompt: theirs came from ``shared`` and was trained on, and that is what their vectors scale.
    """
    files = [file for file in VectorFolder(folder).tasks().values() if file.u.ndim == 1]
    ours = (file for file in files if file.two_vectors and file.prompt_sha256 == shared.fingerprint)
    return {file.name: _vectors(file) for file in ours}


def start_vectors(
    how: str, folder: Path, shared: SharedPrompt, objective: TaskObjective, index: int, run: Collection[str] = ()
) -> tuple[str, Vectors]:
    """Return the start of one task, and what to call it in the task's file.

    The task itself and the others of its run, where the folder holds them, count only if they are named: a run that
    writes into the folder it starts from would else find another start when it resumes.

    Args:
        how: ``"average"``, ``"nearest"``, ``"ones"``, or the name of a task in ``folder``.
        folder: a bundle, or the folder of a source run.
        shared: the prompt that the vectors scale.
        objective: the target tasks.
        index: which of them.
        run: names of all tasks of the run.

    Raises:
        InputError: there is no source task to start from, or none of that name.
        MismatchError: the named task scales another prompt, or one that it carries.
    """
    length, width = rows_and_width(shared.values)
    if how == ONES:
        return ONES, (torch.ones(length), torch.ones(width))
    if how not in (AVERAGE, NEAREST):
        return how, _named(how, folder, shared)
    own = objective.tasks[index].recipe.name
    sources = {name: vectors for name, vectors in source_tasks(folder, shared).items() if name not in {own, *run}}
    if not sources:
        raise InputError(f"{folder} holds no task on {shared.name!r} to start {own!r} from; pass --start ones.")
    if how == AVERAGE:
        u, v = (torch.stack(parts).mean(0) for parts in zip(*sources.values(), strict=True))
        return AVERAGE, (u, v)
    values = torch.from_numpy(shared.values.astype(np.float32))
    losses = {name: _loss(objective, index, scaled(values, u, v)) for name, (u, v) in sources.items()}
    best = min(losses, key=losses.__getitem__)
    return f"{NEAREST}: {best}", sources[best]


def _named(name: str, folder: Path, shared: SharedPrompt) -> Vectors:
    path = VectorFolder(folder).task_path(name)
    if not path.is_file():
        known = ", ".join(sorted(source_tasks(folder, shared))) or "none"
        raise InputError(
            f"{folder} holds no task {name!r} to start from (it has {known}); name one of them, or pass --start "
            f"{AVERAGE}, {NEAREST} or {ONES}."
        )
    file = TaskFile.load(path)
    if not file.two_vectors:
        raise MismatchError(
            f"the task {name!r} carries its own prompt, and its vectors scale that one; start from a task on "
            f"{shared.name!r}, or pass --start {ONES}."
        )
    if file.prompt_sha256 != shared.fingerprint:
        raise MismatchError(f"the task {name!r} scales another shared prompt; start from one of {shared.name!r}.")
    if file.u.ndim > 1:
        raise MismatchError(
            f"the task {name!r} has {file.u.shape[1]} pairs of vectors, and a new task one; start from another."
        )
    return _vectors(file)


def _vectors(file: TaskFile) -> Vectors:
    return balanced(torch.from_numpy(file.u.astype(np.float32)), torch.from_numpy(file.v.astype(np.float32)))


@torch.no_grad()
def _loss(objective: TaskObjective, index: int, prompt: Tensor) -> float:
    """Return the mean training loss under a prompt, on rows and labels that are the same for every prompt."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(objective.train_rows[index]))[:_TRIED_ROWS]
    batches: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]] = np.array_split(rows, max(1, len(rows) // 32))
    return float(np.mean([float(objective.loss(prompt, TaskBatch(index, part), rng).task) for part in batches]))


#: Starts that are computed; any other words are a text whose tokens the rows start as.
VOCABULARY, RANDOM = "vocabulary", "random"


def initial_prompt(
    backbone: AnyBackbone, length: int, seed: int, init: str, entry: Entry = Entry.FIRST_LAYER
) -> Tensor:
    """Return the values that a shared prompt starts from, ``(l, d)``, or ``(l, layers, d)`` for every layer.

    Unlike PEFT, ``u`` and ``v`` start at one, so these are also what every task starts from.

    Args:
        backbone: the frozen encoder.
        length: rows l.
        seed: fixes what is drawn.
        init: ``"vocabulary"``: frequent tokens; ``"random"``: a standard normal distribution, which is
            PEFT's default; any other words: their tokens, repeated or cut to l rows, PEFT's ``TEXT``.
        entry: where the prompt enters; rows look like tokens there. A prompt for every layer starts as what each
            layer receives of one that enters the first, so both start alike.

    Raises:
        InputError: the text is empty.
    """
    if entry == Entry.EVERY_LAYER:
        return _at_every_layer(backbone, initial_prompt(backbone, length, seed, init))
    if init == RANDOM:
        return torch.randn(length, backbone.model.hidden_size, generator=torch.Generator().manual_seed(seed))
    if init == VOCABULARY:
        return sampled_vocabulary(backbone, length, seed, entry)
    if not init.strip():
        raise InputError("a prompt cannot start from an empty text; pass --init vocabulary, random, or a few words.")
    ids = torch.tensor(backbone.texts.encode([init], backbone.max_length)[0].ids)
    return _as_rows(backbone, ids.repeat(-(-length // len(ids)))[:length], entry)


def sampled_vocabulary(backbone: AnyBackbone, length: int, seed: int, entry: Entry = Entry.FIRST_LAYER) -> Tensor:
    """Return ``length`` rows that look like tokens where the prompt enters (paper appendix A).

    Rows are drawn from the 5,000 first vocabulary entries without replacement.
    """
    vocabulary = int(backbone.model.model.config.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    first = min(1000, vocabulary // 4)  # BERT vocabularies begin with unused entries and letters
    pool = torch.arange(first, max(first + length, min(first + 5000, vocabulary)))
    ids = pool[torch.randperm(len(pool), generator=generator)[:length]].clamp(max=vocabulary - 1)
    return _as_rows(backbone, ids, entry)


@torch.no_grad()
def _at_every_layer(backbone: AnyBackbone, prompt: Tensor) -> Tensor:
    """Return what every layer receives of a prompt ``(l, d)`` that enters the first, ``(l, layers, d)``."""
    model = backbone.model
    with recorded_inputs(model.layers) as found:
        model.encode_prompt(prompt[None].to(next(model.parameters()).device))
    return torch.stack([rows[0] for rows in found], dim=1).cpu()


@torch.no_grad()
def _as_rows(backbone: AnyBackbone, ids: Tensor, entry: Entry) -> Tensor:
    """Return tokens as word embeddings, or behind the embeddings' normalization, each as a text's first."""
    model = backbone.model
    ids = ids.to(next(model.parameters()).device)
    if entry == Entry.INPUTS_EMBEDS or isinstance(model, PromptedCausal | PromptedSeq2Seq):
        rows: Tensor = model.model.get_input_embeddings()(ids)
        return rows.cpu()
    return model.embed(ids[:, None], torch.ones_like(ids[:, None]))[:, 0].cpu()
