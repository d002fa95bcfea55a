"""Loading a bundle: the default one, precision, threads and execution providers."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

import mpt_edge
from mpt_edge.errors import BundleNotFoundError, InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.loading import DEFAULT, VARIABLE, cache_bundle, default_bundle, open_model


def test_the_backbone_decides_the_class(tiny_bundle: Path, writer_bundle: Path) -> None:
    assert type(mpt_edge.load(tiny_bundle, threads=1)) is EncoderModel
    assert type(mpt_edge.load(str(writer_bundle), threads=1)) is GenerativeModel
    assert type(open_model(Bundle.open(tiny_bundle))) is EncoderModel


def test_default_bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert default_bundle() == cache_bundle()
    assert cache_bundle().name == DEFAULT
    (tmp_path / "models" / DEFAULT).mkdir(parents=True)
    assert default_bundle() == Path("models") / DEFAULT
    monkeypatch.setenv(VARIABLE, str(tiny_bundle))
    assert default_bundle() == tiny_bundle
    assert mpt_edge.load(threads=1).bundle.folder == tiny_bundle


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="build it with `mpt-edge export"):
        mpt_edge.load(tmp_path / "none")


def test_precision(tiny_bundle: Path) -> None:
    assert mpt_edge.load(tiny_bundle, precision="float32", threads=1).tasks
    with pytest.raises(InputError, match="has no int8 graph, only float32"):
        mpt_edge.load(tiny_bundle, precision="int8")


@pytest.mark.parametrize("threads", [0, -1])
def test_impossible_threads(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(InputError, match=f"{threads} threads are not possible here"):
        mpt_edge.load(tiny_bundle, threads=threads)


@pytest.mark.parametrize("bundle", ["tiny_bundle", "writer_bundle"])
def test_unknown_provider(request: pytest.FixtureRequest, bundle: str) -> None:
    """The sentence lists those present."""
    with pytest.raises(InputError, match="this ONNX Runtime has no provider 'CUDAExecutionProviders', only") as caught:
        mpt_edge.load(request.getfixturevalue(bundle), providers=["CUDAExecutionProviders"])
    assert ", ".join(onnxruntime.get_available_providers()) in str(caught.value)


@pytest.mark.parametrize("bundle", ["tiny_bundle", "writer_bundle"])
def test_providers_in_use(request: pytest.FixtureRequest, bundle: str) -> None:
    folder = request.getfixturevalue(bundle)
    assert mpt_edge.load(folder, threads=1).providers == ["CPUExecutionProvider"]
    assert mpt_edge.load(folder, threads=1, providers=["CPUExecutionProvider"]).providers == ["CPUExecutionProvider"]
    with pytest.raises(InputError, match="the providers are no list of names"):
        mpt_edge.load(folder, providers="CPUExecutionProvider")
