from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats import tensors


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_round_trip(tmp_path: Path, dtype: type) -> None:
    rng = np.random.default_rng(0)
    arrays = {"u": rng.normal(size=9).astype(dtype), "m": rng.normal(size=(3, 4)).astype(dtype)}
    metadata = {"name": "ü \u2028 'x'", "labels": ["a", "ß"], "n": 3, "none": None, "map": {"b": 1.5}}
    file = tmp_path / "new" / "x.safetensors"
    tensors.write(file, arrays, metadata)
    found, text = tensors.parse(file.read_bytes(), "x")
    assert set(found) == {"u", "m"}
    for name, value in arrays.items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], value)
    assert text["name"] == metadata["name"]
    assert {key: json.loads(text[key]) for key in ("labels", "n", "none", "map")} == {
        key: metadata[key] for key in ("labels", "n", "none", "map")
    }


def test_writes_a_view_as_its_values(tmp_path: Path) -> None:
    value = np.arange(12, dtype=np.float32).reshape(3, 4).T[:, ::-1]
    tensors.write(tmp_path / "x", {"m": value}, {})
    found, _ = tensors.parse((tmp_path / "x").read_bytes(), "x")
    np.testing.assert_array_equal(found["m"], value)


def test_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    metadata = {letter: f"ü{letter}" for letter in "hgfedcba"}
    for number in range(8):
        tensors.write(
            tmp_path / str(number), {"u": np.ones(3, np.float16), "v": np.zeros((2, 2), np.float32)}, metadata
        )
    (data,) = {(tmp_path / str(number)).read_bytes() for number in range(8)}
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0  # so that tensors are aligned, as safetensors has them
    assert list(json.loads(data[8 : 8 + length])["__metadata__"]) == sorted([*metadata, "sha256"])
    loaded = load(data)
    assert loaded["u"].tolist() == [1, 1, 1]
    assert loaded["v"].shape == (2, 2)


def test_file_without_metadata() -> None:
    found, metadata = tensors.parse(save({"u": np.ones(2, np.float32)}), "x")
    assert list(found) == ["u"]
    assert metadata == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_value_that_is_not_finite(value: float, dtype: type) -> None:
    data = save({"good": np.ones(3, dtype), "u": np.array([1, value, 2], dtype)})
    with pytest.raises(CorruptFileError, match="here: tensor 'u' holds NaN or infinity"):
        tensors.parse(data, "here")


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int8, np.bool_, np.uint16])
def test_wrong_dtype(dtype: type) -> None:
    with pytest.raises(CorruptFileError, match=f"tensor 'u' is {np.dtype(dtype).name}; save it as float16"):
        tensors.parse(save({"u": np.ones(2, dtype)}), "here")


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "NONSENSE"])
def test_dtype_that_numpy_lacks(kind: str) -> None:
    size = 2 if kind == "F8_E4M3" else 4
    header = json.dumps({"u": {"dtype": kind, "shape": [2], "data_offsets": [0, size]}}).encode()
    with pytest.raises(CorruptFileError, match="here"):
        tensors.parse(len(header).to_bytes(8, "little") + header + bytes(size), "here")


def test_truncated_anywhere() -> None:
    data = save({"u": np.ones(3, np.float16)}, {"task": "x"})
    tensors.parse(data, "here")
    for length in range(len(data)):
        with pytest.raises(CorruptFileError, match="here is not a readable safetensors file"):
            tensors.parse(data[:length], "here")


def test_random_bytes() -> None:
    rng = np.random.default_rng(0)
    for length in [*range(1, 40), 4096]:
        with pytest.raises(CorruptFileError, match="not a readable"):
            tensors.parse(rng.bytes(length), "here")


def test_flipped_bytes_give_a_corrupt_file_error_or_parse() -> None:
    data = save({"u": np.ones(3, np.float16)}, {"task": "x"})
    refused = 0
    for place in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            try:
                tensors.parse(bytes(changed), "here")
            except CorruptFileError:
                refused += 1
    assert refused > len(data)  # most of the header's bytes matter


def test_fingerprint_is_over_type_shape_and_bytes() -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = hashlib.sha256(b"float32[2, 3]" + value.tobytes()).hexdigest()
    assert tensors.fingerprint(value) == expected
    assert tensors.fingerprint(np.asfortranarray(value)) == expected
    assert len({expected, tensors.fingerprint(value.T), tensors.fingerprint(value.astype(np.float16))}) == 3


def test_structured() -> None:
    assert tensors.structured({"a": '{"b": [1]}'}, "a", dict, "here") == {"b": [1]}
    assert tensors.structured({}, "a", list, "here") == []


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is not JSON"), ("[1]", "is not a JSON dict"), ("null", "not a JSON dict")]
)
def test_structured_that_is_not(text: str, says: str) -> None:
    with pytest.raises(CorruptFileError, match=f"here: metadata 'a' {says}" if says.startswith("is") else says):
        tensors.structured({"a": text}, "a", dict, "here")


def test_metadata_nested_too_deep() -> None:
    with pytest.raises(CorruptFileError, match="is not JSON"):
        tensors.structured({"a": "[" * 200_000}, "a", list, "here")


def test_every_byte_that_changes_is_noticed(tmp_path: Path) -> None:
    """Tensors, names, types and metadata; what is damaged may also be no file of its kind any more."""
    arrays = {"u": np.linspace(0, 1, 9, dtype=np.float16), "v": np.ones((2, 2), np.float32)}
    tensors.write(tmp_path / "x", arrays, {"name": "mood", "labels": ["good", "bad"]})
    data = (tmp_path / "x").read_bytes()
    tensors.parse(data, "x")
    for place in range(len(data)):
        for bit in (1, 64):
            damaged = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                tensors.parse(damaged, "x")
            except CorruptFileError:
                continue
            # Space behind the header says nothing, and of the hash's own name nothing can be told.
            length = 8 + int.from_bytes(data[:8], "little")
            assert damaged[place : place + 1].isspace() or b'"sha256"' not in damaged[:length], (place, bit)


def test_the_hash_is_that_of_the_documentation(tmp_path: Path) -> None:
    """As docs/bundle.md has it, for readers in other languages."""
    u = np.arange(3, dtype=np.float16)
    tensors.write(tmp_path / "x", {"u": u}, {"b": "ü", "a": [1, 2]})
    data = (tmp_path / "x").read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    one = hashlib.sha256(b"float16[3]" + u.tobytes()).hexdigest()
    assert metadata.pop("sha256") == hashlib.sha256('{"a":"[1,2]","b":"ü"}'.encode() + b"u" + one.encode()).hexdigest()


def test_a_file_without_its_hash_is_read(tmp_path: Path) -> None:
    """As files were once written."""
    data = save({"u": np.ones(2, np.float32)}, {"name": "mood"})
    assert tensors.parse(data, "x")[1] == {"name": "mood"}
