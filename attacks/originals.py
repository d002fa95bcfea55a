"""Files of all kinds, of which mutants are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from attacks.fault_bundle import make_manifest, make_task
from mpt_edge.formats.history import Action, ChangeRecord
from mpt_edge.formats.label_vectors import LabelVectors
from mpt_edge.formats.linear_head import Activation, LinearHead, LinearLayer
from mpt_edge.formats.manifest import Family, FileEntry, GenerationFacts, Manifest, MaskToken, Release
from mpt_edge.formats.placement import PEFT_PLACEMENT, Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Inputs, Side, TaskFile

ROOT = Path(__file__).resolve().parents[1]
_SHIPPED = ROOT / "models" / "minilm-l6"

_WORDS = "a the film movie witty dull bad good great sport ball game vote law party atom cell star text Lily was happy"


def make_prompts() -> list[SharedPrompt]:
    """Return shared prompts with and without heads, in all positions."""
    values = np.linspace(-1, 1, 3 * 2 * 4, dtype=np.float16).reshape(3, 2, 4)
    layers = (
        LinearLayer(np.ones((5, 4), np.float32), np.zeros(5, np.float32), Activation.TANH),
        LinearLayer(np.ones((2, 5), np.float32), np.zeros(2, np.float32)),
    )
    plain = SharedPrompt("mpt", values[:, 0], Placement(), "b" * 64, {"steps": 3, "lr": 1e-3}, "Apache-2.0")
    return [
        plain,
        replace(plain, values=values, placement=Placement(position=PromptPosition.ALL_LAYERS)),
        replace(plain, placement=PEFT_PLACEMENT, head=LinearHead(layers)),
        replace(plain, values=plain.values.astype(np.float32), placement=Placement(Layout.JOINT)),
    ]


def make_tasks() -> list[TaskFile]:
    """Return tasks of several head types, with all that a file may hold."""
    plain, prompts = make_task("topic", 3), make_prompts()
    measured = {"accuracy": 0.83, "macro_f1": 0.8, "examples": 100}
    full = replace(
        plain, template="Review: {text}", metrics={"test": measured, "linear_probe": {"test": measured}},
        reference_example={"text": "a good film", "label": "yes", "score": 0.9}, training={"data": "x", "seed": 0},
        license="MIT", truncation_side=Side.LEFT, token_types=False,
    )  # fmt: skip
    pair = replace(full, inputs=Inputs.PAIR, template="{text} and {text_pair}")
    story = {"max_new_tokens": 24, "stop": ["."], "temperature": 0.7, "top_p": 0.9, "seed": 3}
    text = replace(plain, head_type="generation", labels=(), label_texts=(), generation=story)
    tasks = [plain, full, pair, text, replace(full, head_type="embedding", labels=(), label_texts=())]
    tasks += [replace(plain, own_prompt=replace(prompt, name="topic")) for prompt in prompts if prompt.head is None]
    tasks.append(replace(plain, head_type="classifier", own_prompt=replace(prompts[2], name="topic")))
    tasks.append(replace(plain, u=np.ones((3, 2), np.float16), v=np.ones((2, 4), np.float16)))
    vectors = np.random.default_rng(0).standard_normal((len(plain.labels), 4)).astype(np.float32)
    for levels in (3, 256):
        labels = LabelVectors.quantize(vectors, vectors[:, 0], levels)
        tasks.append(replace(plain, head_type="label_vectors", label_texts=(), label_vectors=labels, threshold=0.5))
    return tasks


def file_bytes(folder: Path, items: list[TaskFile] | list[SharedPrompt]) -> Iterator[bytes]:
    """Yield the files of tasks or prompts; one in ``folder`` is written again and again."""
    path = folder / "original.safetensors"
    for item in items:
        item.save(path)
        yield path.read_bytes()


def shipped_files(kind: str) -> list[bytes]:
    """Return the smaller shipped files of a kind, ``"tasks"`` or ``"prompts"``."""
    files = sorted((_SHIPPED / kind).glob("*.safetensors"))
    return [data for path in files if len(data := path.read_bytes()) < 3000]


def make_manifests(folder: Path) -> list[Manifest]:
    """Return manifests of all families, with a history; ``folder`` holds the files of a bundle."""
    plain = make_manifest(folder)
    graph, topic = FileEntry(sha256="a" * 64, size=1000), "tasks/topic.safetensors"
    moved = FileEntry(sha256="c" * 64, size=2000, path=f"installed/topic.{'0' * 32}.safetensors")
    record = ChangeRecord(when="2026-01-01T00:00:00+00:00", action=Action.INSTALL, task="x", version=1, sha256="d" * 64)
    facts = GenerationFacts(eos_ids=(2, 3), vocabulary=100, context=64, positions_from_zero=True)
    changed = replace(
        plain, head_type="similarity", mask=MaskToken(4, "[MASK]"), changes=(record,) * 2, parity={"float32": 1e-6},
        files={**plain.files, "onnx/model.onnx": graph, "onnx/model.onnx_data": graph, topic: moved},
        retired=(topic,), releases={**plain.releases, "topic": Release(version=1, sha256="c" * 64)},
    )  # fmt: skip
    causal = replace(plain, family=Family.CAUSAL, pooling=None, generation=facts)
    return [plain, changed, causal, replace(causal, family=Family.SEQ2SEQ, generation=replace(facts, start_id=0))]


def make_tokenizers() -> list[bytes]:
    """Return small tokenizers of all models, with many kinds of parts."""
    words, unknown = _WORDS.split(), "[UNK]"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghij",
        *(f"##{c}" for c in "abcdefghij"),
        *words,
    ]
    ids = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    piece = Tokenizer(models.WordPiece(ids, unk_token=unknown))
    piece.normalizer, piece.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    piece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    piece.add_special_tokens(["[PAD]", "[MASK]"])
    piece.enable_padding()
    piece.enable_truncation(32)
    byte = Tokenizer(models.BPE())
    byte.pre_tokenizer, byte.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    byte.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    byte.train_from_iterator([_WORDS] * 3, trainer)
    scores = [("<unk>", 0.0), ("\u2581", -2.0), *((f"\u2581{word}", -3.0) for word in dict.fromkeys(words))]
    unigram = Tokenizer(models.Unigram([*scores, *((c, -5.0) for c in "abcdefghijklmnop")], unk_id=0))
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    level = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    level.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Prepend("a "), normalizers.Lowercase()])
    level.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d+|\s"), "removed"), pre_tokenizers.Digits(), pre_tokenizers.Punctuation()]
    )
    level.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return [each.to_str().encode() for each in (piece, byte, unigram, level)]
