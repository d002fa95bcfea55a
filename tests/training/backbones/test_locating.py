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


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make a hub repository of GGUF files; return a function that serves it and gives the files asked for."""

    def serve(*names: str, online: bool = True) -> list[str]:
        snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "c0ffee"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        asked = []

        def give(repository: str, file: str, revision: str | None) -> str:
            asked.append(f"{repository} {file} {revision}")
            if file not in (*names, "README.md"):
                raise LocalEntryNotFoundError("no such file")
            path = snapshot / file
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text("---\nlicense: mit\n---\n" if file == "README.md" else "")
            return str(path)

        def listed(*_: object, **__: object) -> list[str]:
            if not online:
                raise LocalEntryNotFoundError("no network")
            return ["README.md", *names]

        monkeypatch.setattr(locating, "snapshot_download", lambda *_, **__: str(snapshot))
        monkeypatch.setattr(locating, "hf_hub_download", give)
        monkeypatch.setattr(locating.HfApi, "list_repo_files", listed)
        return asked

    return serve


def test_repository_with_one_file(repository: Callable[..., list[str]]) -> None:
    asked = repository("tiny.Q8_0.gguf")
    source = locate_model("someone/tiny", "main")
    assert (source.id, source.name, source.revision) == ("someone/tiny", "tiny.Q8_0", "c0ffee")
    assert (source.file, source.path.name) == ("tiny.Q8_0.gguf", "tiny.Q8_0.gguf")
    assert asked == ["someone/tiny tiny.Q8_0.gguf c0ffee", "someone/tiny README.md c0ffee"]


def test_repository_with_several_files(repository: Callable[..., list[str]]) -> None:
    asked = repository("tiny.Q8_0.gguf", "tiny.Q4_0.gguf")
    with pytest.raises(InputError) as caught:
        locate_model("someone/tiny")
    assert_one_sentence(caught.value, "tiny.Q4_0.gguf, tiny.Q8_0.gguf", "name one, as in someone/tiny/tiny.Q4_0.gguf")
    assert asked == []


@pytest.mark.parametrize("file", ["tiny.Q4_0.gguf", "small/tiny.Q4_0.gguf"])
def test_file_of_a_repository(repository: Callable[..., list[str]], file: str) -> None:
    asked = repository("tiny.Q8_0.gguf", file)
    source = locate_model(f"someone/tiny/{file}", "v1")
    assert (source.id, source.name, source.revision, source.license) == ("someone/tiny", "tiny.Q4_0", "c0ffee", "mit")
    assert source.path == source.folder / file
    assert source.path.is_file()
    assert asked[0] == f"someone/tiny {file} v1"


def test_file_that_a_repository_has_not(repository: Callable[..., list[str]]) -> None:
    repository("tiny.Q8_0.gguf")
    with pytest.raises(InputError) as caught:
        locate_model("someone/tiny/tiny.Q2_K.gguf")
    assert_one_sentence(caught.value, "the hub did not give the file tiny.Q2_K.gguf of 'someone/tiny'")


def test_repository_in_the_cache_without_a_network(repository: Callable[..., list[str]], tmp_path: Path) -> None:
    repository("tiny.Q8_0.gguf", online=False)
    (tmp_path / "models--someone--tiny" / "snapshots" / "c0ffee" / "tiny.Q8_0.gguf").write_text("")
    assert locate_model("someone/tiny").file == "tiny.Q8_0.gguf"


def test_local_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("")
    source = locate_model(str(tmp_path / "a.gguf"))
    assert source == ModelSource(str(tmp_path / "a.gguf"), tmp_path, "a", None, None, "a.gguf")
    assert (source.name, source.path) == ("a", tmp_path / "a.gguf")
