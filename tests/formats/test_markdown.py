"""Foreign text in Markdown, as two renderers read it, and in front matter, as YAML reads it."""

from __future__ import annotations

import ast
import html
import re

import markdown
import pytest
import yaml
from markdown_it import MarkdownIt

from mpt_edge._escapes import escaped, one_line
from mpt_edge.formats.markdown import front_matter, hub_link, literal, plain

HOSTILE = [
    "<script>alert(1)</script>",
    "a\n\n# A heading\n\n---\nlicense: mit",
    "a\n===",
    "[x](javascript:alert(1))",
    "![x](https://e.org/x.png)",
    "<https://e.org> &lt;b&gt; &#60;i&#62;",
    "*a* __b__ _c_ ~~d~~ `e` ``f`` $g$ \\(h\\)",
    "| a | b |\n| --- | --- |",
    "{: .owned onclick=alert(1) }",
    "\\<b> \\\\<i> \\`x\\`",
    "```\n<b>x</b>\n```",
    "[x]: https://e.org\n[x]",
    "a\x1b[31m\u202e\u2028b\x9b",
    "# *** - + 1. > ok ##",
]

ORDINARY = [
    "sms_spam",
    "CC-BY-4.0",
    "free (SMS Spam Collection v.1)",
    "na\u00efve \u65e5\u672c",
    "https://e.org/a_b",
    "a.b-c",
]


def common(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def python(text: str) -> str:
    return markdown.markdown(text, extensions=["tables", "attr_list"])


@pytest.mark.parametrize("render", [common, python])
@pytest.mark.parametrize("value", [*HOSTILE, *ORDINARY])
def test_text_makes_no_element(render, value: str) -> None:
    for before, tags in (("text ", ["p"]), ("# ", ["h1"]), ("- name: ", ["ul", "li"])):
        page = render(f"{before}{plain(value)}\n")
        assert sorted(re.findall(r"<(\w+)", page)) == sorted(tags)
        assert not re.search(r"<\w+ ", page)
        shown = html.unescape(re.sub(r"<[^>]*>", "", page))
        assert " ".join(shown.split()) == " ".join((before.lstrip("#- ") + one_line(value)).split())


@pytest.mark.parametrize("render", [common, python])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_cell_stays_one(render, value: str) -> None:
    page = render(f"| a | b |\n| --- | --- |\n| {plain(value)} | x |\n")
    assert set(re.findall(r"<(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.count("<td") == 2


@pytest.mark.parametrize("value", ORDINARY)
def test_ordinary_text_stays_readable(value: str) -> None:
    assert plain(value) == value


def test_hub_ids_are_links() -> None:
    assert hub_link("na.me") == "na.me"
    assert hub_link("owner/na_me") == "[owner/na_me](https://huggingface.co/owner/na_me)"
    for name in ("a b", "a/b/c", "x](javascript:1)[y", "", "\u00e4"):
        assert "<a" not in common(hub_link(name)) + python(hub_link(name))


@pytest.mark.parametrize(
    "value", [*HOSTILE, *ORDINARY, "yes", "1", "null", "- a", "'", '"', "a: b", "\ud800", "x" * 300]
)
def test_front_matter_keeps_its_values(value: str) -> None:
    entries = {"base_model": value, "license": value, "tags": ["a", "b"]}
    text = front_matter(entries)
    first, inner, rest = re.split(r"^---\n", text, flags=re.MULTILINE)
    assert (first, rest) == ("", "")
    assert escaped(text) == text
    if value != "\ud800":
        assert yaml.safe_load(inner) == entries
    assert text.encode()


@pytest.mark.parametrize("value", [*HOSTILE, *ORDINARY])
def test_literals_are_python(value: str) -> None:
    assert ast.literal_eval(literal(value)) == value
    assert "\n" not in literal(value)
