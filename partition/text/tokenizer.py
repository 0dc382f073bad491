"""Text to token ids and back, from a GGUF file's vocabulary or a ``tokenizer.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers

from partition.text.chat_template import PLAIN_TEMPLATE, ChatTemplate
from partition.text.vocabulary import Vocabulary, vocabulary_from_folder, vocabulary_from_gguf
from partition.weights.gguf import GGUFFile, PackedTexts

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
        self.key = ""  # of what it was read from; "" where it was not read by :meth:`open`
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
    def open(cls, path: Path, *, like: Tokenizer | None = None) -> Tokenizer:
        """Read the tokenizer of a model, a GGUF file or a folder; errors as for :meth:`from_gguf`.

        Args:
            path: Of the model.
            like: Another model's, which is taken over if this model's files say the same: building a tokenizer stops
                every other thread for a tenth of a second.
        """
        file = None if path.is_dir() else GGUFFile.open(path)
        key = _folder_key(path) if file is None else _file_key(file)
        if like is not None and like.key == key:
            return like
        opened = cls.from_folder(path) if file is None else cls.from_gguf(file)
        opened.key = key
        return opened

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

    @cached_property
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


def _file_key(file: GGUFFile) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(file.metadata.items()):
        if not name.startswith("tokenizer."):
            continue
        digest.update(f"{name}\0{type(value).__name__}\0".encode())
        if isinstance(value, PackedTexts):
            digest.update(f"{value.number}\0".encode())
            digest.update(value.data)
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}\0{value.shape}\0".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _folder_key(folder: Path) -> str:
    """Digest everything in a model's folder that is not weights: small files, any of which may matter."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix != ".safetensors":
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
