"""A tiny Llama with a tokenizer of its own, both made here, and tasks on it that generate and choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt, length_and_width
from mpt_edge.formats.taskfile import Side, TaskFile
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge_export import ExportPlan, export_bundle

#: Prompt length, and maximum number of positions.
LENGTH, CONTEXT = 6, 160
#: Initialization of the prompt.
WORDS = "Lily was happy and sang in the park with her friend Max."
TEXTS = ["The cat", "Tom had a red ball. One day, he", "Once upon a time"]
#: Training data of the model. Other characters than ASCII are several tokens each, so a stream must wait for them.
SENTENCES = [
    "The cat sat on the mat and ate süße Törtchen 🍰 with Max. It was happy.",
    "Tom had a red ball. One day, he saw 日本 and sang 🎉🎉 all the way home! Then he slept.",
    "Once upon a time a dog ran to the park, où il était très content 😀. The end.",
    "Question: who sang in the park?\nAnswer: Lily and the dog, für immer 🐕. Yes!",
]
LABELS = {"good": "He was very happy.", "bad": "He was sad."}


def byte_level() -> Tokenizer:
    """Return a byte-level tokenizer, trained on ASCII only, so that other characters stay bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [sentence.encode("ascii", "ignore").decode() for sentence in [*SENTENCES, *LABELS.values()]]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words * 3, trainer)
    return tokenizer


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
