"""What a service says about its model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Which model answers, so that a device can compare before it opens a session."""

    name: str
    fingerprint: str  # SHA-256 of the weights file or folder, hexadecimal
    tokenizer_sha256: str
    chat_template_sha256: str
    vocabulary_size: int
    num_layers: int
    hidden_size: int
    context_tokens: int
