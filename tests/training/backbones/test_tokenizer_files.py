"""Tokenizers in their many files, and mask tokens."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from transformers import ByT5Tokenizer

from mpt_edge.errors import CorruptFileError, MissingExtraError
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.locating import locate_model
from mpt_edge.training.backbones.tokenizer_files import read_mask, read_tokenizer
from tests.support.checkpoints import assert_one_sentence


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
    assert load_encoder(str(folder)).texts.fingerprint == tiny.texts.fingerprint
