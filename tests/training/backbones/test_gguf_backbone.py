"""A GGUF file as a backbone: identity, tokens, and files that do not fit together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge.training.backbones.generative_backbone import CausalBackbone
from mpt_edge.training.backbones.opening import open_backbone
from tests.support.checkpoints import assert_one_sentence
from tests.support.gguf import TOKENS, write_model


def open_file(folder: Path, changes: dict[str, Any] | None = None, **options: Any) -> CausalBackbone:
    path = folder / "tiny.Q8_0.gguf"
    write_model(path, changes=changes, **options)
    backbone = open_backbone(str(path))
    assert isinstance(backbone, CausalBackbone)
    return backbone


def test_file(tmp_path: Path) -> None:
    backbone = open_file(tmp_path)
    assert (backbone.name, backbone.id, backbone.file) == ("tiny.Q8_0", "tiny.Q8_0", "tiny.Q8_0.gguf")
    assert (backbone.revision, backbone.license, backbone.folder) == (None, None, tmp_path)
    assert (backbone.pad_id, backbone.eos_ids, backbone.max_length) == (0, (2,), 64)
    assert backbone.texts.encode(["a a"], 8)[0].ids == [TOKENS.index("a"), 95]


def test_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.gguf")
    changed = dict(model.state_dict())["model.norm.weight"].numpy() + 1
    one, same = (open_backbone(str(tmp_path / name)).fingerprint for name in ("a.gguf", "a.gguf"))
    write_model(tmp_path / "b.gguf", tensors={"output_norm.weight": changed})
    assert one == same != open_backbone(str(tmp_path / "b.gguf")).fingerprint


def test_fingerprint_of_a_folder_with_the_same_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.gguf")
    backbone = open_backbone(str(tmp_path / "a.gguf"))
    model.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "tokenizer.json").write_bytes(backbone.tokenizer_json)
    folder = open_backbone(str(tmp_path / "folder"))
    assert folder.fingerprint == backbone.fingerprint
    assert folder.texts.fingerprint == backbone.texts.fingerprint


def test_license_of_the_file_comes_before_the_card_s(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert open_file(tmp_path).license == "mit"
    assert open_file(tmp_path, {"general.license": "apache-2.0"}).license == "apache-2.0"


def test_file_in_the_hub_s_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    backbone = open_file(snapshot)
    assert (backbone.name, backbone.id, backbone.revision) == ("tiny.Q8_0", "someone/tiny", "c0ffee")


def test_folder_with_one_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # as repositories of files have it
    file = open_file(tmp_path)
    backbone = open_backbone(str(tmp_path))
    assert (backbone.file, backbone.fingerprint) == (file.file, file.fingerprint)


def test_folder_with_several_files(tmp_path: Path) -> None:
    write_model(tmp_path / "a.Q8_0.gguf")
    shutil.copy(tmp_path / "a.Q8_0.gguf", tmp_path / "a.Q4_0.gguf")
    with pytest.raises(ValueError, match="several models") as caught:
        open_backbone(str(tmp_path))
    assert_one_sentence(caught.value, "a.Q4_0.gguf, a.Q8_0.gguf", f"as in {tmp_path}/a.Q4_0.gguf")


def test_folder_with_weights_of_its_own(tmp_path: Path, tiny_folder: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    write_model(folder / "a.gguf")
    assert open_backbone(str(folder)).file is None


def test_encoders_alone(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf")
    with pytest.raises(UnsupportedModelError, match="is a generative model, and this needs an encoder"):
        load_encoder(str(tmp_path / "a.gguf"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.tokens": [*TOKENS, "<more>"], "tokenizer.ggml.token_type": [1] * 97}, "ids up to 96"),
        ({"tokenizer.ggml.padding_token_id": 96}, "ids up to 96"),
        ({"tokenizer.ggml.eot_token_id": 200}, "ids up to 200"),
    ],
)
def test_vocabulary_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        open_file(tmp_path, changes)
    assert_one_sentence(caught.value, message, "embeddings for ids 0 to 95")


def test_vocabulary_that_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError) as caught:
        open_file(tmp_path, {"tokenizer.ggml.merges": ["no pair here"]})
    assert_one_sentence(caught.value, "tiny.Q8_0.gguf holds a vocabulary that makes no tokenizer", "download the file")


def test_larger_table_than_vocabulary(tmp_path: Path) -> None:
    tensors = {name: np.zeros((96, 32), np.float32) for name in ("token_embd.weight", "output.weight")}
    changes = {"tokens": TOKENS[:90], "token_type": [1] * 90, "merges": None}
    backbone = open_file(
        tmp_path, {f"tokenizer.ggml.{name}": value for name, value in changes.items()}, tensors=tensors
    )
    assert backbone.texts.encode(["a"], 8)[0].ids == [TOKENS.index("a")]
