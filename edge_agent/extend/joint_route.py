"""The routes on which device and cloud answer together, VERIFY and SPLIT: which is taken, and what is left to the cloud alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_agent.cloud.cloud import CloudAnswer, FinishReason, GenerateOptions
from edge_agent.flow import Route, Usage
from partition.errors import PartitionError
from partition.planning.cost import Mode

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymized import Anonymized
    from edge_agent.extend.split_answer import SplitAnswers, SplitText
    from edge_agent.extend.task_plans import TaskPlans
    from edge_agent.extend.verified_answer import VerifiedAnswers, VerifiedText
    from edge_agent.local_model import LocalModel
    from partition.task import Task

logger = logging.getLogger(__name__)

MAX_SAID = 16  # different reasons that are said aloud


class JointRoute:
    """Tries VERIFY or SPLIT where the plan says that it is best. Thread-safe.

    Args:
        verify: Answers by VERIFY; None: this device is not set up for it.
        split: Answers by SPLIT, the same.
        plans: Say which is best when a request begins; None: SPLIT where the task allows it, else VERIFY.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        verify: VerifiedAnswers | None = None,
        split: SplitAnswers | None = None,
        plans: TaskPlans | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verify = verify
        self._split = split
        self._plans = plans
        self._clock = clock
        self._said: set[str] = set()

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
        """Answer a request by VERIFY or SPLIT if that is best and possible.

        Args:
            model: The device's model, which drafts.
            anonymized: The request.
            options: How to answer.
            deadline_s: For all of it.
            on_text: Gets the text as it comes.
            cancel: Ends it with the next round.
            on_sent: Told of the bytes that went out.

        Returns:
            The whole answer; or the beginning of it that ``on_text`` has got, which may be empty: the cloud shall stream
            the same text from the start.

        Raises:
            UnavailableError: A SPLIT broke off after a part of it was shown; the cloud alone might go on differently.
            DeadlineExceededError: It took longer than ``deadline_s``.
            RequestCancelledError: The caller gave up.
        """
        from protos.errors import WireError

        mode = self._mode(anonymized.task)
        if mode not in (Mode.VERIFY, Mode.SPLIT):
            return ""
        try:
            why_not = self._why_not(mode, model, anonymized.task, options)
        except WireError as error:
            why_not = str(error)
        if why_not:
            self._say(anonymized, mode, why_not)
            return ""
        shown = _Shown(on_text, cancel, ends_at=self._clock() + deadline_s, clock=self._clock)
        if mode is Mode.SPLIT:
            return self._by_split(anonymized, options, shown, on_sent)
        return self._by_verify(model, anonymized, options, shown, on_sent)

    def close(self) -> None:
        """Free the layers of a SPLIT."""
        if self._split is not None:
            self._split.close()

    def _say(self, anonymized: Anonymized, mode: Mode, why_not: str) -> None:
        """Say why a request goes as text: aloud the first time, for most reasons hold for every request."""
        is_new = why_not not in self._said and len(self._said) < MAX_SAID
        level = logging.WARNING if is_new else logging.DEBUG
        if is_new:
            self._said.add(why_not)
        logger.log(
            level, "request %s goes as text, not by %s: %s", anonymized.request_id, mode, why_not
        )

    def _mode(self, task: Task) -> Mode | None:
        if self._plans is not None:
            return self._plans.mode_of(task)
        if self._split is not None and task.policy.allow_split:
            return Mode.SPLIT
        return Mode.VERIFY if self._verify is not None else None

    def _why_not(self, mode: Mode, model: LocalModel, task: Task, options: GenerateOptions) -> str:
        if mode is Mode.SPLIT:
            if self._split is None:
                return "this device has no layers of the cloud's model"
            return self._split.why_not(task, options)
        if self._verify is None:
            return "this device is not set up to draft"
        return self._verify.why_not(model, options)

    def _by_verify(
        self,
        model: LocalModel,
        anonymized: Anonymized,
        options: GenerateOptions,
        shown: _Shown,
        on_sent: Callable[[int], None],
    ) -> CloudAnswer | str:
        from protos.errors import DeadlineExceededError, RequestCancelledError, WireError

        assert self._verify is not None
        try:
            found = self._verify.answer(model, anonymized, options, on_text=shown)
        except (DeadlineExceededError, RequestCancelledError):
            raise
        except (PartitionError, WireError) as error:
            # The prompt is too long for the device's model, or this server keeps no sessions: text is always possible.
            logger.info("request %s goes as text: %s", anonymized.request_id, error)
            return shown.text
        on_sent(found.result.sent_bytes)
        if self._plans is not None:
            self._plans.drafted(found.result)
        if not found.is_whole:
            logger.info(
                "request %s: verifying ended as %s", anonymized.request_id, found.result.ending
            )
            return found.text
        return _as_cloud_answer(found, options, Route.VERIFY)

    def _by_split(
        self,
        anonymized: Anonymized,
        options: GenerateOptions,
        shown: _Shown,
        on_sent: Callable[[int], None],
    ) -> CloudAnswer | str:
        from protos.errors import (
            DeadlineExceededError,
            RequestCancelledError,
            UnavailableError,
            WireError,
        )

        assert self._split is not None
        logger.info("request %s: sends %s", anonymized.request_id, self._split.exposure)
        try:
            found = self._split.answer(anonymized, options, on_text=shown)
        except (DeadlineExceededError, RequestCancelledError):
            raise
        except (PartitionError, WireError) as error:
            why = str(error)
        else:
            on_sent(found.result.sent_bytes)
            if found.is_whole:
                return _as_cloud_answer(found, options, Route.SPLIT)
            why = f"the split ended as {found.result.ending} {found.result.mismatch}".rstrip()
        logger.info("request %s: %s", anonymized.request_id, why)
        if shown.text:
            # Rounded hidden states may choose other tokens than the cloud alone: no seam that a reader would not see.
            raise UnavailableError("a split broke off in the middle of its answer; ask again")
        return ""


class _Shown:
    """What the reader has got, which ends the answer when he gives up or time is over."""

    def __init__(
        self,
        on_text: Callable[[str], None],
        cancel: threading.Event,
        *,
        ends_at: float,
        clock: Callable[[], float],
    ) -> None:
        self._on_text = on_text
        self._cancel = cancel
        self._ends_at = ends_at
        self._clock = clock
        self.text = ""

    def __call__(self, piece: str) -> None:
        from protos.errors import DeadlineExceededError, RequestCancelledError

        if self._cancel.is_set():
            raise RequestCancelledError("the request was cancelled")
        if self._clock() > self._ends_at:
            raise DeadlineExceededError("the cloud did not answer in time; try again")
        self.text += piece
        self._on_text(piece)


def _as_cloud_answer(
    found: VerifiedText | SplitText, options: GenerateOptions, route: Route
) -> CloudAnswer:
    is_full = len(found.result.ids) >= options.max_output_tokens
    return CloudAnswer(
        text=found.text,
        model="",
        fingerprint=found.fingerprint,
        finish_reason=FinishReason.LENGTH if is_full else FinishReason.STOP,
        usage=Usage(input_tokens=found.num_input_tokens, output_tokens=len(found.result.ids)),
        sent_bytes=found.result.sent_bytes,
        route=route,
    )
