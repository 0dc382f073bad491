"""The seam between the gRPC API and whatever answers: our engine, or another server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from cloud_service.generation import GenerationEvent, Prompt
from cloud_service.identity import Identity
from cloud_service.storage.sessions import Session
from partition.extend.frame_messages import Opening
from partition.extend.model_card import ModelCard
from protos.errors import NotFoundError, UnavailableError

WARM_UP_RETRY_S = 2.0


class Backend(Protocol):
    """Answers prompts of many tenants at once. Used on the event loop; computes elsewhere."""

    @property
    def card(self) -> ModelCard:
        """The model."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[GenerationEvent, None]:
        """Answer one prompt.

        Closing the generator cancels the work within one step of the engine. When ``prompt.interrupt`` is set, it ends
        without ``Completed``.

        Raises:
            WireError: As the caller is to see it.
        """

    def make_session(
        self, identity: Identity, opening: Opening, ids: tuple[int, ...] = ()
    ) -> Session:
        """Begin a session of VERIFY or SPLIT; its opening agrees with :attr:`card`.

        Args:
            identity: Whose.
            opening: What both sides agree on.
            ids: Of a VERIFY session that another server, or this one before a restart, began.

        Raises:
            UnsupportedError: This backend keeps no sessions.
        """

    async def close(self) -> None:
        """Stop working; running generations end with UnavailableError. Harmless when repeated."""


class ModelSlot:
    """The place of the one model: empty until it is warm."""

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def fill(self, backend: Backend) -> None:
        """Put the warm model in."""
        self._backend = backend

    def get(self, name: str) -> Backend:
        """Find the backend of a model; an empty name is the default.

        Raises:
            UnavailableError: It is not warm yet.
            NotFoundError: Another model answers here.
        """
        if self._backend is None:
            raise UnavailableError(
                "the model is being loaded; try again", retry_after_s=WARM_UP_RETRY_S
            )
        if name not in ("", self._backend.card.name):
            raise NotFoundError(
                "no model of that name answers here; leave `model` empty, or ask another service"
            )
        return self._backend

    async def close(self) -> None:
        """Close what is inside."""
        if self._backend is not None:
            await self._backend.close()
