"""The VERIFY route of one agent: when it is taken, and what is left to the cloud's stream when it breaks off."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_agent.cloud import CloudAnswer, FinishReason, GenerateOptions
from edge_agent.flow import Usage
from partition.errors import PartitionError

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymized import Anonymized
    from edge_agent.local_model import LocalModel
    from edge_agent.verified_answer import VerifiedAnswers, VerifiedText

logger = logging.getLogger(__name__)


class VerifyRoute:
    """Tries VERIFY where the plan says that it is best. Thread-safe.

    Args:
        answers: Answers by VERIFY.
        is_best: Asked when a request begins; the live plan.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        answers: VerifiedAnswers,
        *,
        is_best: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers = answers
        self._is_best = is_best
        self._clock = clock

    def try_answer(
        self,
        model: LocalModel,
        anonymized: Anonymized,
        options: GenerateOptions,
        *,
        deadline_s: float,
        on_text: Callable[[str], None],
        cancel: threading.Event,
        on_sent: Callable[[int], None],
    ) -> CloudAnswer | str:
        """Answer a request by VERIFY if that is best and possible.

        Args:
            model: The device's model, which drafts.
            anonymized: The request.
            options: How to answer.
            deadline_s: For all of it.
            on_text: Gets the text as it is verified.
            cancel: Ends it with the next round.
            on_sent: Told of the bytes that went out.

        Returns:
            The whole answer, the cloud's own; or the beginning of it that ``on_text`` has got, which may be empty: the
            cloud shall stream the same text from the start.

        Raises:
            DeadlineExceededError: It took longer than ``deadline_s``.
            RequestCancelledError: The caller gave up.
        """
        from protos.errors import DeadlineExceededError, RequestCancelledError, WireError

        if not self._is_best():
            return ""
        try:
            why_not = self._answers.why_not(model, options)
        except WireError as error:
            why_not = str(error)
        if why_not:
            logger.debug("request %s goes as text: %s", anonymized.request_id, why_not)
            return ""
        ends_at = self._clock() + deadline_s
        shown: list[str] = []

        def show(piece: str) -> None:
            if cancel.is_set():
                raise RequestCancelledError("the request was cancelled")
            if self._clock() > ends_at:
                raise DeadlineExceededError("the cloud did not verify in time; try again")
            shown.append(piece)
            on_text(piece)

        try:
            found = self._answers.answer(model, anonymized, options, on_text=show)
        except (DeadlineExceededError, RequestCancelledError):
            raise
        except (PartitionError, WireError) as error:
            # The prompt is too long for the device's model, or this server keeps no sessions: text is always possible.
            logger.info("request %s goes as text: %s", anonymized.request_id, error)
            return "".join(shown)
        on_sent(found.result.sent_bytes)
        if not found.is_whole:
            logger.info(
                "request %s: verifying ended as %s", anonymized.request_id, found.result.ending
            )
            return found.text
        return _as_cloud_answer(found, options)


def _as_cloud_answer(found: VerifiedText, options: GenerateOptions) -> CloudAnswer:
    is_full = len(found.result.ids) >= options.max_output_tokens
    return CloudAnswer(
        text=found.text,
        model="",
        fingerprint=found.fingerprint,
        finish_reason=FinishReason.LENGTH if is_full else FinishReason.STOP,
        usage=Usage(input_tokens=found.num_input_tokens, output_tokens=len(found.result.ids)),
        sent_bytes=found.result.sent_bytes,
        verified=True,
    )


class AfterPrefix:
    """Passes a stream of text on without its beginning, which somebody has got already."""

    def __init__(self, shown: str, on_text: Callable[[str], None]) -> None:
        self._left = len(shown)
        self._on_text = on_text

    def __call__(self, piece: str) -> None:
        """Take one piece."""
        rest = piece[self._left :]
        self._left = max(0, self._left - len(piece))
        if rest:
            self._on_text(rest)
