"""Patterns of many words that read each character once; a plain alternation would try every word at every place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any


def trie(words: Iterable[str], escape: Callable[[str], str] = re.escape) -> str:
    """A pattern of the words that prefers the longest.

    Args:
        words: Folded.
        escape: The pattern of one character.
    """
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _render(root, escape)


def _render(node: dict[str, Any], escape: Callable[[str], str]) -> str:
    ends = "" in node
    branches = [escape(c) + _render(child, escape) for c, child in sorted(node.items()) if c]
    if not branches:
        return ""
    if len(branches) == 1 and not ends:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if ends else ''}"
