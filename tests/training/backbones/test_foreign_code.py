"""Models that bring code: refused before transformers sees them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.foreign_code import refuse_code
from mpt_edge.training.backbones.opening import open_backbone
from tests.support.checkpoints import assert_one_sentence

ROOT = Path(__file__).parents[3]

MAP = {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoTokenizer": ["code.T", None]}}

CODE = "import pathlib; pathlib.Path(__file__).with_name('made').mkdir()\n"


@pytest.fixture
def hostile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model with code beside it, and say yes to whoever asks."""
    (folder / "code.py").write_text(CODE)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "config.9.0.json"])
@pytest.mark.parametrize("escaped", [False, True])
def test_code_of_a_configuration(hostile: Path, name: str, escaped: bool) -> None:
    path = hostile / name
    entries = json.loads(path.read_text()) if path.is_file() else {}
    text = json.dumps(entries | {"inner": [{"x": MAP}]} if escaped else entries | MAP)
    path.write_text(text.replace("auto_map", "auto\\u005fmap") if escaped else text)
    with pytest.raises(UnsupportedModelError) as caught:
        open_backbone(str(hostile))
    assert_one_sentence(caught.value, name, "'auto_map'", "which is never run")
    assert not (hostile / "made").exists()


def test_code_of_an_unknown_architecture(hostile: Path) -> None:
    (hostile / "config.json").write_text(json.dumps(MAP | {"model_type": "own"}))
    with pytest.raises(UnsupportedModelError, match="never run"):
        open_backbone(str(hostile))
    assert not (hostile / "made").exists()


@pytest.mark.parametrize("kind", ["code.Transformer", "Transformer", "sentence_transformers_x.models.Transformer"])
def test_code_of_a_module(hostile: Path, kind: str) -> None:
    (hostile / "modules.json").write_text(json.dumps([{"idx": 0, "path": "", "type": kind}]))
    with pytest.raises(UnsupportedModelError) as caught:
        open_backbone(str(hostile))
    assert_one_sentence(caught.value, "modules.json", repr(kind))


def test_adapter_beside_a_model(hostile: Path) -> None:
    """transformers would load the model that it names."""
    (hostile / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/other"}))
    with pytest.raises(UnsupportedModelError) as caught:
        open_backbone(str(hostile))
    assert_one_sentence(caught.value, "pass the folder of its base model", "mpt-edge import peft")


def test_models_without_code(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"auto_map": 1}')
    (folder / "config_old.json").write_text('{"auto_map": {}}')
    (folder / "broken.json").write_text("[" * 100_000)
    refuse_code(folder)


def test_transformers_is_always_told() -> None:
    files = [path for name in ("mpt_edge", "export") for path in (ROOT / name).rglob("*.py")]
    calls = [
        {each.arg: ast.unparse(each.value) for each in node.keywords}
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained")
    ]
    assert len(calls) >= 6
    assert all(keywords.get("trust_remote_code") == "False" for keywords in calls)
