"""What VERIFY and SPLIT ask of the cloud: which model it has, and sessions."""

from __future__ import annotations

import secrets
import threading
from typing import Protocol

from edge_agent.anonymize.anonymized import Anonymized
from edge_agent.cloud.frame_channel import FrameChannel
from partition.extend.activations import Codec
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard
from partition.generation.sampling import SamplingRule


class SessionCloud(Protocol):
    """A cloud with sessions; :class:`edge_agent.cloud.client.CloudClient` is one."""

    def get_model(self, *, deadline_s: float = 10.0) -> ModelCard:
        """See :class:`edge_agent.cloud.cloud.Cloud`."""

    def open_frames(self, anonymized: Anonymized, opening: Opening) -> FrameChannel:
        """Open a session; connects with the first frame."""


class KnownModel:
    """The cloud's model, asked for once and remembered until a session is refused. Thread-safe."""

    def __init__(self, cloud: SessionCloud) -> None:
        self._cloud = cloud
        self._lock = threading.Lock()
        self._card: ModelCard | None = None

    def get(self) -> ModelCard:
        """The model.

        Raises:
            WireError: The cloud cannot be asked.
        """
        with self._lock:
            if self._card is None:
                self._card = self._cloud.get_model()
            return self._card

    def forget(self) -> None:
        """Ask again next time: the cloud has changed."""
        with self._lock:
            self._card = None


def opening_of(
    card: ModelCard,
    rule: SamplingRule,
    *,
    stage_start: int = 0,
    codec: Codec | None = None,
    prefix_key: bytes = b"",
) -> Opening:
    """Make the first frame of a new session; its name is random and tells nothing."""
    return Opening(
        session=secrets.token_hex(16),
        agreement=card.agreement,
        stage_start=stage_start,
        stage_end=card.num_layers,
        codec=codec,
        sampling=rule,
        prefix_key=prefix_key,
    )
