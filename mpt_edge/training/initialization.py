"""Initialization of shared prompts, and of the vectors of new tasks (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, length_and_width
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.deep_prompt import recorded_inputs
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import CausalBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.multitask import balance, scale
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.schedule import TaskBatch

#: Initializations of vectors that are computed; any other word is a task's name.
AVERAGE, NEAREST, ONES = "average", "nearest", "ones"

#: Initializations of a prompt; any other words are a text, whose tokens the virtual tokens start as.
VOCABULARY, RANDOM, EXAMPLES = "vocabulary", "random", "examples"

#: Training examples on which source tasks are compared for the nearest one, and those of a batch.
_COMPARED, _BATCH = 256, 32

#: Prompts of examples that are compared, and the examples of all tasks that they are compared on. Losses of three
#: draws of nl2bash on SmolLM2-135M were 2.84, 2.97 and 3.04.
_DRAWS, _DRAWS_COMPARED = 4, 64

#: u and v of a task.
Vectors = tuple[Tensor, Tensor]


def initialize_prompt(
    backbone: AnyBackbone,
    length: int,
    seed: int,
    init: str,
    position: PromptPosition = PromptPosition.FIRST_LAYER,
) -> Tensor:
    """Return the first values of a shared prompt, ``(l, d)``, or ``(l, layers, d)`` for all layers.

    Unlike in PEFT, ``u`` and ``v`` start at one, so every task starts from these values too.

    Args:
        backbone: the frozen model.
        length: number of virtual tokens l.
        seed: random seed.
        init: ``"vocabulary"``: frequent tokens. ``"random"``: a standard normal distribution, PEFT's
            default. Any other words: their tokens, repeated or cut to l, PEFT's ``TEXT``.
        position: where the prompt enters; virtual tokens look like tokens there. A prompt for all
            layers starts as each layer's input under a prompt that enters the first one.

    Raises:
        InputError: the text is empty.
    """
    if position is PromptPosition.ALL_LAYERS:
        return _spread_over_layers(backbone, initialize_prompt(backbone, length, seed, init))
    if init == RANDOM:
        return torch.randn(length, backbone.model.hidden_size, generator=torch.Generator().manual_seed(seed))
    if init == VOCABULARY:
        return sample_vocabulary(backbone, length, seed, position)
    if not init.strip():
        raise InputError("a prompt cannot start from an empty text; pass --init vocabulary, random, or a few words.")
    ids = torch.tensor(backbone.texts.encode([init], backbone.max_length)[0].ids)
    return _embed_tokens(backbone, ids.repeat(-(-length // len(ids)))[:length], position)


def default_init(backbone: AnyBackbone) -> str:
    """Return the initialization of a backbone's prompts.

    Frequent tokens take a decoder-only model's own abilities away. Examples of the tasks before a text help it at
    once: a prompt then starts with the loss of a few shots (docs/generation.md).
    """
    return EXAMPLES if isinstance(backbone, CausalBackbone) else VOCABULARY


def initialize_shared(objectives: Sequence[TaskObjective], length: int, seed: int, init: str) -> Tensor:
    """Return the first values of the shared prompt of some tasks; see `initialize_prompt`.

    Args:
        objectives: the tasks, all on one backbone and with one placement.
        length: number of virtual tokens l.
        seed: random seed.
        init: as of `initialize_prompt`, or ``"examples"``: training examples of the tasks.

    Raises:
        InputError: the text is empty.
    """
    if init == EXAMPLES:
        return _initialize_from_examples(objectives, length, seed)
    first = objectives[0]
    return initialize_prompt(first.backbone, length, seed, init, first.placement.position)


def _initialize_from_examples(objectives: Sequence[TaskObjective], length: int, seed: int) -> Tensor:
    """Return first values of a shared prompt: training examples of the tasks in turn, as the frozen model reads them.

    The first example is cut to the length. Of a few draws, the one with the lowest loss on other examples is taken.
    """
    count = max(1, _DRAWS_COMPARED // len(objectives))
    backbone, position = objectives[0].backbone, objectives[0].placement.position
    best, lowest = None, np.inf
    for draw in range(_DRAWS):
        ids = _draw_examples(objectives, length, np.random.default_rng([seed, draw]), count)
        prompt = _read_tokens(backbone, torch.tensor(ids), position)
        loss = float(np.mean([_loss(objective, prompt, count) for objective in objectives]))
        if best is None or loss < lowest:
            best, lowest = prompt, loss
    assert best is not None
    return best


def _draw_examples(
    objectives: Sequence[TaskObjective], length: int, rng: np.random.Generator, compared: int
) -> list[int]:
    """Return the last ``length`` tokens of training examples in random order, a task after the other.

    Examples that prompts are compared on are left out, unless a task has no others.
    """
    orders = [_comparison_order(objective) for objective in objectives]
    queues = [rng.permutation(order[compared:] if len(order) > compared else order) for order in orders]
    tasks, ids = rng.permutation(len(objectives)), list[int]()
    for turn in range(length):  # each example has a token at least
        for task in tasks:
            ids += objectives[task].example_tokens(int(queues[task][turn % len(queues[task])]))
            if len(ids) >= length:
                return ids[-length:]
    return ids[-length:]


def sample_vocabulary(
    backbone: AnyBackbone, length: int, seed: int, position: PromptPosition = PromptPosition.FIRST_LAYER
) -> Tensor:
    """Return virtual tokens that look like tokens at the prompt's position (paper appendix A), ``(l, d)``.

    They are drawn from the 5,000 first vocabulary entries, without replacement where there are enough.
    """
    vocabulary = int(backbone.model.model.config.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    first = min(1000, vocabulary // 4)  # BERT vocabularies begin with unused entries and letters
    candidates = torch.arange(first, max(first + length, min(first + 5000, vocabulary)))
    ids = candidates[torch.randperm(len(candidates), generator=generator)[:length]].clamp(max=vocabulary - 1)
    return _embed_tokens(backbone, ids, position)


def source_tasks(folder: Path, shared: SharedPrompt) -> dict[str, Vectors]:
    """Return the balanced vectors of a folder's tasks on ``shared``, by name.

    Tasks with several pairs of vectors, which PEFT can train, are left out: new tasks have one. So are
    tasks with their own prompt, since their vectors scale that one.
    """
    files = [file for file in VectorFolder(folder).tasks().values() if file.u.ndim == 1]
    ours = (file for file in files if file.is_two_vectors and file.prompt_sha256 == shared.fingerprint)
    return {file.name: _vectors(file) for file in ours}


def initialize_vectors(
    init: str, folder: Path, shared: SharedPrompt, objective: TaskObjective, run: Collection[str] = ()
) -> tuple[str, Vectors]:
    """Return the first u and v of a task, and their description for the task's file.

    The task itself and the others of its run count only if they are named. A run that writes into
    the folder it starts from would otherwise find another initialization when it resumes.

    Args:
        init: ``"average"``, ``"nearest"``, ``"ones"``, or the name of a task in ``folder``.
        folder: a bundle, or the folder of a source run.
        shared: the prompt that the vectors scale.
        objective: the target task.
        run: names of all tasks of the run.

    Raises:
        InputError: there is no source task to start from, or none of that name.
        MismatchError: the named task scales another prompt, or its own.
    """
    length, width = length_and_width(shared.values)
    if init == ONES:
        return ONES, (torch.ones(length), torch.ones(width))
    if init not in (AVERAGE, NEAREST):
        return init, _named(init, folder, shared)
    own = objective.recipe.name
    sources = {name: vectors for name, vectors in source_tasks(folder, shared).items() if name not in {own, *run}}
    if not sources:
        raise InputError(f"{folder} holds no task on {shared.name!r} to start {own!r} from; pass --init {ONES}.")
    if init == AVERAGE:
        u, v = (torch.stack(parts).mean(0) for parts in zip(*sources.values(), strict=True))
        return AVERAGE, (u, v)
    values = torch.from_numpy(shared.values.astype(np.float32))
    compared = objective.as_teacher()  # which answers by a prompt alone
    losses = {name: _loss(compared, scale(values, u, v)) for name, (u, v) in sources.items()}
    best = min(losses, key=losses.__getitem__)
    return f"{NEAREST}: {best}", sources[best]


def _named(name: str, folder: Path, shared: SharedPrompt) -> Vectors:
    path = VectorFolder(folder).task_path(name)
    if not path.is_file():
        known = ", ".join(sorted(source_tasks(folder, shared))) or "none"
        raise InputError(
            f"{folder} holds no task {name!r} to start from (it has {known}); name one of them, or pass --init "
            f"{AVERAGE}, {NEAREST} or {ONES}."
        )
    file = TaskFile.load(path)
    if not file.is_two_vectors:
        raise MismatchError(
            f"the task {name!r} carries its own prompt, and its vectors scale that one; start from a task on "
            f"{shared.name!r}, or pass --init {ONES}."
        )
    if file.prompt_sha256 != shared.fingerprint:
        raise MismatchError(f"the task {name!r} scales another shared prompt; start from one of {shared.name!r}.")
    if file.u.ndim > 1:
        raise MismatchError(
            f"the task {name!r} has {file.u.shape[1]} pairs of vectors, and a new task one; start from another."
        )
    return _vectors(file)


def _vectors(file: TaskFile) -> Vectors:
    return balance(torch.from_numpy(file.u.astype(np.float32)), torch.from_numpy(file.v.astype(np.float32)))


def _comparison_order(objective: TaskObjective, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Return the order in which prompts are compared on training examples."""
    return (rng or np.random.default_rng(0)).permutation(len(objective.train_rows))


@torch.no_grad()
def _loss(objective: TaskObjective, prompt: Tensor, compared: int = _COMPARED) -> float:
    """Return the mean training loss under a prompt, on examples and labels that are the same for every prompt."""
    rng = np.random.default_rng(0)
    rows = _comparison_order(objective, rng)[:compared]
    batches = np.array_split(rows, max(1, len(rows) // _BATCH))
    return float(np.mean([float(objective.loss(prompt, TaskBatch(0, batch), rng).task) for batch in batches]))


def _read_tokens(backbone: AnyBackbone, ids: Tensor, position: PromptPosition) -> Tensor:
    """Return tokens ``(l,)`` as a prompt ``(l, d)``, or ``(l, layers, d)`` for all layers."""
    if position is not PromptPosition.ALL_LAYERS:
        return _embed_tokens(backbone, ids, position)
    return _spread_over_layers(backbone, _embed_tokens(backbone, ids, PromptPosition.FIRST_LAYER))


@torch.no_grad()
def _spread_over_layers(backbone: AnyBackbone, prompt: Tensor) -> Tensor:
    """Return every layer's input under a prompt ``(l, d)`` that enters the first one, ``(l, layers, d)``."""
    model = backbone.model
    with recorded_inputs(model.layers) as inputs:
        model.encode_prompt(prompt[None].to(next(model.parameters()).device))
    return torch.stack([layer[0] for layer in inputs], dim=1).cpu()


@torch.no_grad()
def _embed_tokens(backbone: AnyBackbone, ids: Tensor, position: PromptPosition) -> Tensor:
    """Return tokens ``(l,)`` as virtual tokens ``(l, d)``: word embeddings, or an encoder's first layer input.

    Of the latter, each token is embedded as the first of a text.
    """
    ids = ids.to(next(backbone.model.parameters()).device)
    if position is not PromptPosition.EMBEDDINGS and isinstance(backbone, EncoderBackbone):
        return backbone.model.embed(ids[:, None], torch.ones_like(ids[:, None]))[:, 0].cpu()
    embedded: Tensor = backbone.model.model.get_input_embeddings()(ids)
    return embedded.cpu()
