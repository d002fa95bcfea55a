"""Models found by short name, folder and hub id."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mpt_edge.errors import CorruptFileError, InputError, MissingExtraError
from mpt_edge.training.backbones import locating
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.locating import PACKAGED, ModelSource, locate_model
from mpt_edge.training.backbones.opening import AnyBackbone, open_backbone
from tests.support.checkpoints import assert_one_sentence


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network\nand several lines")

    monkeypatch.setattr(locating, "snapshot_download", fail)


def test_local_folder(tiny_folder: Path) -> None:
    source = locate_model(str(tiny_folder))
    assert source == ModelSource(str(tiny_folder), tiny_folder, "tiny-bert", None, None)
    assert source.name == "tiny-bert"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["nobody/nothing", "minilm"])
def test_unknown_name_without_a_network(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_encoder(name)
    assert_one_sentence(caught.value, repr(name), "minilm-l6", "folder")


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "../nowhere"])
def test_name_that_the_hub_would_not_allow(name: str) -> None:
    # The hub's own check refuses these before any request is sent.
    with pytest.raises(InputError) as caught:
        load_encoder(name)
    assert_one_sentence(caught.value, repr(name))


@pytest.mark.parametrize("load", [load_encoder, open_backbone])
def test_hub_is_asked_once_and_gives_id_and_revision(
    load: Callable[[str, str], AnyBackbone], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = folder.rename(folder.with_name("c0ffee"))
    asked: list[tuple[str, str | None]] = []

    def give(source: str, revision: str | None, **_: object) -> str:
        asked.append((source, revision))
        return str(snapshot)

    (snapshot / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# Model\nlicense: none\n")
    monkeypatch.setattr(locating, "snapshot_download", give)
    backbone = load("someone/tiny", "main")
    assert asked == [("someone/tiny", "main")]
    assert isinstance(backbone, EncoderBackbone)
    assert (backbone.name, backbone.id, backbone.revision, backbone.license) == (
        "tiny", "someone/tiny", "c0ffee", "mit",
    )  # fmt: skip


@pytest.mark.parametrize("card", ["# Model\n---\nlicense: mit\n---\n", "---\nlicense:\n---\n", "license: mit\n"])
def test_license_only_from_front_matter(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card)
    assert locate_model(str(folder)).license is None


def test_short_name_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, (module, _, _)), *_ = PACKAGED.items()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked, *rest: None if asked == module else find(asked, *rest)
    )
    with pytest.raises(MissingExtraError, match="pip install 'mpt-edge\\[minilm\\]'"):
        locate_model(name)


def test_json_files(folder: Path) -> None:
    source = locate_model(str(folder))
    assert source.read_json("config.json")["model_type"] == "bert"
    assert source.read_json("none.json") == {}
    (folder / "modules.json").write_text("[{")
    with pytest.raises(CorruptFileError, match=r"modules\.json is not JSON"):
        source.read_json("modules.json")
