"""Text to token ids and back, from a GGUF file's vocabulary or a ``tokenizer.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from partition.text.chat_template import PLAIN_TEMPLATE, ChatTemplate
from partition.text.vocabulary import Vocabulary, vocabulary_from_folder, vocabulary_from_gguf
from partition.weights.gguf import GGUFFile

# Control tokens that end a turn, whatever a file calls the end of a sequence.
_END_TEXTS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
    "<eos>",
)


class Tokenizer:
    """One model's tokenizer with its chat template. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = vocabulary.tokenizer
        self._bos_ids = (
            () if vocabulary.bos_id is None or not vocabulary.add_bos else (vocabulary.bos_id,)
        )
        specials = {
            added.content: token
            for token, added in self._tokenizer.get_added_tokens_decoder().items()
            if added.special
        }
        ends = {specials[text] for text in _END_TEXTS if text in specials}
        self.end_ids: frozenset[int] = frozenset(ends | set(vocabulary.eos_ids))

        def spelling(token: int | None) -> str:
            return "" if token is None else self._tokenizer.id_to_token(token) or ""

        self._bos_text = spelling(vocabulary.bos_id)
        self.chat = ChatTemplate(
            vocabulary.chat_template or PLAIN_TEMPLATE,
            special_texts=specials,
            bos_text=self._bos_text,
            eos_text=spelling(min(vocabulary.eos_ids, default=None)),
        )

    @classmethod
    def open(cls, path: Path) -> Tokenizer:
        """Read the tokenizer of a model, a GGUF file or a folder; errors as for :meth:`from_gguf`."""
        return cls.from_folder(path) if path.is_dir() else cls.from_gguf(GGUFFile.open(path))

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Build the tokenizer of a GGUF file.

        Raises:
            ModelFileError: The vocabulary is damaged or of a kind we do not read.
        """
        return cls(vocabulary_from_gguf(file))

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read ``tokenizer.json`` and its companions in a folder; errors as for :meth:`from_gguf`."""
        return cls(vocabulary_from_folder(folder))

    @property
    def sha256(self) -> str:
        """Digest of vocabulary, merges and rules; part of a certificate's fingerprint."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, *, with_specials: bool = False) -> tuple[int, ...]:
        """Cut text into ids; spellings of control tokens in it become these tokens.

        Args:
            text: Any text.
            with_specials: Begin with the model's first token where the model wants one.
        """
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        # A template that spells the first token out must not get a second one.
        if with_specials and not (self._bos_text and text.startswith(self._bos_text)):
            return (*self._bos_ids, *ids)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without control tokens; bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> TokenStream:
        """Begin to decode an answer token by token."""
        return TokenStream(self._tokenizer)


class TokenStream:
    """Decodes a growing answer: the pieces add up to the decoding of the whole. Not thread-safe."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown_ids = 0  # ids whose text is out already
        self._context_ids = (
            0  # where the text is decoded from, so that the space before a word is seen
        )

    def add(self, token: int) -> str:
        """Add one token; returns new text, empty while a character is incomplete."""
        self._ids.append(token)
        before, after = self._texts()
        if after.endswith("\ufffd"):  # the middle of a character, or no character at all
            return ""
        self._context_ids, self._shown_ids = self._shown_ids, len(self._ids)
        return after[len(before) :]

    def finish(self) -> str:
        """What is left when no token follows."""
        before, after = self._texts()
        self._context_ids = self._shown_ids = len(self._ids)
        return after[len(before) :]

    def _texts(self) -> tuple[str, str]:
        def decode(ids: list[int]) -> str:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))

        return (
            decode(self._ids[self._context_ids : self._shown_ids]),
            decode(self._ids[self._context_ids :]),
        )
