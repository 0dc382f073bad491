"""What a service says about its model, so that a device can compare before it opens a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partition.extend.frames import Agreement
from protos.inference.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Which model answers."""

    name: str
    fingerprint: str  # SHA-256 of the weights file or folder, hexadecimal
    tokenizer_sha256: str
    chat_template_sha256: str
    vocabulary_size: int
    num_layers: int
    hidden_size: int
    context_tokens: int

    @property
    def agreement(self) -> Agreement:
        """What the two ends of a session with this model have in common."""
        return Agreement(
            fingerprint=self.fingerprint,
            tokenizer_sha256=self.tokenizer_sha256,
            chat_template_sha256=self.chat_template_sha256,
            vocabulary_size=self.vocabulary_size,
        )


def card_to_message(
    card: ModelCard, codecs: Sequence[inference_pb2.ActivationCodec]
) -> inference_pb2.GetModelResponse:
    """As it is said on the wire, with the codecs of hidden states that the service reads."""
    return inference_pb2.GetModelResponse(
        model=card.name,
        fingerprint=card.fingerprint,
        tokenizer_sha256=card.tokenizer_sha256,
        chat_template_sha256=card.chat_template_sha256,
        vocabulary_size=card.vocabulary_size,
        num_layers=card.num_layers,
        hidden_size=card.hidden_size,
        context_tokens=card.context_tokens,
        codecs=codecs,
    )


def card_from_message(wire: inference_pb2.GetModelResponse) -> ModelCard:
    """As it was said."""
    return ModelCard(
        name=wire.model,
        fingerprint=wire.fingerprint,
        tokenizer_sha256=wire.tokenizer_sha256,
        chat_template_sha256=wire.chat_template_sha256,
        vocabulary_size=wire.vocabulary_size,
        num_layers=wire.num_layers,
        hidden_size=wire.hidden_size,
        context_tokens=wire.context_tokens,
    )
