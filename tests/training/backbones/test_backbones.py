"""Finding and checking backbones, and what goes into their fingerprint."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BloomConfig,
    GPT2Config,
    LlamaForSequenceClassification,
    LlamaModel,
    OPTConfig,
    PreTrainedModel,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from mpt_edge.errors import CorruptFileError, InputError, MissingExtraError, UnsupportedModelError
from mpt_edge.training.backbones import sources
from mpt_edge.training.backbones.encoder import ARCHITECTURES
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from mpt_edge.training.backbones.opening import AnyBackbone, open_backbone
from tests.support.causal import CONFIGS as WRITERS
from tests.support.encoders import save_tokenizer
from tests.support.prompted import CONFIGS as ENCODERS
from tests.support.seq2seq import KINDS

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network\nand several lines")

    monkeypatch.setattr(sources, "snapshot_download", fail)


def one_sentence(error: Exception, *parts: str) -> None:
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)


def test_facts_of_a_local_folder(tiny: EncoderBackbone, tiny_folder: Path) -> None:
    assert (tiny.name, tiny.id, tiny.revision, tiny.license) == ("tiny-bert", "tiny-bert", "", "")
    assert (tiny.folder, tiny.pad_id, tiny.pooling, tiny.max_length) == (tiny_folder, 0, "mean", 48)
    assert tiny.tokenizer_json == (tiny_folder / "tokenizer.json").read_bytes()
    assert not any(p.requires_grad for p in tiny.model.parameters())


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["nobody/nothing", "minilm"])
def test_unknown_name_without_a_network(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_encoder(name)
    one_sentence(caught.value, repr(name), "minilm-l6", "folder")


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "../nowhere"])
def test_name_that_the_hub_would_not_allow(name: str) -> None:
    # The hub's own check refuses these before any request is sent.
    with pytest.raises(InputError) as caught:
        load_encoder(name)
    one_sentence(caught.value, repr(name))


@pytest.mark.parametrize("load", [load_encoder, open_backbone])
def test_hub_is_asked_once_and_gives_id_and_revision(
    load: Callable[[str, str], AnyBackbone], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = folder.rename(folder.with_name("c0ffee"))
    asked: list[tuple[str, str | None]] = []

    def give(source: str, revision: str | None, **_: object) -> str:
        asked.append((source, revision))
        return str(snapshot)

    (snapshot / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# Model\nlicense: none\n")
    monkeypatch.setattr(sources, "snapshot_download", give)
    found = load("someone/tiny", "main")
    assert asked == [("someone/tiny", "main")]
    assert (type(found), found.family) == (EncoderBackbone, "encoder")
    assert (found.name, found.id, found.revision, found.license) == ("tiny", "someone/tiny", "c0ffee", "mit")


def test_license_only_from_front_matter(folder: Path) -> None:
    (folder / "README.md").write_text("# Model\n---\nlicense: mit\n---\n")
    assert load_encoder(str(folder)).license == ""


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, str(folder), "config.json", "bert")


def test_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(UnsupportedModelError, match=r"config\.json"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("entries", "error", "says"),
    [
        (
            {"hidden_act": "bogus"},
            UnsupportedModelError,
            "cannot make the model that .* describes .KeyError: 'bogus'.;",
        ),
        ({"hidden_size": 999}, CorruptFileError, "describes no model .*999.* is not a multiple of"),
        ({"hidden_size": 64}, CorruptFileError, "have another shape than its config.json states"),
        ({"num_attention_heads": 0}, CorruptFileError, "describes no model .ZeroDivisionError"),
        ({"num_hidden_layers": "x"}, CorruptFileError, "describes no model .*expected int"),
        ({"num_hidden_layers": 0}, CorruptFileError, "describes no layers; download the model again"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, UnsupportedModelError, "is quantized, and"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, UnsupportedModelError, "of type 'dynamic', which"),
        (
            {"rope_scaling": {"rope_type": "bogus", "factor": 2.0}},
            UnsupportedModelError,
            "describes .KeyError: 'bogus'",
        ),
    ],
    ids=str,
)
def test_one_changed_entry_of_a_configuration(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    entries: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    AutoModelForCausalLM.from_config(WRITERS["llama"]).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if "rope_scaling" in entries:
        del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config | entries))
    capfd.readouterr()
    with pytest.raises(error, match=says) as caught:
        open_backbone(str(tmp_path))
    one_sentence(caught.value, str(tmp_path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "entry", "says"),
    [
        ("bert", {"is_decoder": True}, "encoders read both ways here; use the encoder that it was made from"),
        ("roberta", {"is_decoder": True}, "encoders read both ways here"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "decoder-only models read from left to right here"),
        ("gemma2", {"use_bidirectional_attention": True}, "decoder-only models read from left to right here"),
        ("llama", {"is_causal": False}, "decoder-only models read from left to right here"),
    ],
)
def test_attention_that_its_family_does_not_have(tmp_path: Path, kind: str, entry: dict[str, bool], says: str) -> None:
    """Masks are made by family, so these would be exported with others than they were trained with."""
    config = WRITERS.get(kind) or ENCODERS[kind]
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | entry))
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        open_backbone(str(tmp_path))
    one_sentence(caught.value, str(tmp_path), next(iter(entry)))


def test_unknown_activation_of_an_encoder(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "bogus"}))
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, "cannot make the model", "bogus")
    assert isinstance(caught.value.__cause__, KeyError)


def test_folder_without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, "weights", str(folder))


@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_weights_cut_short(folder: Path, keep: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    with pytest.raises(CorruptFileError, match="weights"):
        load_encoder(str(folder))


def test_weights_of_another_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, "weights", "another shape than its config.json states", "and 5 more; download")


def lacking(folder: Path, name: str) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights[name]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: AutoModel.from_config(ENCODERS["bert"]), "encoder.layer.1.output.dense.weight"),
        (lambda: AutoModelForMaskedLM.from_config(ENCODERS["roberta"]), "lm_head.dense.weight"),
        (lambda: AutoModelForCausalLM.from_config(WRITERS["llama"]), "model.layers.1.mlp.up_proj.weight"),
        (lambda: AutoModelForCausalLM.from_config(WRITERS["llama"]), "lm_head.weight"),
        (lambda: T5ForConditionalGeneration(KINDS["t5"][1]), "decoder.block.0.layer.0.SelfAttention.q.weight"),
    ],
    ids=["encoder", "masked", "causal", "untied head", "seq2seq"],
)
def test_weights_that_the_files_lack(tmp_path: Path, make: Callable[[], PreTrainedModel], name: str) -> None:
    """transformers would fill them at random, and say so in a table that nobody reads."""
    make().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    lacking(tmp_path, name)
    with pytest.raises(CorruptFileError) as caught:
        open_backbone(str(tmp_path))
    one_sentence(caught.value, f"the weights in {tmp_path} lack {name}; download the model again")


@pytest.mark.parametrize(
    ("make", "saved", "name", "wanted"),
    [
        (
            lambda: LlamaForSequenceClassification(WRITERS["llama"]),
            "LlamaForSequenceClassification",
            "lm_head.weight",
            "LlamaForCausalLM",
        ),
        (lambda: LlamaModel(WRITERS["llama"]), "LlamaModel", "lm_head.weight", "LlamaForCausalLM"),
        (
            lambda: T5EncoderModel(copy.deepcopy(KINDS["t5"][1])),
            "T5EncoderModel",
            "decoder.block.0.layer.0.SelfAttention.k.weight and 27 more",
            "T5ForConditionalGeneration",
        ),
    ],
    ids=["classifier", "no head", "no decoder"],
)
def test_a_model_saved_without_what_it_writes_by(
    tmp_path: Path, make: Callable[[], PreTrainedModel], saved: str, name: str, wanted: str
) -> None:
    """To download it again would bring the same."""
    make().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(CorruptFileError) as caught:
        open_backbone(str(tmp_path))
    one_sentence(
        caught.value,
        f"{tmp_path} was saved as {saved}, without {name}, which",
        f"use a checkpoint of the language model, saved as {wanted}.",
    )


def test_more_layers_than_the_files_have(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CorruptFileError, match=r"lack encoder\.layer\.2\.\S+ and 15 more; download the model again"):
        load_encoder(str(folder))
    assert capfd.readouterr().err == ""


def test_pooler_and_position_ids_may_be_absent_or_there(tiny: EncoderBackbone, folder: Path) -> None:
    lacking(folder, "pooler.dense.weight")
    lacking(folder, "pooler.dense.bias")
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint
    save_file(
        {**load_file(folder / WEIGHTS), "embeddings.position_ids": torch.arange(48)[None]},
        folder / WEIGHTS,
        {"format": "pt"},
    )
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "gemma", "smollm3"])
def test_tied_heads_may_be_absent(tmp_path: Path, kind: str) -> None:
    AutoModelForCausalLM.from_config(WRITERS[kind]).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / WEIGHTS))
    assert open_backbone(str(tmp_path)).family == "causal"


def test_folder_without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, "tokenizer", str(folder))


def only_sentencepiece(folder: Path, name: str, *, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / name).write_bytes(b"no such model")
    find = importlib.util.find_spec
    said = {"sentencepiece": ModuleSpec("sentencepiece", None) if installed else None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: said[name] if name in said else find(name, *rest)
    )


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "sentencepiece.bpe.model"])
def test_sentencepiece_alone_without_its_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """transformers says on many lines that another package is missing, or makes up an empty tokenizer."""
    only_sentencepiece(folder, name, installed=False, monkeypatch=monkeypatch)
    with pytest.raises(MissingExtraError) as caught:
        load_encoder(str(folder))
    one_sentence(
        caught.value,
        "sentencepiece is not installed; run: pip install 'mpt-edge[torch]' (in a clone: pip install '.[torch]')",
    )
    assert capfd.readouterr().err == ""


def test_sentencepiece_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    only_sentencepiece(folder, "tokenizer.model", installed=True, monkeypatch=monkeypatch)
    with pytest.raises(CorruptFileError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, f"{folder} holds no tokenizer that can be saved as tokenizer.json; add")
    assert capfd.readouterr().err == ""


def test_sentencepiece_beside_a_tokenizer_needs_no_package(
    tiny: EncoderBackbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (folder / "tokenizer.json").read_bytes()
    only_sentencepiece(folder, "spiece.model", installed=False, monkeypatch=monkeypatch)
    (folder / "tokenizer.json").write_bytes(kept)
    assert load_encoder(str(folder)).texts.fingerprint == tiny.texts.fingerprint


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(hidden_size=8, n_layer=1, n_head=2),
        OPTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
    ],
    ids=["bloom", "opt"],
)
def test_unsupported_model_lists_what_is(tmp_path: Path, config: BloomConfig | OPTConfig) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(tmp_path))
    one_sentence(caught.value, f"'{config.model_type}'", *ARCHITECTURES)


def test_an_encoder_is_asked_for(tmp_path: Path) -> None:
    GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match="writes text, and this needs an encoder; use one of bert"
    ) as caught:
        load_encoder(str(tmp_path))
    one_sentence(caught.value, str(tmp_path))


def test_fingerprint_is_the_same_for_another_file_format(tiny: EncoderBackbone, folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint


def test_fingerprint_is_the_same_inside_a_model_with_a_head(tiny: EncoderBackbone, folder: Path) -> None:
    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    model.bert.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    model.save_pretrained(folder)
    assert any(key.startswith("bert.") for key in load_file(folder / WEIGHTS))
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint


def test_fingerprint_changes_with_one_weight_and_not_with_the_pooler(tiny: EncoderBackbone, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    for key, changes in (("pooler.dense.bias", False), ("encoder.layer.1.output.dense.bias", True)):
        changed = {name: value.clone() for name, value in weights.items()}
        changed[key][3] += 1e-3
        save_file(changed, folder / WEIGHTS, {"format": "pt"})
        assert (load_encoder(str(folder)).fingerprint != tiny.fingerprint) == changes


def test_loaded_weights_are_the_files(tiny: EncoderBackbone, tiny_folder: Path) -> None:
    expected = BertModel.from_pretrained(tiny_folder).eval()
    ids = torch.tensor([[2, 70, 71, 3]])
    with torch.no_grad():
        found, _ = tiny.model(ids, torch.ones_like(ids))
        assert torch.allclose(found, expected(ids).last_hidden_state, atol=1e-5)
    assert isinstance(AutoModel.from_pretrained(tiny_folder), BertModel)


def modules(folder: Path, pooling: dict[str, object] | None, *extra: str) -> None:
    kinds = ["Transformer", "Pooling", *extra]
    entries = [
        {"idx": i, "path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    if pooling is not None:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32} | pooling))


@pytest.mark.parametrize(("mode", "expected"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max")])
def test_pooling_of_a_sentence_transformer(folder: Path, mode: str, expected: str) -> None:
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    modules(folder, {f"pooling_mode_{m}": m == mode for m in modes}, "Normalize")
    assert load_encoder(str(folder)).pooling == expected


@pytest.mark.parametrize(
    "on", [("mean_tokens", "max_tokens"), ("mean_sqrt_len_tokens",), ("cls_token", "weightedmean_tokens")]
)
def test_pooling_that_is_not_supported(folder: Path, on: tuple[str, ...]) -> None:
    modules(folder, {f"pooling_mode_{mode}": True for mode in on})
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, str(folder), f"pooling_mode_{on[0]}", "mean, cls or max")


def test_dense_layer_behind_the_pooling_is_refused(folder: Path) -> None:
    modules(folder, {"pooling_mode_mean_tokens": True}, "Dense")
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    one_sentence(caught.value, str(folder), "Dense")


def test_broken_sentence_transformers_file(folder: Path) -> None:
    (folder / "modules.json").write_text("[{")
    with pytest.raises(CorruptFileError, match=r"modules\.json is not JSON"):
        load_encoder(str(folder))


@pytest.mark.parametrize(("setting", "expected"), [(32, 32), (512, 48), (None, 48)])
def test_longest_text(folder: Path, setting: int | None, expected: int) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": setting}))
    assert load_encoder(str(folder)).max_length == expected
