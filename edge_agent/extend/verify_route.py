"""The VERIFY route of one agent: when it is taken, and what is left to the cloud's stream when it breaks off."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.cloud.cloud import CloudAnswer, FinishReason, GenerateOptions
from edge_agent.errors import ConfigError
from edge_agent.flow import Usage
from partition.errors import PartitionError
from partition.extend.draft_length import RoundCosts
from partition.planning.cost import Mode, Scenario, Workload, round_costs
from partition.planning.cost import cloud as cloud_alone
from partition.planning.live_plan import LivePlan
from partition.planning.planner import Constraints, Weights
from partition.planning.profile import load_profile

if TYPE_CHECKING:
    from edge_agent.anonymize.anonymized import Anonymized
    from edge_agent.extend.verified_answer import SessionCloud, VerifiedAnswers, VerifiedText
    from edge_agent.local_model import LocalModel

logger = logging.getLogger(__name__)


# Costs of a round until it has been measured: a two-core device and a cloud of the same kind, 50 ms away.
UNMEASURED = RoundCosts(draft_s=0.04, verify_base_s=0.2, verify_per_draft_s=0.01, round_trip_s=0.05)
TYPICAL = Workload(prompt_tokens=350, output_tokens=64)  # a report and its impression


def make_verify_route(
    cloud: SessionCloud,
    profile_path: Path | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> VerifyRoute:
    """Make the route of an agent.

    Args:
        cloud: Where the large model is.
        profile_path: Of `partition profile`, with cloud and link; None: VERIFY is always taken.
        clock: Monotonic seconds.

    Raises:
        ProfileError: The profile is missing or wrong.
        ConfigError: It says nothing of cloud or link.
    """
    from edge_agent.extend.verified_answer import VerifiedAnswers

    if profile_path is None:
        return VerifyRoute(VerifiedAnswers(cloud, costs=UNMEASURED), clock=clock)
    profile = load_profile(profile_path)
    if profile.cloud is None or profile.link is None:
        raise ConfigError(
            f"{profile_path}: has no cloud or no link; make it again with --cloud and --round-trip-ms"
        )
    scenario = Scenario(
        edge=profile.edge,
        cloud=profile.cloud,
        link=profile.link,
        power=profile.power,
        prices=profile.prices,
        workload=TYPICAL,
    )
    # The router has decided that this request leaves: what is left to choose is how.
    plan = LivePlan(scenario, Constraints(may_stay_local=False), Weights(), clock=clock)

    def learn(num_bytes: int, elapsed_s: float, server_s: float) -> None:
        plan.observe_exchange(
            bytes_up=num_bytes, bytes_down=0, elapsed_s=elapsed_s, server_s=server_s
        )

    answers = VerifiedAnswers(
        cloud,
        costs=round_costs(scenario),
        streaming_s=cloud_alone(scenario).tpot_s,
        on_exchange=learn,
        clock=clock,
    )
    return VerifyRoute(answers, is_best=lambda: plan.mode is Mode.VERIFY, clock=clock)


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
