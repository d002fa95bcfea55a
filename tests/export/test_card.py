"""The bundle's card: one row a task, from the facts in its file."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge_export.card import write_card


def test_card_lists_every_task(tiny_bundle: Path, vectors: Path) -> None:
    path = vectors / "tasks/topic.safetensors"
    metrics = {"test": {"accuracy": 0.912, "macro_f1": 0.9, "examples": 500}}
    metrics |= {"linear_probe": {"test": {"accuracy": 0.9}}, "lora": {"test": {"accuracy": 0.92}}}
    license, source = "CC-BY-4.0", {"source": "a made-up set"}
    replace(TaskFile.load(path), metrics=metrics, license=license, training=source).save(path)
    other = vectors / "tasks/sentiment.safetensors"
    replace(TaskFile.load(other), metrics={"test": {"accuracy": 0.5}}).save(other)
    write_card(vectors, Bundle.open(tiny_bundle).manifest, VectorFolder(vectors).tasks())
    card = (vectors / "README.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| ")]
    by_name = {row[0]: row for row in rows}
    assert by_name["task"][2:6] == ["ours", "linear probe", "LoRA", "test examples"]
    assert {"sentiment", "topic", "same"} <= set(by_name)
    assert by_name["topic"][1:] == ["3", "91.2", "90.0", "92.0", "500", f"{path.stat().st_size:,}", license]
    assert by_name["same"][1:6] == ["2", "-", "-", "-", "-"]
    assert by_name["same"][7] == "-"
    assert by_name["sentiment"][2:6] == ["50.0", "-", "-", "-"]
    assert "- topic: a made-up set" in card
    assert "The linear probe is" in card
    assert "LoRA has r = 8" in card
    assert "Zero shot" not in card
    assert "base_model: tiny-bert" in card
    assert "Attention layout: prefix. Prompt position: first_layer. l = 6" in card


def test_card_is_part_of_a_bundle(tiny_bundle: Path) -> None:
    assert "| topic | 3 |" in (tiny_bundle / "README.md").read_text()
    assert "README.md" in Bundle.open(tiny_bundle).manifest.files


def test_hostile_values_are_shown(tiny_bundle: Path, vectors: Path) -> None:
    """A task's license, source and metrics, and a backbone's id, write no headings, HTML, or front matter."""
    bad = "x\n---\n# owned | <script>alert(1)</script> [a](b) \x1b[31m"
    path = vectors / "tasks/topic.safetensors"
    metrics = {"test": {"<b>owned</b>": 0.5}}
    replace(TaskFile.load(path), metrics=metrics, license=bad, training={"source": bad}).save(path)
    manifest = replace(Bundle.open(tiny_bundle).manifest, name=bad, backbone={"id": bad, "license": bad})
    write_card(vectors, manifest, VectorFolder(vectors).tasks())
    _, matter, body = (vectors / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(matter)["base_model"] == bad
    page = MarkdownIt("commonmark").enable("table").render(body)
    expected = {"h1", "p", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"<(\w+)", page)) == expected
    shown = html.unescape(re.sub("<[^>]*>", "", page))
    assert shown.count("x\\n---\\n# owned | <script>alert(1)</script> [a](b) \\x1b[31m") == 5
    assert "<b>owned</b> 50.0" in shown
    assert page.count("<h1>") == 1
