"""The anonymizer of a device whose language pipelines cannot be had: it lets nothing leave, and says why."""

from __future__ import annotations

from typing import NoReturn

from edge_agent.errors import AnonymizationError
from edge_agent.flow import Prepared


class ClosedAnonymizer:
    """Refuses every request, so that the device still answers what it can answer alone (fail closed). Thread-safe."""

    version = "closed"

    def __init__(self, why: str) -> None:
        """Keep the sentence that each decision will give as its reason."""
        self._why = why

    def anonymize(self, prepared: Prepared) -> NoReturn:
        """Refuse.

        Raises:
            AnonymizationError: Always.
        """
        raise AnonymizationError(self._why, stage="load")
