"""Safetensors files: equal content, equal bytes, and every change noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import tensors


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_round_trip(tmp_path: Path, dtype: type) -> None:
    rng = np.random.default_rng(0)
    arrays = {"u": rng.normal(size=9).astype(dtype), "m": rng.normal(size=(3, 4)).astype(dtype)}
    metadata = {"name": "ü \u2028 'x'", "labels": ["a", "ß"], "n": 3, "none": None, "map": {"b": 1.5}}
    file = tmp_path / "new" / "x.safetensors"
    tensors.write(file, arrays, metadata)
    result, text = tensors.parse(file.read_bytes(), "x")
    assert set(result) == {"u", "m"}
    for name, value in arrays.items():
        assert result[name].dtype == dtype
        np.testing.assert_array_equal(result[name], value)
    assert text["name"] == metadata["name"]
    assert {key: json.loads(text[key]) for key in ("labels", "n", "map")} == {
        key: metadata[key] for key in ("labels", "n", "map")
    }
    assert "none" not in text


def test_writes_a_view_as_its_values(tmp_path: Path) -> None:
    value = np.arange(12, dtype=np.float32).reshape(3, 4).T[:, ::-1]
    tensors.write(tmp_path / "x", {"m": value}, {})
    result, _ = tensors.parse((tmp_path / "x").read_bytes(), "x")
    np.testing.assert_array_equal(result["m"], value)


def test_numbers_without_axes_are_written(tmp_path: Path) -> None:
    tensors.write(tmp_path / "x", {"n": np.array(2, np.float32)}, {})
    result, _ = tensors.parse((tmp_path / "x").read_bytes(), "x")
    assert (result["n"].shape, float(result["n"])) == ((), 2)


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


def test_file_without_metadata(tmp_path: Path) -> None:
    tensors.write(tmp_path / "x", {"u": np.ones(2, np.float32)}, {})
    result, metadata = tensors.parse((tmp_path / "x").read_bytes(), "x")
    assert list(result) == ["u"]
    assert list(metadata) == ["sha256"]


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


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_wrong_dtype_is_not_written(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(InputError, match=f"tensor 'u' is {np.dtype(dtype).name}; save it as float16 or float32"):
        tensors.write(tmp_path / "x", {"u": np.ones(2, dtype)}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "NONSENSE"])
def test_dtype_that_numpy_lacks(kind: str) -> None:
    size = 2 if kind == "F8_E4M3" else 4
    header = json.dumps({"u": {"dtype": kind, "shape": [2], "data_offsets": [0, size]}}).encode()
    with pytest.raises(CorruptFileError, match="here"):
        tensors.parse(len(header).to_bytes(8, "little") + header + bytes(size), "here")


def test_truncated_anywhere(tmp_path: Path) -> None:
    tensors.write(tmp_path / "x", {"u": np.ones(3, np.float16)}, {"task": "x"})
    data = (tmp_path / "x").read_bytes()
    tensors.parse(data, "here")
    for length in range(len(data)):
        with pytest.raises(CorruptFileError, match="here is not a readable safetensors file"):
            tensors.parse(data[:length], "here")


def test_random_bytes() -> None:
    rng = np.random.default_rng(0)
    for length in [*range(1, 40), 4096]:
        with pytest.raises(CorruptFileError, match="not a readable"):
            tensors.parse(rng.bytes(length), "here")


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


@pytest.mark.parametrize("flip", [0x01, 0x40, 0x80, 0xFF], ids=hex)
def test_every_byte_that_changes_is_noticed(tmp_path: Path, flip: int) -> None:
    """In tensors, names, types, metadata, hash, and in the padding after the header."""
    arrays = {"u": np.linspace(0, 1, 9, dtype=np.float16), "v": np.ones((2, 2), np.float32)}
    tensors.write(tmp_path / "x", arrays, {"name": "mood", "labels": ["good", "bad"]})
    data = (tmp_path / "x").read_bytes()
    tensors.parse(data, "x")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= flip
        with pytest.raises(CorruptFileError):
            tensors.parse(bytes(damaged), "x")


def with_header(data: bytes, header: str) -> bytes:
    """Return a file with another header."""
    return len(header.encode()).to_bytes(8, "little") + header.encode() + data[8 + int.from_bytes(data[:8], "little") :]


SAME_MEANING = {
    "an entry twice": ('"name":', '"name":"other","name":'),
    "a space": ('"name":', '"name": '),
    "an escape": ("mood", "\\u006dood"),
    "a tensor twice": ('"u":', '"u":{"dtype":"F16","shape":[9],"data_offsets":[16,34]},"u":'),
    "metadata twice": ('"u":', '"__metadata__":{"name":"other"},"u":'),
    "more padding": ("}}", "}}        "),
}


@pytest.mark.parametrize("change", SAME_MEANING.values(), ids=SAME_MEANING)
def test_same_content_in_other_bytes_is_refused(change: tuple[str, str]) -> None:
    data = tensors.serialize({"u": np.ones(9, np.float16), "v": np.ones((2, 2), np.float32)}, {"name": "mood"})
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
    assert tensors.parse(with_header(data, header), "x")
    assert header.count(change[0]) == 1
    with pytest.raises(CorruptFileError):
        tensors.parse(with_header(data, header.replace(*change)), "x")


def test_other_order_of_tensors_is_refused() -> None:
    arrays = {name: np.full(2, value, np.float16) for name, value in (("u", 1), ("v", 2))}
    data = tensors.serialize(arrays, {})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header["u"]["data_offsets"], header["v"]["data_offsets"] = [4, 8], [0, 4]
    swapped = with_header(data[:-8] + data[-4:] + data[-8:-4], json.dumps(header, separators=(",", ":")))
    assert {name: value.tolist() for name, value in load(swapped).items()} == {"u": [1, 1], "v": [2, 2]}
    with pytest.raises(CorruptFileError, match="x is not laid out as mpt-edge writes it"):
        tensors.parse(swapped, "x")


def test_name_that_swallows_another_tensor_and_its_hash() -> None:
    """A tensor of such a name has the content hash of two tensors."""
    u, v = np.ones(2, np.float16), np.zeros(2, np.float16)
    both, one = {"u": u, "v": v}, {f"u{tensors.fingerprint(u)}v": v}
    hashes = {tensors.parse(tensors.serialize(both, {}), "x")[1]["sha256"]}
    data = tensors.serialize(one, {})
    hashes.add(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["sha256"])
    assert len(hashes) == 1
    with pytest.raises(CorruptFileError, match="x is not laid out as mpt-edge writes it"):
        tensors.parse(data, "x")


def test_what_was_read_is_written_alike() -> None:
    data = tensors.serialize({"v": np.ones(3, np.float16), "m": np.eye(3, dtype=np.float32)}, {"b": "ü", "a": "[1]"})
    assert tensors.serialize(*tensors.parse(data, "x")) == data


def test_signature_is_not_in_the_hash() -> None:
    arrays = {"u": np.ones(2, np.float16)}
    parsed = [tensors.parse(tensors.serialize(arrays, entries), "x")[1] for entries in ({}, {"signature": "s"})]
    assert parsed[0]["sha256"] == parsed[1]["sha256"]
    assert parsed[1]["signature"] == "s"


def test_the_hash_is_that_of_the_documentation(tmp_path: Path) -> None:
    """As docs/bundle.md has it, for readers in other languages."""
    u = np.arange(3, dtype=np.float16)
    tensors.write(tmp_path / "x", {"u": u}, {"b": "ü", "a": [1, 2]})
    data = (tmp_path / "x").read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    one = hashlib.sha256(b"float16[3]" + u.tobytes()).hexdigest()
    assert metadata.pop("sha256") == hashlib.sha256('{"a":"[1,2]","b":"ü"}'.encode() + b"u" + one.encode()).hexdigest()


def test_a_file_without_its_hash_is_refused() -> None:
    data = save({"u": np.ones(2, np.float32)}, {"name": "mood"})
    with pytest.raises(CorruptFileError, match="x is damaged: it is not what was written"):
        tensors.parse(data, "x")


@pytest.mark.parametrize(("text", "kind", "expected"), [("3", int, 3), ("2.5", float, 2.5)])
def test_number(text: str, kind: type, expected: float) -> None:
    assert tensors.number({"a": text}, "a", kind, "here") == expected


@pytest.mark.parametrize("metadata", [{}, {"a": "many"}, {"a": "2.5"}])
def test_number_that_is_none(metadata: dict[str, str]) -> None:
    with pytest.raises(CorruptFileError, match="here: metadata 'a' is missing or no number"):
        tensors.number(metadata, "a", int, "here")
