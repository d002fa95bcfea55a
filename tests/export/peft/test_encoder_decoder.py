"""Imported prompts of T5: logits and tokens of the exported graphs against PEFT's own `generate`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

import mpt_edge
from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import compose
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, export_adapter, import_adapter, read_adapter
from mpt_edge_export.peft.command import import_command
from tests.support import adapters
from tests.support.adapters import VIRTUAL

NEW = 9
JOINT = Placement(Layout.JOINT, PromptPosition.FIRST_LAYER)
TEXTS = ["a witty film", "the gorgeous ball game was a dull vote", "atom"]

#: Options of each adapter, and the task id to run.
ADAPTERS = {
    "many": ({"multitask": True, "num_transformer_submodules": 1, "num_ranks": 2}, 2),
    "halves": ({"multitask": True}, 1),
    "plain": ({"multitask": False}, None),
}


@dataclass(frozen=True)
class Imports:
    """One base model with three adapters, imported into one bundle."""

    backbone: GenerativeBackbone
    models: dict[str, PeftModel]
    root: Path

    @property
    def bundle(self) -> Bundle:
        return Bundle.open(self.root / "bundle")

    def task(self, name: str) -> str:
        index = ADAPTERS[name][1]
        return name if index is None else f"{name}-{index}"


@pytest.fixture(scope="module", params=adapters.SEQ2SEQ)
def imports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imports:
    root = tmp_path_factory.mktemp("imports")
    base = adapters.save_base(request.param, root / f"tiny-{request.param}")
    backbone = open_backbone(str(base))
    assert isinstance(backbone, GenerativeBackbone)
    models = {}
    for name, (options, _) in ADAPTERS.items():
        # In float64: these logits are so large that rounding in float32 alone takes half of the tolerance of 1e-4.
        models[name] = adapters.make_adapter(base, "SEQ_2_SEQ_LM", root / name, **options).double()
        imported = import_adapter(read_adapter(str(root / name)), backbone, ImportOptions(max_new_tokens=NEW))
        warnings = " ".join(imported.warnings)
        assert ("5 further virtual tokens for the decoder's input" in warnings) is (name != "many")
        imported.save(root / "vectors")
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return Imports(backbone, models, root)


def generated(model: PeftModel, ids: list[int], index: int | None, **options: bool) -> tuple[list[int], np.ndarray]:
    """Return PEFT's greedy tokens and the logits of each."""
    given = torch.tensor([ids])
    tasks = {} if index is None else {"task_ids": torch.tensor([index])}
    with torch.no_grad():
        output = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **tasks,
            **options,
        )
    return output.sequences[0, 1:].tolist(), torch.stack(output.logits)[:, 0].numpy()


def ours(imports: Imports, bundle: Bundle, task: str) -> tuple[list[list[int]], np.ndarray]:
    """Search greedily over the exported graphs, all texts in one batch, and return tokens and logits."""
    file = bundle.task(task)
    shared = file.own_prompt or bundle.prompt(file.prompt)
    session = OnnxSeq2Seq(*bundle.graphs(), bundle.manifest, SessionOptions(threads=1))
    batch = imports.backbone.texts.pad(imports.backbone.texts.encode(TEXTS, 30))
    cache = session.encode_prompt(compose(shared.values, file.u, file.v), shared.placement.layout)
    state, logits = session.open(batch, [cache])
    steps = [logits]
    while len(steps) < NEW:
        tokens = steps[-1].argmax(-1)[:, None]
        steps.append(state.extend(tokens, np.ones_like(tokens))[:, 0])
    stacked = np.stack(steps, axis=1)
    return stacked.argmax(-1).tolist(), stacked


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_and_tokens_are_pefts(imports: Imports, name: str) -> None:
    """The decoder half that PEFT saved with two of the three adapters has no effect in either."""
    tokens, logits = ours(imports, imports.bundle, imports.task(name))
    for row, encoded in enumerate(imports.backbone.texts.encode(TEXTS, 30)):
        expected, theirs = generated(imports.models[name], encoded.ids, ADAPTERS[name][1])
        assert tokens[row] == expected
        assert np.abs(logits[row] - theirs).max() < 1e-4
        assert generated(imports.models[name], encoded.ids, ADAPTERS[name][1], use_cache=False)[0] == expected
    assert len({str(ours(imports, imports.bundle, imports.task(other))[0]) for other in ADAPTERS}) == len(ADAPTERS)


def test_texts_are_pefts(imports: Imports) -> None:
    """A user gets PEFT's tokens as text."""
    task = mpt_edge.load(imports.root / "bundle", threads=1).task("halves-1")
    tokenizer = AutoTokenizer.from_pretrained(imports.backbone.folder)
    for text, answer in zip(TEXTS, task(TEXTS), strict=True):
        ids = imports.backbone.texts.encode([text], 30)[0].ids
        tokens, _ = generated(imports.models["halves"], ids, 1)
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_files(imports: Imports) -> None:
    bundle = imports.bundle
    assert (bundle.manifest.family, bundle.manifest.placement) == (Family.SEQ2SEQ, JOINT)
    adapter = read_adapter(str(imports.root / "halves"))
    assert np.array_equal(bundle.prompt("halves").values, adapter.prompt[:VIRTUAL])
    assert bundle.prompt("halves").placement == JOINT
    for index in range(3):
        task = bundle.task(f"halves-{index}")
        u, v = adapter.vectors(index)
        assert np.array_equal(task.u, u)
        assert np.array_equal(task.v, v)
    own = bundle.task("plain").own_prompt
    assert own is not None
    assert own.placement == JOINT


@pytest.mark.parametrize("fold", [False, True], ids=["multitask", "folded"])
def test_back_to_peft(imports: Imports, tmp_path: Path, fold: bool) -> None:
    """PEFT generates from our export what it generated before, and the tensors are those it saved."""
    assert export_adapter(imports.bundle, ["many-2"], tmp_path / "back", fold=fold) == []
    base = adapters.MODELS["SEQ_2_SEQ_LM"].from_pretrained(imports.backbone.folder)
    back = PeftModel.from_pretrained(base, tmp_path / "back").eval()
    row = imports.backbone.texts.encode(TEXTS[:1], 30)[0].ids
    assert generated(back, row, None if fold else 0)[0] == generated(imports.models["many"], row, 2)[0]
    read, saved = read_adapter(str(tmp_path / "back")), read_adapter(str(imports.root / "many"))
    if not fold:
        assert read.prompt.tobytes() == saved.prompt.tobytes()
        assert read.cols.tobytes() == saved.cols[2:].tobytes()
        assert read.rows.tobytes() == saved.rows[2:].tobytes()


def test_prompt_that_caikit_folded(imports: Imports, tmp_path: Path) -> None:
    """Of both halves that caikit writes, the encoder's is used; the decoder's is reported and left out."""
    encoder = imports.models["halves"].prompt_encoder["default"]
    with torch.no_grad():
        rows = encoder(torch.arange(2 * VIRTUAL)[None], torch.tensor([0]))[0]
    (tmp_path / "prompt").mkdir()
    torch.save(rows[:VIRTUAL].clone(), tmp_path / "prompt/encoder.pt")
    torch.save(rows[VIRTUAL:].clone(), tmp_path / "prompt/decoder.pt")
    bundle = shutil.copytree(imports.root / "bundle", tmp_path / "bundle")
    options = ImportOptions(tasks={"folded": 0}, max_length=30)
    imported = import_command(str(tmp_path / "prompt"), str(imports.backbone.folder), bundle, options)
    assert "further virtual tokens for the decoder's input" in imported.warnings[0]
    tokens, _ = ours(imports, Bundle.open(bundle), "folded")
    row = imports.backbone.texts.encode(TEXTS[:1], 30)[0].ids
    assert tokens[0] == generated(imports.models["halves"], row, 0)[0]


def test_prefix_prompts_stay_here(imports: Imports, tmp_path: Path) -> None:
    """T5's encoder supports both layouts, so a prompt that was trained in the prefix layout is not PEFT's."""
    bundle = Bundle.open(shutil.copytree(imports.root / "bundle", tmp_path / "bundle"))
    plain = bundle.task("plain")
    assert plain.own_prompt is not None
    own = replace(plain.own_prompt, placement=replace(JOINT, layout=Layout.PREFIX))
    replace(plain, name="ours", own_prompt=own).save(tmp_path / "ours.safetensors")
    bundle.install_untested(tmp_path / "ours.safetensors")
    with pytest.raises(UnsupportedModelError, match="trained in the prefix layout"):
        export_adapter(bundle, ["ours"], tmp_path / "back")
