"""Turns the ids of an answer into text as they come, without the token that ends it."""

from __future__ import annotations

from collections.abc import Callable

from partition.text.tokenizer import Tokenizer, TokenStream


class AnswerWriter:
    """Writes one answer. Not thread-safe.

    Args:
        tokenizer: Of the model that chose the ids.
        on_text: Gets each piece of text that is certain to stand.
    """

    def __init__(self, tokenizer: Tokenizer, on_text: Callable[[str], None]) -> None:
        self._end_ids = tokenizer.end_ids
        self._stream: TokenStream = tokenizer.stream()
        self._on_text = on_text
        self._text = ""

    def add(self, ids: tuple[int, ...]) -> None:
        """Take the next ids."""
        for token in ids:
            if token not in self._end_ids:
                self._put(self._stream.add(token))

    def finish(self) -> str:
        """Write what was held back, and return the whole text."""
        self._put(self._stream.finish())
        return self._text

    def _put(self, piece: str) -> None:
        if piece:
            self._text += piece
            self._on_text(piece)
