"""Tokenizers in their many files, and mask tokens."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from tokenizers import BertWordPieceTokenizer, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    ByT5Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
)

from mpt_edge.errors import CorruptFileError, MissingExtraError, UnsupportedModelError
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.locating import locate_model
from mpt_edge.training.backbones.tokenizer_files import read_mask, read_tokenizer
from tests.support.checkpoints import assert_one_sentence
from tests.support.places import ROOT


def test_a_tokenizer_json_is_read_as_it_is(folder: Path) -> None:
    assert read_tokenizer(locate_model(str(folder))) == ((folder / "tokenizer.json").read_bytes(), 0)


def test_mask_token(folder: Path, tmp_path: Path) -> None:
    assert read_mask(folder) == MaskToken(4, "[MASK]")
    ByT5Tokenizer().save_pretrained(tmp_path / "bytes")
    assert read_mask(tmp_path / "bytes") is None


def test_folder_without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, "tokenizer", str(folder))


def keep_only_sentencepiece(folder: Path, name: str, *, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / name).write_bytes(b"no such model")
    find = importlib.util.find_spec
    specs = {"sentencepiece": ModuleSpec("sentencepiece", None) if installed else None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: specs[name] if name in specs else find(name, *rest)
    )


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "sentencepiece.bpe.model"])
def test_sentencepiece_alone_without_its_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """transformers would print many lines about another package, or make up an empty tokenizer."""
    keep_only_sentencepiece(folder, name, installed=False, monkeypatch=monkeypatch)
    with pytest.raises(MissingExtraError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(
        caught.value,
        "sentencepiece is not installed; run: pip install 'mpt-edge[torch]' (in a clone: pip install '.[torch]')",
    )
    assert capfd.readouterr().err == ""


def test_sentencepiece_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keep_only_sentencepiece(folder, "tokenizer.model", installed=True, monkeypatch=monkeypatch)
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, f"{folder} holds no tokenizer that can be saved as tokenizer.json; add")
    assert capfd.readouterr().err == ""


def test_sentencepiece_beside_a_tokenizer_needs_no_package(
    tiny: EncoderBackbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (folder / "tokenizer.json").read_bytes()
    keep_only_sentencepiece(folder, "spiece.model", installed=False, monkeypatch=monkeypatch)
    (folder / "tokenizer.json").write_bytes(kept)
    ids, expected = (
        texts.encode(["a witty film"], 16)[0].ids for texts in (load_encoder(str(folder)).texts, tiny.texts)
    )
    assert ids == expected


#: Settings of ``tokenizer_config.json`` that move tokens, by the kind of tokenizer.
MOVING = {
    "bert": [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}],
    "roberta": [{"add_prefix_space": True}],
    "llama": [{"add_prefix_space": False}, {"legacy": True}],
}
TEXT = "a witty film ÉCOLE naïve Straße 日本語 don't É 😀 HELLO Film x-y 3.14 <s> [SEP] <ent> \u200b São"
WORDS = TEXT.split()
MIXED = [
    *WORDS,
    *(f"{one} {other}" for one, other in itertools.product(WORDS, WORDS)),
    *(f" {one}  {other}\n" for one, other in zip(WORDS, WORDS[::-1], strict=True)),
]
TRAINED_ON = ["a witty film naïve école Straße HELLO Film São x y 3 don't", "日本語 and a dull one, by bytes"]


def save_kind(kind: str, folder: Path) -> Path:
    """Write a small tokenizer of a class of transformers, trained here, as its files on the hub are."""
    if kind == "bert":
        trained = BertWordPieceTokenizer(lowercase=True)
        trained.train_from_iterator(TRAINED_ON, vocab_size=200, show_progress=False)
        vocabulary: dict[str, int] = trained.get_vocab()
        tokens = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer: PreTrainedTokenizerBase = BertTokenizer(vocab=vocabulary, **tokens, mask_token="[MASK]")
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        model, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
        if kind == "llama":
            model.pre_tokenizer, alphabet = pre_tokenizers.Metaspace(), []
        else:
            model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        model.train_from_iterator(TRAINED_ON, trainer)
        entries = json.loads(model.to_str())["model"]
        merges = [tuple(merge) for merge in entries["merges"]]
        make = RobertaTokenizer if kind == "roberta" else LlamaTokenizer
        tokenizer = make(vocab=entries["vocab"], merges=merges)
    tokenizer.save_pretrained(folder)
    return folder


def configure(folder: Path, **entries: object) -> None:
    """Change entries of ``tokenizer_config.json``."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def tokens(folder: Path) -> list[list[int]]:
    data, pad_id = read_tokenizer(locate_model(str(folder)))
    texts = TextEncoder(data, pad_id=pad_id)
    return [row.ids for row in texts.encode([*MIXED, *zip(MIXED, MIXED[::-1], strict=True)], 512)]


def tokens_of_transformers(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [list(pair) for pair in zip(MIXED, MIXED[::-1], strict=True)]
    return [*tokenizer(MIXED)["input_ids"], *tokenizer(pairs)["input_ids"]]


@pytest.mark.parametrize(
    ("kind", "entries"), [(kind, entries) for kind, several in MOVING.items() for entries in several]
)
def test_tokenizer_config_is_obeyed(tmp_path: Path, kind: str, entries: dict[str, object]) -> None:
    assert len(MIXED) > 300
    folder = save_kind(kind, tmp_path)
    before = tokens(folder)
    assert before == tokens_of_transformers(folder)
    configure(folder, **entries)
    assert tokens(folder) == tokens_of_transformers(folder) != before
    assert read_tokenizer(locate_model(str(folder)))[0] != (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "entries",
    [
        {"clean_up_tokenization_spaces": True},
        {"model_max_length": 7},
        {"padding_side": "left"},
        {"add_eos_token": True},
    ],
)
@pytest.mark.parametrize("kind", MOVING)
def test_settings_that_move_no_token_leave_the_file_as_it_is(
    tmp_path: Path, kind: str, entries: dict[str, object]
) -> None:
    """Tasks are bound to the file's hash, and what transformers writes differs between its versions."""
    folder = save_kind(kind, tmp_path)
    configure(folder, **entries)
    kept = read_tokenizer(locate_model(str(folder)))[0]
    assert kept == (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("kind", MOVING)
def test_tokens_that_only_tokenizer_config_adds(tmp_path: Path, kind: str) -> None:
    folder = save_kind(kind, tmp_path)
    before = tokens(folder)
    configure(folder, additional_special_tokens=["<ent>"])
    assert tokens(folder) == tokens_of_transformers(folder) != before


def test_the_default_backbones_tokenizer_is_read_as_it_is() -> None:
    """The shipped tasks are bound to its hash."""
    source = locate_model("minilm-l6")
    data, _ = read_tokenizer(source)
    assert data == (source.folder / "tokenizer.json").read_bytes()
    task = TaskFile.load(ROOT / "models/minilm-l6/tasks/sst2.safetensors")
    assert hashlib.sha256(data).hexdigest() == task.tokenizer


def test_a_setting_that_no_tokenizer_json_has_is_refused(folder: Path) -> None:
    """transformers would split [SEP] in a text into letters, and tokenizer.json cannot say so."""
    configure(folder, split_special_tokens=True)
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, str(folder), "remove entries such as split_special_tokens")


def test_tokenizer_config_that_is_no_object(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, "tokenizer_config.json is not a JSON object; download the model again")


def test_a_backbone_carries_the_tokenizer_that_transformers_reads(tmp_path: Path) -> None:
    """Its bundle, its tasks' fingerprints and its training texts follow."""
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    lowered = load_encoder(str(save_kind("bert", tmp_path)))
    configure(tmp_path, do_lower_case=False)
    cased = load_encoder(str(tmp_path))
    assert cased.texts.fingerprint == hashlib.sha256(cased.tokenizer_json).hexdigest() != lowered.texts.fingerprint
    low, high = (cased.texts.encode([text], 16)[0].ids for text in ("film", "FILM"))
    assert low != high
    assert cased.fingerprint == lowered.fingerprint


def test_tokenizer_that_panics(folder: Path) -> None:
    """A special token of the template that is not described ends the library's thread, and is no Exception."""
    path = folder / "tokenizer.json"
    entries = json.loads(path.read_text())
    entries["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(entries))
    with pytest.raises(CorruptFileError) as caught:
        read_tokenizer(locate_model(str(folder)))
    assert_one_sentence(caught.value, str(folder), "download the model again")


@pytest.mark.parametrize("value", ["x", [], {}])
def test_length_that_is_no_number(folder: Path, value: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": value}))
    with pytest.raises(CorruptFileError, match=r"reads no text|no tokenizer"):
        read_tokenizer(locate_model(str(folder)))
