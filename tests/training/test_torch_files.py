"""Files of `torch.save`: tensors come back to the bit, and nothing else is read."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mpt_edge.errors import CorruptFileError
from mpt_edge.training.torch_files import check_archive, load_tensors, tensors_in
from tests.support.adapters import Code

LIMIT = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pt"


def pickled(path: Path, data: bytes, **others: bytes) -> None:
    """Write an archive with a pickle of one's own, beside the values of a tensor of one number."""
    torch.save(torch.ones(1), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in parts.items():
            archive.writestr(name, data if name.endswith("/data.pkl") else value)
        for name, value in others.items():
            archive.writestr(f"file/{name}", value)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_tensors(path, LIMIT)
    if reason != "repeats":
        with pytest.raises(ValueError, match=reason):
            check_archive(path)


def test_values_come_back(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    types = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    value = {
        "tensors": {str(kind): torch.randn(3, 4, generator=generator).to(kind) for kind in types},
        "whole": [torch.arange(3), torch.tensor(5, dtype=torch.int32), torch.tensor([True])],
        "state": OrderedDict(a=torch.nn.Parameter(torch.ones(2))),
        "view": torch.ones(4, 4)[:, 1:],
        "plain": (1, -(2**70), 0.5, -np.inf, "text", None, True, []),
    }
    torch.save(value, path)
    result = load_tensors(path, LIMIT)
    assert result["plain"] == value["plain"]
    assert list(result["state"]) == ["a"]
    pairs = list(zip(tensors_in(value), tensors_in(result), strict=True))
    assert len(pairs) == 9
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    check_archive(path)


def test_shared_values_are_counted_once_too_often(path: Path) -> None:
    shared = torch.ones(1000, 300)
    torch.save({"a": shared, "b": shared}, path)  # tied weights
    assert len(list(tensors_in(load_tensors(path, 8 * LIMIT)))) == 1
    torch.save([shared.view(-1)[i:] for i in range(9)], path)
    with pytest.raises(ValueError, match="larger than the file"):
        load_tensors(path, 8 * LIMIT)


@pytest.mark.parametrize("shape", [(40_000, 40_000), (2, 1)])
def test_forged_strides(path: Path, shape: tuple[int, int]) -> None:
    """A file of two kilobytes would become 6.4 GB where its values are written out."""
    torch.save({"prompt_embeddings": torch.ones(1).as_strided(shape, (0, 0))}, path)
    assert path.stat().st_size < 2000
    refused(path, "repeats")


def test_code(path: Path) -> None:
    made = path.with_name("made")
    torch.save({"a": Code(made)}, path)
    refused(path, "more than tensors")
    assert not made.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.",  # bytearray(10**10)
        b"\x80\x02ctorch\nTensor\n)\x81.",
        b"\x80\x02cos\nsystem\nU\x02id\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02ctorch._utils\n_rebuild_meta_tensor_no_storage\n.",
        b"\x80\x02" + b"0" * 9,
    ],
    ids=["bytearray", "new", "system", "stack", "meta", "pop"],
)
def test_pickles_of_other_things(path: Path, data: bytes) -> None:
    pickled(path, data)
    refused(path, "more than tensors|pickle is damaged")


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x02}", b"\x80\x02X\xff\xff\xff\x7fa.", b"nothing"], ids=repr)
def test_damaged_pickles(path: Path, data: bytes) -> None:
    pickled(path, data)
    refused(path, "pickle is damaged|more than tensors")


def test_pickle_that_refers_to_nothing(path: Path) -> None:
    pickled(path, b"\x80\x02h\x05.")
    with pytest.raises(ValueError, match="pickle is damaged"):
        load_tensors(path, LIMIT)


def test_program_of_torchscript(path: Path) -> None:
    torch.save(torch.ones(1), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("file/constants.pkl", b"\x80\x02).")
    refused(path, "other parts than tensors")


def test_compressed_archive(path: Path) -> None:
    """A million zeros take a kilobyte."""
    torch.save(torch.zeros(1_000_000), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in parts.items():
            archive.writestr(name, value)
    assert path.stat().st_size < 10_000
    refused(path, "compressed")


def test_sizes_that_the_archive_does_not_have(path: Path) -> None:
    torch.save(torch.ones(3), path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, 1 << 30, 1 << 30)
    path.write_bytes(data)
    refused(path, "archive is damaged")


def test_files_of_other_formats(path: Path) -> None:
    old = io.BytesIO()
    torch.save(torch.ones(3), old, _use_new_zipfile_serialization=False)
    for data in (b"", b"nonsense", old.getvalue(), pickle.dumps([1])):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"no archive of PyTorch 1\.6 or later"):
            load_tensors(path, LIMIT)
        check_archive(path)  # weights of old models are read by transformers


def test_large_file(path: Path) -> None:
    torch.save(torch.zeros(300_000), path)
    with pytest.raises(CorruptFileError, match="more than the"):
        load_tensors(path, LIMIT)


def test_every_cut_and_flip(path: Path) -> None:
    torch.save({"a": torch.arange(4.0), "b": [1, "x"]}, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 0x20
        for data in (whole[:place], bytes(changed)):
            path.write_bytes(data)
            try:
                value = load_tensors(path, LIMIT)
            except ValueError:
                continue
            # Bits that mean nothing, such as times of the archive's parts.
            assert torch.equal(value["a"], torch.arange(4.0))
            assert value["b"] == [1, "x"]
