"""Measure the language and the layout of the sources.

    python scripts/language.py          # this repository
    python scripts/language.py FOLDER   # another checkout

Definitions:

- A README's words are counted as ``wc -w`` counts them: code, tables and headings included.
- Its sentences are those of paragraphs and list items. Code blocks, tables and headings have none. A sentence ends at
  ``.``, ``!``, ``?`` or ``:`` before white space, and at the end of its paragraph or item. Inline code and a link's
  text are words; a link's address is not.
- Docstrings are the first string of a module, class or function, and strings that follow an assignment. Comments are
  all but linter directives. In both, words are runs of letters, and code in backquotes and URLs is left out.
- A function's body is all below its signature: the docstring and the statements, without blank lines and comments.
- An upward arrow is an import from a lower layer into a higher one; a circle is a group of modules that import one
  another, wherever the import statement stands. Imports for type checkers alone do not count.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Folders with sources, relative to the repository.
SOURCES = ("mpt_edge", "export/mpt_edge_export")

#: From the lowest layer to the highest; what a module may import lies in its own layer or a lower one.
LAYERS = (
    ("mpt_edge.formats",),
    ("mpt_edge.hub",),
    ("mpt_edge.inference",),
    ("mpt_edge.batch",),
    ("mpt_edge.training",),
    ("mpt_edge_export", "optimum"),
    ("mpt_edge.server",),
    ("mpt_edge.cli", "mpt_edge.__main__"),
)

MAX_FILE_LINES = 400

#: Groups of words whose rate per 1,000 words is reported.
WORDS = {
    "what": ("what",),
    "behind": ("behind",),
    "stand/lie": ("stand", "stands", "standing", "stood", "lie", "lies", "lying", "lay", "lain"),
    "most/least": ("most", "least"),
    "max/min": ("max", "min", "maximum", "minimum"),
}

_DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|ruff:|mypy:|pragma|!)")
_CODE = re.compile(r"``.+?``|`[^`]+`|https?://\S+", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)?")
_QUESTION_WORD = re.compile(r"(What|Which|Where)\b")


@dataclass(frozen=True)
class Readme:
    """Length of a README and of its sentences."""

    words: int
    sentences: list[str]

    @property
    def lengths(self) -> list[int]:
        """Words of each sentence."""
        return [len(sentence.split()) for sentence in self.sentences]

    @property
    def mean(self) -> float:
        """Mean sentence length in words."""
        return statistics.mean(self.lengths) if self.sentences else 0.0


@dataclass(frozen=True)
class Function:
    """A function and the number of lines in its body."""

    place: str
    lines: int


@dataclass
class Sources:
    """Measures of all source files of a repository."""

    words: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORDS, 0))
    docstrings: int = 0
    question_docstrings: list[str] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    long_files: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)

    def rate(self, group: str) -> float:
        """Return how often a group of words occurs per 1,000 words of docstrings and comments."""
        return 1000 * self.counts[group] / max(self.words, 1)

    @property
    def median_body(self) -> float:
        """Median number of lines of a function's body."""
        return statistics.median(function.lines for function in self.functions)

    def longest(self, *, commands: bool) -> Function:
        """Return the longest function of the commands, or of everything else."""
        return max(
            (each for each in self.functions if ("/cli/" in each.place) == commands), key=lambda each: each.lines
        )

    def upward(self) -> list[str]:
        """Return imports from a lower layer into a higher one."""
        return sorted(
            f"{module} -> {target}"
            for module, targets in self.imports.items()
            for target in targets
            if layer(target) > layer(module)
        )

    def circles(self) -> list[list[str]]:
        """Return groups of modules that import one another."""
        return [sorted(group) for group in _components(self.imports) if len(group) > 1]


def read_readme(text: str) -> Readme:
    """Count a README's words and split its prose into sentences."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^(#.*|\|.*|---+)$", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", prose)
    sentences = [
        sentence.strip(" -*")
        for block in blocks
        for sentence in re.split(r"(?<=[.!?:])[*)\"]*\s+", " ".join(block.split()))
    ]
    return Readme(len(text.split()), [sentence for sentence in sentences if _WORD.search(sentence)])


def read_sources(root: Path) -> Sources:
    """Measure all source files below a repository's root."""
    sources = Sources()
    paths = [(folder, path) for folder in SOURCES for path in sorted((root / folder).rglob("*.py"))]
    names = {_module(root / folder, path) for folder, path in paths}
    for folder, path in paths:
        text, place = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        if text.count("\n") > MAX_FILE_LINES:
            sources.long_files.append(f"{place}: {text.count(chr(10))} lines")
        tree = ast.parse(text)
        _read_language(sources, tree, text, place)
        sources.functions += _functions(tree, text, place)
        module = _module(root / folder, path)
        sources.imports[module] = set(_imports(tree, module, path.name == "__init__.py", names)) - {module}
    return sources


def layer(module: str) -> int:
    """Return the number of a module's layer.

    Errors and helpers at the root are below all others. The public face shows formats and inference, so it counts as
    part of inference.
    """
    if module == "mpt_edge":
        return layer("mpt_edge.inference")
    for number, roots in enumerate(LAYERS, 1):
        if any(module == root or module.startswith(f"{root}.") for root in roots):
            return number
    return 0


def _read_language(sources: Sources, tree: ast.Module, text: str, place: str) -> None:
    comments = [
        token.string.lstrip("#: ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not _DIRECTIVE.match(token.string)
    ]
    docstrings = list(_docstrings(tree))
    sources.docstrings += len(docstrings)
    sources.question_docstrings += [
        f"{place}:{line}: {docstring.split(chr(10))[0]}"
        for line, docstring in docstrings
        if _QUESTION_WORD.match(docstring)
    ]
    for said in [*comments, *(docstring for _, docstring in docstrings)]:
        words = [word.lower() for word in _WORD.findall(_CODE.sub(" ", said))]
        sources.words += len(words)
        for group, members in WORDS.items():
            sources.counts[group] += sum(word in members for word in words)


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of all docstrings, those of attributes included."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                if isinstance(value, str):
                    yield statement.lineno, value.strip()


def _functions(tree: ast.Module, text: str, place: str) -> Iterator[Function]:
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = lines[node.body[0].lineno - 1 : node.end_lineno]
        count = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in body)
        yield Function(f"{place}:{node.lineno}: {node.name}", count)


def _module(folder: Path, path: Path) -> str:
    parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, module: str, package: bool, names: set[str]) -> Iterator[str]:
    """Yield the modules among ``names`` that a module imports."""
    for node in _without_type_checking(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            base = parents[: len(parents) - node.level + package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{origin}.{alias.name}"
                yield target if target in names else origin


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _without_type_checking(node)


def _components(graph: dict[str, set[str]]) -> Iterator[set[str]]:
    """Yield the strongly connected components of a graph."""
    reachable = {node: _reachable(graph, node) for node in graph}
    done: set[str] = set()
    for node in graph:
        if node not in done:
            group = {node} | {other for other in reachable[node] if node in reachable.get(other, ())}
            done |= group
            yield group


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def report(root: Path) -> Iterator[str]:
    """Yield the lines that describe a repository."""
    readme = read_readme((root / "README.md").read_text(encoding="utf-8"))
    sources = read_sources(root)
    yield f"README: {readme.words:,} words, {readme.mean:.1f} a sentence, the longest {max(readme.lengths)}"
    yield f"docstrings and comments: {sources.words:,} words; per 1,000:"
    yield from (f"  {group:<11} {sources.rate(group):5.2f}" for group in WORDS)
    yield f"docstrings: {sources.docstrings:,}, {len(sources.question_docstrings)} begin with What, Which or Where"
    yield from (f"  {place}" for place in sources.question_docstrings)
    yield f"functions: {len(sources.functions):,}, median body {sources.median_body:g} lines"
    for commands, where in ((False, "outside commands"), (True, "in commands")):
        longest = sources.longest(commands=commands)
        yield f"  longest {where}: {longest.lines} lines, {longest.place}"
    for title, found in (
        (f"files above {MAX_FILE_LINES} lines", sources.long_files),
        ("upward arrows", sources.upward()),
        ("import circles", [", ".join(circle) for circle in sources.circles()]),
    ):
        yield f"{title}: {len(found)}"
        yield from (f"  {each}" for each in found)


if __name__ == "__main__":
    print("\n".join(report(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)))
