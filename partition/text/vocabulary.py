"""Vocabularies as files have them: the two kinds a GGUF file holds, and the folder of a hub model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from partition.errors import ModelFileError
from partition.weights.gguf import GGUFFile

# The patterns of the original tokenizer.json files; llama.cpp names them (src/llama-vocab.cpp).
_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2: Final = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_LLAMA3: Final = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_CONTROL, _USER_DEFINED = 3, 4  # of llama_token_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A tokenizer, and what its file says about sequences."""

    tokenizer: Tokenizer
    bos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool
    chat_template: str | None


def vocabulary_from_gguf(file: GGUFFile) -> Vocabulary:
    """Build the vocabulary of a GGUF file.

    Raises:
        ModelFileError: It is damaged or of a kind we do not read.
    """
    kind = file.text("tokenizer.ggml.model")
    tokens = file.texts("tokenizer.ggml.tokens")
    if kind == "gpt2":
        tokenizer = _byte_level(file, tokens)
    elif kind == "llama":
        tokenizer = _sentence_piece(file, tokens)
    else:
        raise ModelFileError(
            f"{file.path}: vocabulary kind {kind[:32]!r} is not one we read; choose another file of the model"
        )
    kinds = file.array("tokenizer.ggml.token_type").tolist()
    added = [
        AddedToken(text, special=kind == _CONTROL, normalized=False)
        for text, kind in zip(tokens, kinds, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    eos_ids = {file.integer(f"tokenizer.ggml.{name}_token_id", -1) for name in ("eos", "eot")}
    bos_id = file.integer("tokenizer.ggml.bos_token_id", -1)
    template = file.text("tokenizer.chat_template", "")
    return Vocabulary(
        tokenizer=tokenizer,
        bos_id=bos_id if 0 <= bos_id < len(tokens) else None,
        eos_ids=frozenset(token for token in eos_ids if 0 <= token < len(tokens)),
        add_bos=file.flag("tokenizer.ggml.add_bos_token", kind == "llama"),
        chat_template=template or None,
    )


def vocabulary_from_folder(folder: Path) -> Vocabulary:
    """Read ``tokenizer.json``, and what ``tokenizer_config.json`` and ``chat_template.jinja`` say; errors as above."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The library raises plain Exception for whatever is wrong with a file.
    except Exception as error:
        raise ModelFileError(
            f"{path}: cannot be read as a tokenizer; fetch the model again"
        ) from error
    config = _read_config(folder)
    template_path = folder / "chat_template.jinja"
    template = config.chat_template if isinstance(config.chat_template, str) else None
    if template_path.is_file():
        template = template_path.read_text(encoding="utf-8")
    bos_id = _id_of(tokenizer, config.bos_token)
    eos_id = _id_of(tokenizer, config.eos_token)
    # Whether the file's own rules begin a sequence with the first token.
    encoded = tokenizer.encode("a").ids
    return Vocabulary(
        tokenizer=tokenizer,
        bos_id=bos_id,
        eos_ids=frozenset(() if eos_id is None else (eos_id,)),
        add_bos=bos_id is not None and encoded[:1] == [bos_id],
        chat_template=template,
    )


def _byte_level(file: GGUFFile, tokens: Sequence[str]) -> Tokenizer:
    rules = file.text("tokenizer.ggml.pre", "default")
    merges = [_pair(merge, file) for merge in file.texts("tokenizer.ggml.merges")]
    vocabulary = {text: index for index, text in enumerate(tokens)}
    model = BPE(vocab=vocabulary, merges=merges, ignore_merges=rules == "llama-bpe")
    tokenizer = Tokenizer(model)
    if rules in ("qwen2", "llama-bpe"):
        pattern = Regex(_QWEN2 if rules == "qwen2" else _LLAMA3)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        if rules == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
    elif rules in ("smollm", "default", "gpt-2"):
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.ByteLevel(add_prefix_space=False)
        ]
        if rules == "smollm":
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    else:
        raise ModelFileError(
            f"{file.path}: splitting rules {rules[:32]!r} are not ones we know; use the tokenizer.json of the model"
        )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(file: GGUFFile, tokens: Sequence[str]) -> Tokenizer:
    # A SentencePiece BPE vocabulary has scores and no merges: the pair with the best joined token is merged first.
    scores = file.array("tokenizer.ggml.scores").tolist()
    vocabulary = {text: index for index, text in enumerate(tokens)}
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for text, score in zip(tokens, scores, strict=False):
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((-score, vocabulary[left], vocabulary[right], (left, right)))
    merges.sort(key=lambda merge: merge[:3])
    unknown = file.integer("tokenizer.ggml.unknown_token_id", 0)
    if not 0 <= unknown < len(tokens):
        raise ModelFileError(f"{file.path}: its unknown token is out of range; fetch it again")
    model = BPE(
        vocab=vocabulary,
        merges=[merge[3] for merge in merges],
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    begins_with_space = file.flag("tokenizer.ggml.add_space_prefix", True)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    back: list[decoders.Decoder] = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if begins_with_space:
        steps.insert(0, normalizers.Prepend("▁"))
        back.append(decoders.Strip(content=" ", left=1))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def _pair(merge: str, file: GGUFFile) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space or " " in right:
        raise ModelFileError(f"{file.path}: a merge of its vocabulary is damaged; fetch it again")
    return left, right


class _TokenizerConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    bos_token: str | dict[str, object] | None = None
    eos_token: str | dict[str, object] | None = None
    chat_template: str | list[object] | None = None


def _read_config(folder: Path) -> _TokenizerConfig:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return _TokenizerConfig()
    try:
        return _TokenizerConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise ModelFileError(
            f"{path}: cannot be read as JSON ({type(error).__name__}); fetch the model again"
        ) from error


def _id_of(tokenizer: Tokenizer, token: str | dict[str, object] | None) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(text) if isinstance(text, str) else None
