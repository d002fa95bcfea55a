"""A tiny Llama with a tokenizer of its own, both made here, and tasks on it that generate and choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt, length_and_width
from mpt_edge.formats.taskfile import Side, TaskFile
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.small_tokenizers import LABEL_TEXTS, SENTENCES, byte_level

#: Prompt length, and maximum number of positions.
LENGTH, CONTEXT = 6, 160
#: Initialization of the prompt.
WORDS = "Lily was happy and sang in the park with her friend Max."
TEXTS = ["The cat", "Tom had a red ball. One day, he", "Once upon a time"]
LABELS = dict(zip(("good", "bad"), LABEL_TEXTS, strict=True))


def save_writer(folder: Path) -> Path:
    """Write a two-layer Llama that was trained on `SENTENCES` for some seconds."""
    tokenizer = byte_level()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    rows = [encoded.ids for encoded in tokenizer.encode_batch([f"{sentence}</s>" for sentence in SENTENCES])]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    targets = torch.cat([torch.full((len(rows), LENGTH), -100), ids.where(ids > 0, -100)], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(200):
        # Random words take the place of a prompt.
        words = torch.randint(3, config.vocab_size, (len(rows), LENGTH))
        optimizer.zero_grad()
        model(torch.cat([words, ids], 1), labels=targets).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder


def text_task(backbone: GenerativeBackbone, shared: SharedPrompt, name: str, **changes: object) -> TaskFile:
    """Return a task that generates text, with random vectors."""
    rng = np.random.default_rng(len(name))
    length, size = length_and_width(shared.values)
    values = {
        "name": name,
        "head_type": "generation",
        "u": rng.normal(1, 0.3, length).astype(np.float16),
        "v": rng.normal(1, 0.3, size).astype(np.float16),
        "prompt": shared.name,
        "prompt_sha256": shared.fingerprint,
        "backbone": backbone.fingerprint,
        "tokenizer": backbone.texts.fingerprint,
        "max_length": 64,
        "generation": {"max_new_tokens": 24},
    }
    return TaskFile(**(values | changes))  # type: ignore[arg-type]


def word_prompt(backbone: GenerativeBackbone, words: str, length: int) -> SharedPrompt:
    """Return a shared prompt of the model's own word embeddings, so that it generates words it knows."""
    table = backbone.model.model.get_input_embeddings().weight
    values = table[backbone.texts.continuations([words])[0][:length]].detach().numpy()
    return SharedPrompt("mpt", values.astype(np.float16), Placement(), backbone.fingerprint)


def export_writer(backbone: GenerativeBackbone, length: int, folder: Path) -> Path:
    """Export three tasks that generate text and one that chooses a label text; return the bundle."""
    shared = word_prompt(backbone, WORDS, length)
    shared.save(folder / "prompts/mpt.safetensors")
    choice: dict[str, object] = {"head_type": "choice", "scale": 1.0, "generation": {}}
    choice |= {"labels": tuple(LABELS), "label_texts": tuple((text,) for text in LABELS.values())}
    tasks = [
        text_task(backbone, shared, "story"),
        text_task(
            backbone, shared, "other-story", truncation_side=Side.LEFT, generation={"max_new_tokens": 40, "stop": ["."]}
        ),
        text_task(backbone, shared, "ask", template="Question: {text}\nAnswer:"),
        text_task(backbone, shared, "mood", **choice),
    ]
    for task in tasks:
        task.save(folder / "tasks" / f"{task.name}.safetensors")
    export_bundle(ExportPlan(backbone, [folder], folder / "bundle"))
    return folder / "bundle"
