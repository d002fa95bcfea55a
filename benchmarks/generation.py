r"""Speed and memory of generative models, beside transformers, a stock ONNX export and CTranslate2.

python benchmarks/generation.py WEIGHTS/tinystories-656k-llama WEIGHTS/tinystories-3m-gptneo \
    smollm-135m t5-small t5-base --tokenizer WEIGHTS/tokenizers/t5

All generate the same number of tokens greedily after the same random text, in turn, on the same
threads. transformers gets prompt and text as embeddings, as PEFT feeds them. The stock export and
CTranslate2 (`pip install ctranslate2`) support no prompt. Our int8 graphs are those of `mpt-edge
export --precision int8`. `smollm-135m`, `t5-small` and `t5-base` are shapes with random weights.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from generation_peers import Writer, ctranslate2_writer, stock_causal, stock_seq2seq, transformers_writer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)
from turns import price, time_all

from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Family, Precision
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle

_PRECISIONS = (Precision.FLOAT32, Precision.INT8)

_T5: dict[str, Any] = {"vocab_size": 32128, "d_kv": 64, "decoder_start_token_id": 0}

SHAPES: dict[str, PretrainedConfig] = {
    "t5-small": T5Config(d_model=512, d_ff=2048, num_layers=6, num_heads=8, **_T5),
    "t5-base": T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, **_T5),
    "smollm-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
}

MEMORY = """
import numpy as np
from pathlib import Path
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
bundle = Bundle.open(Path({bundle!r}))
family = OnnxSeq2Seq if bundle.manifest.family == "seq2seq" else OnnxCausal
graph = family(*bundle.graphs(), bundle.manifest)
ids = np.array([{ids!r}])
cache = graph.encode_prompt(np.zeros(graph.prompt_shape({length}), np.float32))
state, logits = graph.open(Batch(ids, np.ones_like(ids), np.zeros_like(ids)), [cache])
for _ in range({count}):
    logits = state.step(logits.argmax(-1))
status = Path("/proc/self/status").read_text()
print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
"""


def main(
    models: Annotated[list[str], typer.Argument(help=f"Folders of generative models, or {', '.join(SHAPES)}.")],
    tokenizer: Annotated[Path, typer.Option(help="T5's tokenizer, for the shapes.")] = Path(),
    tokens: Annotated[int, typer.Option(help="Length of the text.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    prompt_length: Annotated[int, typer.Option("--prompt-length", "-l", help="Virtual tokens.")] = 100,
    prompt_position: Annotated[
        PromptPosition, typer.Option(help="Where the prompt enters.")
    ] = PromptPosition.FIRST_LAYER,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; they take turns.")] = 5,
    threads: int = 2,
) -> None:
    """Print medians: time to the first token, tokens a second over the whole text, and memory."""
    torch.set_num_threads(threads)
    table = Table("model", "", "first token (ms)", "tokens a second", "to transformers", box=None, pad_edge=False)
    notes = []
    for name in models:
        with tempfile.TemporaryDirectory() as place:
            folder = _folder(name, tokenizer, Path(place))
            contest = Contest(folder, Path(place), tokens, (prompt_length, prompt_position), threads)
            speeds = time_all(contest.ways, new_tokens, repeats)
            costs = {
                kind: price(contest.ways[f"{kind}, prompt"], contest.ways[f"{kind}, no prompt"], new_tokens, repeats)
                for kind in ("mpt-edge", "mpt-edge int8")
            }
            notes += [f"{folder.name}: {note}" for note in (*contest.missing, contest.memory(new_tokens))]
        base = speeds["transformers, prompt"][1]
        for way, (first, speed) in speeds.items():
            table.add_row(folder.name, way, f"{first:.1f}", f"{speed:.0f}", f"{speed / base:.2f} x")
        for kind, cost in costs.items():
            notes.append(f"{folder.name}: {kind} takes {cost:.3f} times as long under a prompt as without")
    Console(width=120).print(table)
    print(*notes, sep="\n")
    print(
        f"{tokens} tokens of text, {new_tokens} new ones, l = {prompt_length} at {prompt_position}, "
        f"float32 unless stated, {threads} threads, medians of {repeats}; "
        f"{platform.machine()}, torch {torch.__version__}"
    )


class Contest:
    """One model and all runtimes that generate with it."""

    def __init__(
        self, folder: Path, place: Path, tokens: int, prompt: tuple[int, PromptPosition], threads: int
    ) -> None:
        """Export the model, load all contenders, and check that those without a prompt generate the same text.

        Args:
            folder: the model.
            place: folder for files.
            tokens: length of the text.
            prompt: virtual tokens of the prompt, and its position.
            threads: threads of each contender.
        """
        backbone = open_backbone(str(folder))
        assert isinstance(backbone, GenerativeBackbone)
        self.folder, self.place, self.threads = folder, place, threads
        self.length, position = prompt
        self.seq2seq = backbone.family is Family.SEQ2SEQ
        layers = (backbone.model.layer_count,) if position is PromptPosition.ALL_LAYERS else ()
        shape = (self.length, *layers, backbone.model.hidden_size)
        rng = np.random.default_rng(0)
        values = (0.05 * rng.standard_normal(shape)).astype(np.float32)
        shared = SharedPrompt("shared", values, Placement(Layout.PREFIX, position), backbone.fingerprint)
        VectorFolder(place / "vectors").save(shared)
        export_bundle(ExportPlan(backbone, [place / "vectors"], place / "bundle", precisions=_PRECISIONS))
        graph, small = (self._graph(precision) for precision in _PRECISIONS)
        self.ids = rng.integers(3, 1000, tokens).tolist()
        family = AutoModelForSeq2SeqLM if self.seq2seq else AutoModelForCausalLM
        model = family.from_pretrained(folder, dtype=torch.float32).eval()
        text = model.get_input_embeddings()(torch.tensor(self.ids)).detach()
        cache, small_cache = (
            one.encode_prompt(values) for one in (graph, small)
        )  # computed once, when a task is selected
        rows = torch.from_numpy(
            values if values.ndim == 2 else values[:, 0]
        )  # transformers has no prompt at other layers
        self.ways: dict[str, Writer] = {
            "mpt-edge, prompt": lambda count: ours(graph, self.ids, cache, count),
            "mpt-edge, no prompt": lambda count: ours(graph, self.ids, graph.no_past, count),
            "mpt-edge int8, prompt": lambda count: ours(small, self.ids, small_cache, count),
            "mpt-edge int8, no prompt": lambda count: ours(small, self.ids, small.no_past, count),
            "transformers, prompt": transformers_writer(model, torch.cat([rows, text])[None]),
            "transformers, no prompt": transformers_writer(model, text[None]),
        }
        self.missing: list[str] = []
        self._peers(family.from_pretrained(folder, dtype=torch.float32).eval())
        expected = self.ways["mpt-edge, no prompt"](8)
        for name in ("transformers, no prompt", "stock export, no prompt"):
            if name in self.ways:
                assert self.ways[name](8) == expected, f"{name} generates another text"

    def _graph(self, precision: Precision) -> OnnxCausal | OnnxSeq2Seq:
        bundle = Bundle.open(self.place / "bundle")
        graphs, options = bundle.graphs(precision), SessionOptions(threads=self.threads)
        if self.seq2seq:
            encoder, decoder = graphs
            return OnnxSeq2Seq(encoder, decoder, bundle.manifest, options)
        (graph,) = graphs
        return OnnxCausal(graph, bundle.manifest, options)

    def _peers(self, model: PreTrainedModel) -> None:
        """Add the peers that are installed, and note the reason for each missing one."""
        stock = stock_seq2seq if self.seq2seq else stock_causal
        self.ways["stock export, no prompt"] = stock(model, self.ids, self.place / "stock", self.threads)
        words = AutoTokenizer.from_pretrained(self.folder).convert_ids_to_tokens(self.ids)
        for kind in ("float32", "int8"):
            try:
                writer = ctranslate2_writer(self.folder, self.place / f"ct2-{kind}", words, kind, self.threads)
                self.ways[f"CTranslate2 {kind}, no prompt"] = writer
            except ImportError:
                self.missing.append("no CTranslate2; pip install ctranslate2")
            except ValueError as error:
                self.missing.append(f"no CTranslate2 {kind} ({str(error).splitlines()[0][:120]})")

    def memory(self, new_tokens: int) -> str:
        """Return the peak memory of a generating process, compared with the model's files and its key/value cache."""
        bundle = self.place / "bundle"
        facts = {"bundle": str(bundle), "ids": self.ids, "length": self.length, "count": new_tokens}
        command = [sys.executable, "-c", MEMORY.format(**facts)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        files = sum(path.stat().st_size for path in (bundle / "onnx").iterdir() if "_quantized" not in path.name)
        manifest = Bundle.open(bundle).manifest
        rows = len(self.ids) + self.length + new_tokens + 1
        cache = 2 * 4 * manifest.layers * manifest.heads * manifest.head_size * rows * (2 if self.seq2seq else 1)
        return (
            f"peak memory {peak / 1e6:.0f} MB, model {files / 1e6:.0f} MB, cache {cache / 1e6:.1f} MB: "
            f"{(peak - cache) / files:.2f} times the model beside its cache"
        )


def ours(graph: OnnxCausal | OnnxSeq2Seq, ids: list[int], cache: dict[str, np.ndarray], count: int) -> list[int]:
    """Generate with the exported graph."""
    given = np.array([ids])
    state, logits = graph.open(Batch(given, np.ones_like(given), np.zeros_like(given)), [cache])
    tokens = [int(logits[0].argmax())]
    while len(tokens) < count:
        logits = state.step(np.array([tokens[-1]]))
        tokens.append(int(logits[0].argmax()))
    return tokens


def _folder(name: str, tokenizer: Path, place: Path) -> Path:
    """Return a model's folder; one of `SHAPES` is made in ``place``, with random weights."""
    if name not in SHAPES:
        return Path(name)
    if isinstance(SHAPES[name], T5Config) and not (tokenizer / "tokenizer.json").is_file():
        raise typer.BadParameter(f"{name} needs --tokenizer with a folder that holds T5's tokenizer.json.")
    torch.manual_seed(0)
    config = SHAPES[name]
    family = AutoModelForSeq2SeqLM if isinstance(config, T5Config) else AutoModelForCausalLM
    family.from_config(config).save_pretrained(place / name)
    if isinstance(config, T5Config):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / file, place / name / file)
    else:  # only its size matters: texts are random ids
        words = WordLevel({f"word{i}": i for i in range(config.vocab_size)}, unk_token="word0")
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(words), bos_token="word1", eos_token="word2", unk_token="word0"
        ).save_pretrained(place / name)
    return place / name


if __name__ == "__main__":
    typer.run(main)
