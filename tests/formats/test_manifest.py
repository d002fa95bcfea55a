"""The manifest: complete, read fail-closed, and of a version that this code knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MANIFEST, MODEL, TOKENIZER
from mpt_edge.formats.manifest import SCHEMA, Manifest
from tests.support.bundles import PROMPT, TASK, edit, sealed


def test_manifest_lists_every_file(tiny_bundle: Path) -> None:
    bundle = Bundle.open(str(tiny_bundle))
    on_disk = {f.relative_to(tiny_bundle).as_posix() for f in tiny_bundle.rglob("*") if f.is_file()}
    assert {MODEL, TOKENIZER, PROMPT, TASK} <= set(bundle.manifest.files) <= on_disk
    assert bundle.task_names == ["same", "sentiment", "topic"]
    for name in bundle.manifest.files:
        assert bundle.verify(name) == tiny_bundle / name


def test_manifest_round_trip(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert Manifest.parse(manifest.to_json().encode(), Path("x")) == manifest
    assert json.loads(manifest.to_json())["schema"] == SCHEMA


@pytest.mark.parametrize(
    "path", ["../x", "tasks/../../x", "/etc/passwd", "tasks//x", "a\\..\\x", "C:/x", ".hidden", ""]
)
def test_path_that_is_not_allowed(folder: Path, path: str) -> None:
    edit(folder, lambda m: m["files"].update({path: {"sha256": "0" * 64, "size": 1}}))
    with pytest.raises(CorruptFileError, match="which is not allowed"):
        Bundle.open(folder)


def test_manifest_of_a_newer_schema(folder: Path) -> None:
    edit(folder, lambda m: m.update(schema=SCHEMA + 1))
    with pytest.raises(CorruptFileError, match=rf"newer mpt-edge \(schema {SCHEMA + 1}[,;] .* upgrade"):
        Bundle.open(folder)


def test_manifest_with_foundof_later_releases(folder: Path) -> None:
    edit(folder, lambda m: m.update(later={"a": 1}))
    assert Bundle.open(folder).task_names


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"{", b"\xff\xfe", b'{"schema": 1', b"[" * 200_000])
def test_no_manifest(folder: Path, data: bytes) -> None:
    (folder / MANIFEST).write_bytes(data)
    with pytest.raises(CorruptFileError, match="is not a bundle manifest"):
        Bundle.open(folder)


@pytest.mark.parametrize("schema", ["1", None, 1.5, [1], True, 0, -1])
def test_schema_that_is_no_number(folder: Path, schema: object) -> None:
    edit(folder, lambda m: m.update(schema=schema))
    with pytest.raises(CorruptFileError):
        Bundle.open(folder)


@pytest.mark.parametrize("entry", sorted({*Manifest.__dataclass_fields__, "layout", "prompt_position"} - {"placement"}))
def test_manifest_without_an_entry(folder: Path, entry: str) -> None:
    edit(folder, lambda m: m.pop(entry))
    with pytest.raises(CorruptFileError, match=f"lacks the entry '{entry}'"):
        Bundle.open(folder)


@pytest.mark.parametrize("entry", ["backbone", "prompts", "parity", "files"])
def test_entry_that_is_no_object(folder: Path, entry: str) -> None:
    edit(folder, lambda m: m.update({entry: [1]}))
    with pytest.raises(CorruptFileError, match=f"the entry '{entry}' cannot be used"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("name", 3),
        ("family", "diffusion"),
        ("head_type", ["similarity"]),
        ("layout", "sideways"),
        ("prompt_position", "elsewhere"),
        ("prompt_position", None),
        ("pooling", "median"),
        ("pooling", None),
        ("token_types", "yes"),
        ("token_types", 1),
        ("generation", {"eos_ids": [2], "vocabulary": 100, "context": 48, "positions_from_zero": True}),
        ("hidden_size", "32"),
        ("layers", 0),
        ("heads", -1),
        ("head_size", 8.0),
        ("max_length", True),
        ("pad_id", None),
        ("pad_id", 10**30),
        ("max_length", 10**30),
        ("mask", {"id": 10**30, "token": "[MASK]"}),
        ("tokenizer", None),
        ("prompts", {"mpt": {"fingerprint": "0"}}),
        ("prompts", {"mpt": None}),
    ],
)
def test_entry_of_the_wrong_type_or_value(folder: Path, entry: str, value: object) -> None:
    edit(folder, lambda m: m.update({entry: value}))
    with pytest.raises(CorruptFileError, match=f"the entry '{entry}' cannot be used"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("family", "entries"),
    [
        ("causal", {"eos_ids": ["</s>"]}),
        ("causal", {"eos_ids": [-1]}),
        ("causal", {"context": 0}),
        ("causal", {"vocabulary": None}),
        ("seq2seq", {}),  # without a start token
    ],
)
def test_generation_entries(writer_bundle: Path, family: str, entries: dict[str, object]) -> None:
    found = json.loads((writer_bundle / MANIFEST).read_bytes())
    changed = found | {"family": family, "generation": found["generation"] | entries}
    with pytest.raises(CorruptFileError, match="the entry 'generation' cannot be used"):
        Manifest.parse(sealed(changed), Path("x"))


@pytest.mark.parametrize("value", [3, None, {}, {"size": 3}, {"sha256": "0" * 64}, {"sha256": 1, "size": 3}])
def test_file_entry_that_is_malformed(folder: Path, value: object) -> None:
    edit(folder, lambda m: m["files"].update({TASK: value}))
    with pytest.raises(CorruptFileError, match="the entry 'files' cannot be used"):
        Bundle.open(folder)


def test_manifest_is_immutable_to_others(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert replace(manifest, name="other").name == "other"
    with pytest.raises(AttributeError):
        manifest.name = "other"  # type: ignore[misc]
