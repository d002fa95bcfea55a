"""Foreign text in Markdown: shown as it is, in renderers of CommonMark and of Python-Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mpt_edge._escapes import escaped, escaped_json, one_line

#: Characters that backslashes cannot escape in Python-Markdown. Math, strikethrough and attributes are extensions.
_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>|~$"}

#: Characters that begin or end markup; underscores within words do not, and names are easier to read without escapes.
_MARKUP = re.compile(r"[\\`*\[\]{#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")

_HUB_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


def plain(value: object) -> str:
    """Return a value as text within one line, without markup, HTML or control characters."""
    return _MARKUP.sub(r"\\\g<0>", one_line(str(value))).translate(_ENTITIES)


def hub_link(name: str) -> str:
    """Return ``owner/name`` as a link to its page on the hub; any other name, such as a local folder's, as text."""
    return f"[{plain(name)}](https://huggingface.co/{name})" if _HUB_ID.fullmatch(name) else plain(name)


def literal(value: str) -> str:
    """Return a string as Python code writes it, without control characters."""
    return escaped_json(json.dumps(value, ensure_ascii=False))


def front_matter(entries: Mapping[str, object]) -> str:
    """Return the YAML at the head of a model card, with the lines around it."""
    import yaml  # imported here: devices write no cards

    options: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": float("inf")}
    text = yaml.safe_dump(dict(entries), allow_unicode=True, **options)
    if escaped(text) != text:
        text = yaml.safe_dump(dict(entries), allow_unicode=False, **options)
    return f"---\n{text}---\n"
