"""Heads rebuilt from adapters and base models; the tests of imports compare their logits with PEFT's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.formats.prompts import compose
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge_export.peft import ImportOptions, import_adapter, read_adapter
from tests.support import adapters
from tests.support.adapters import VIRTUAL

TOLERANCE = 1e-4
TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom", "good bad great cell star law"]


@pytest.mark.parametrize("kind", ["camembert", "xlm-roberta"])
@torch.no_grad()
def test_heads_of_models_like_roberta(tmp_path: Path, kind: str) -> None:
    """They run RoBERTa's code, so no graph is exported: the head on our PyTorch states gives PEFT's logits."""
    base = adapters.save_base(kind, tmp_path / f"tiny-{kind}")
    backbone = load_encoder(str(base))
    peft = adapters.make_adapter(base, "SEQ_CLS", tmp_path / "adapter")
    imported = import_adapter(read_adapter(str(tmp_path / "adapter")), backbone, ImportOptions(tasks={"x": 2}))
    shared, task = imported.prompt, imported.tasks[0]
    assert shared is not None
    assert shared.head is not None
    prompt = torch.from_numpy(compose(shared.values, task.u, task.v))[None]
    for row in backbone.texts.encode(TEXTS, 40):
        ids = torch.tensor([row.ids])
        keys = torch.ones(1, VIRTUAL + ids.shape[1], dtype=torch.long)
        hidden, _ = backbone.model(ids, keys, None, prompt=prompt, position=shared.placement.position)
        logits = peft(ids, torch.ones_like(ids), task_ids=torch.tensor([2])).logits[0].numpy()
        np.testing.assert_allclose(shared.head(hidden[0, 0].numpy()), logits, atol=TOLERANCE, rtol=0)


def test_head_that_was_not_saved(bert: EncoderBackbone, adapter: Path) -> None:
    with pytest.raises(CorruptFileError, match="lacks the trained 'classifier' of its SEQ_CLS head"):
        import_adapter(replace(read_adapter(str(adapter)), modules={}), bert)
    read = read_adapter(str(adapter))
    cut = {**read.modules, "classifier.bias": read.modules["classifier.bias"][:2]}
    with pytest.raises(CorruptFileError, match="lacks the trained 'classifier' of its SEQ_CLS head"):
        import_adapter(replace(read, modules=cut), bert)


def test_other_modules_that_were_trained(bert: EncoderBackbone, adapter: Path) -> None:
    read = read_adapter(str(adapter))
    more = {**read.modules, "bert.encoder.layer.0.output.dense.weight": np.ones((2, 2), np.float32)}
    with pytest.raises(UnsupportedModelError, match=r"also changes 'bert\.encoder.* which stays frozen here"):
        import_adapter(replace(read, modules=more), bert)


def test_base_model_without_a_pooler(adapter: Path, tmp_path: Path) -> None:
    """PEFT then uses a random pooler, which it does not save."""
    folder = adapters.save_base("bert", tmp_path / "tiny-bert")
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(UnsupportedModelError, match="has no pooler, so PEFT gave the classifier a random one"):
        import_adapter(read_adapter(str(adapter)), load_encoder(str(folder)))


def test_model_type_without_known_heads(bert: EncoderBackbone, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert.model.model.config, "model_type", "modernbert", raising=False)
    with pytest.raises(UnsupportedModelError, match="the heads of modernbert models cannot be imported; those of bert"):
        import_adapter(read_adapter(str(adapter)), bert)
