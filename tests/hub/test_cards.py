"""Cards for repositories that have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from mpt_edge.formats.bundle import Bundle
from mpt_edge.hub.cards import make_card
from mpt_edge.hub.repositories import Repository


def test_card(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    task = replace(bundle.task("topic"), license="CC | <b>\n# mine")
    _, head, text = make_card(Repository("owner/name"), bundle.manifest, [task]).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "mpt-edge",
        "base_model": bundle.manifest.backbone["id"],
        "license": "other",
        "tags": ["multitask-prompt-tuning", "onnx"],
    }
    assert "\n# owner/name\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| topic")]
    assert rows[0].count("|") == 6  # what the license says is text
    assert "<b>" not in text
