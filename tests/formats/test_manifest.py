"""The manifest: complete, read fail-closed, and of a version that this code knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
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


def test_edited_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    before = path.read_bytes()
    for old, new in (
        (b'"mean"', b'"cls"'),
        (b'"schema": 1', b'"schema": 1, "later": 2'),
        (b'"sha256": "', b'"sha256": "0'),
    ):
        assert old in before
        path.write_bytes(before.replace(old, new))
        with pytest.raises(
            CorruptFileError, match=r"is damaged or was edited \(its sha256 is not that of its entries\)"
        ):
            Bundle.open(folder)
    path.write_bytes(before.replace(b'"pooling"', b'"pooling": "cls", "pooling"'))
    with pytest.raises(CorruptFileError, match="is not a bundle manifest"):
        Bundle.open(folder)
    entries = json.loads(before)
    path.write_bytes(sealed(entries))  # in another layout, the same content is as good
    assert Bundle.open(folder).manifest.pooling == "mean"
    del entries["sha256"]
    path.write_text(json.dumps(entries), "utf-8")
    with pytest.raises(CorruptFileError, match="lacks the entry 'sha256'"):
        Bundle.open(folder)


def test_text_that_has_no_utf_8(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"made_by": "', b'"made_by": "\\ud800'))
    with pytest.raises(CorruptFileError, match="is not a bundle manifest"):
        Bundle.open(folder)


def test_digest_is_that_of_the_documented_entries(folder: Path) -> None:
    entries = json.loads((folder / MANIFEST).read_bytes())
    for name in ("changes", "retired", "releases", "sha256"):
        del entries[name]
    text = json.dumps(entries, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert Bundle.open(folder).digest == hashlib.sha256(text.encode()).hexdigest()


def test_digest_leaves_out_the_history(folder: Path, task_file: Callable[..., Path]) -> None:
    bundle = Bundle.open(folder)
    first = bundle.digest
    bundle.install_untested(task_file("topic", version=2))
    second = bundle.digest
    bundle.rollback("topic")
    assert bundle.digest == first
    bundle.rollback("topic")
    assert bundle.digest == second != first
    edit(folder, lambda m: m.update(pooling="cls"))
    assert Bundle.open(folder).digest not in {first, second}


@pytest.mark.parametrize(
    "releases",
    [None, [], {}, {"topic": 1}, {"topic": {"version": 0, "sha256": ""}}, {"topic": {"version": 2**31, "sha256": ""}}],
)
def test_releases_that_are_none(folder: Path, releases: object) -> None:
    edit(folder, lambda m: m.update(releases=releases))
    with pytest.raises(CorruptFileError, match="the entry 'releases' cannot be used"):
        Bundle.open(folder)
