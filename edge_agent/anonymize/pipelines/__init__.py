"""The language pipelines: which head a language has, loaded from the model store or from this package, checked by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import PipelineUnavailableError, UnsupportedLanguageError

if TYPE_CHECKING:
    from edge_agent.anonymize.head import Head
    from partition.store.model_store import ModelStore

CHINESE = "lac"
# Our own tagger of English and Portuguese, made by cloud_service/training/ner.
TAGGER = "latin.npz"
TAGGER_SHA256 = "e6912509f0abc6b378d3522753d57d446309dac857373f92c01dcb2f95eac3c2"
_FOLDER = Path(__file__).parent


def load_heads(
    store: ModelStore, languages: Sequence[str]
) -> tuple[dict[str, tuple[Head, ...]], str]:
    """Load the heads of some languages; the version tells of every byte that decides what is found.

    Args:
        store: Where the pipelines are that do not come with this package.
        languages: Which of ``en``, ``pt``, ``zh``; the first two share one tagger.

    Raises:
        PipelineUnavailableError: A pipeline is missing, damaged, or not the pinned one.
        UnsupportedLanguageError: There is no pipeline for a language.
        ModelStoreError: The store could not fetch one.
    """
    heads: dict[str, tuple[Head, ...]] = {}
    digests = [_rules_sha256()]
    for language in languages:
        match language:
            case "en" | "pt":
                heads[language] = heads.get("en") or heads.get("pt") or (_own(digests),)
            case "zh":
                from edge_agent.anonymize.lac import LacTagger

                heads[language] = (LacTagger(_stored(store, CHINESE, digests)),)
            case _:
                raise UnsupportedLanguageError
    return heads, hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _own(digests: list[str]) -> Head:
    from edge_agent.anonymize.tagger import Tagger

    path = _FOLDER / TAGGER
    try:
        content = path.read_bytes()
    except OSError:
        raise PipelineUnavailableError(TAGGER) from None
    if hashlib.sha256(content).hexdigest() != TAGGER_SHA256:
        raise PipelineUnavailableError(TAGGER)
    digests.append(TAGGER_SHA256)
    return Tagger(content)


def _stored(store: ModelStore, name: str, digests: list[str]) -> Path:
    path = store.get(name)
    digests.append(store.entry(name).sha256)
    return path


def _rules_sha256() -> str:
    """Over the source and word lists of this package: a changed rule makes another anonymizer, and voids certificates."""
    digest = hashlib.sha256()
    package = _FOLDER.parent
    for path in sorted([*package.rglob("*.py"), *package.glob("words/*.txt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
