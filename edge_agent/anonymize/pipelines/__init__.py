"""The language pipelines: which heads a language has, loaded from the model store or from this package, checked by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import PipelineUnavailableError, UnsupportedLanguageError

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymizer import Head
    from partition.store.model_store import ModelStore

ENGLISH = "en_core_web_md"
CHINESE = "lac"
# Our own heads, made by cloud_service/training/ner; the hash is that of ModelEntry for a folder.
OWN_HEADS = {
    "en": "7ec2e54074fefbe59488ff3910bcc9eed18e04f73fffae916d9c34083aa9cf11",
    "pt": "6773dd4604efe3d3a0b9af17ef29d57fda2f12a6d5305c587b419e729c89eef0",
}
_FOLDER = Path(__file__).parent


def load_heads(
    store: ModelStore, languages: Sequence[str], *, thorough: bool = True
) -> tuple[dict[str, tuple[Head, ...]], str]:
    """Load the heads of some languages; the version tells of every byte that decides what is found.

    Raises:
        PipelineUnavailableError: A pipeline is missing, damaged, or not the pinned one.
        UnsupportedLanguageError: There is no pipeline for a language.
        ModelStoreError: The store could not fetch one.
    """
    from edge_agent.anonymize.lac import LacTagger
    from edge_agent.anonymize.spacy_head import SpacyHead

    heads: dict[str, tuple[Head, ...]] = {}
    digests = [_rules_sha256()]
    for language in languages:
        match language:
            case "en":
                heads[language] = (_own(language, digests),)
                if thorough:
                    general = SpacyHead(_stored(store, ENGLISH, digests), own=False)
                    heads[language] = (*heads[language], general)
            case "pt":
                heads[language] = (_own(language, digests),)
            case "zh":
                heads[language] = (LacTagger(_stored(store, CHINESE, digests)),)
            case _:
                raise UnsupportedLanguageError
    return heads, hashlib.sha256("\n".join(digests).encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """The hash of a folder as the model store has it: over lines ``sha256  path``, sorted by path."""
    from partition.store.assembly import hash_folder

    return hash_folder(folder)


def _own(language: str, digests: list[str]) -> Head:
    from edge_agent.anonymize.spacy_head import SpacyHead

    folder = _FOLDER / language
    if not folder.is_dir() or folder_sha256(folder) != OWN_HEADS[language]:
        raise PipelineUnavailableError(f"ner-{language}")
    digests.append(OWN_HEADS[language])
    return SpacyHead(folder, own=True)


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
