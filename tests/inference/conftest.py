"""The unchanged small encoder, as a reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertModel


@pytest.fixture(scope="session")
def bert(tiny_folder: Path) -> BertModel:
    """Return transformers' own model of the small backbone."""
    return BertModel.from_pretrained(tiny_folder, attn_implementation="eager").eval()
