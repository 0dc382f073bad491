"""VERIFY on the device: draft, have the cloud verify, commit; what to do when it does not answer.

The text is the cloud's own, token for token: greedy, or by the shared-seed rule. One round trip carries a whole draft. On a
lost way the answer so far stands; the rest is the cloud's to stream or, when it is gone, the device's own, flagged from the
first position that nobody verified.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge_agent.cloud.frame_channel import FrameChannel
from edge_agent.extend.drafter import Draft, Drafter
from edge_agent.extend.exchange import PROMPT_TIMEOUT_S, Exchange, Exchanged, OnExchange
from partition.extend.draft_length import Acceptance, DraftLength, RoundCosts
from partition.extend.fallback import Health, Step, next_step
from partition.extend.frames import Extended, Mismatch
from partition.extend.verify import DraftingSession
from partition.planning.link import Average


class Ending(enum.StrEnum):
    """How a VERIFY answer came to its end."""

    VERIFIED = "verified"  # all of it is the cloud's own, to its end
    STREAM = "stream"  # the cloud shall stream the same text; what is committed is its beginning
    UNVERIFIED = "unverified"  # the device wrote the rest alone
    LOST = "lost"  # the cloud is gone and policy forbids that; what is there is verified, and incomplete
    MISMATCH = "mismatch"  # the two sides do not run the same thing; send text


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What came of one answer."""

    ending: Ending
    ids: tuple[int, ...] = field(repr=False)  # of the answer
    unverified_from: int | None = None  # index into ids of the first that nobody verified
    mismatch: str = ""  # the field that differed
    num_rounds: int
    num_drafted: int  # sent to be verified
    num_accepted: int
    num_refused: int  # one a round at most; drafts behind it were not judged
    draft_s: float | None  # seconds a drafted token; None: nothing was drafted
    seconds: float
    sent_bytes: int

    @property
    def num_judged(self) -> int:
        """Drafts that the cloud compared with its own tokens."""
        return self.num_accepted + self.num_refused


class Verification:
    """One answer by VERIFY. Not thread-safe; lives as long as the answer.

    Args:
        session: Positions and committed ids.
        drafter: The device's model.
        channel: The way to the cloud, open.
        costs: Predicted costs of a round.
        acceptance: Learnt from this pair's earlier answers, and from this one; None: from this one alone.
        clock: Monotonic seconds.
        on_ids: Gets newly committed ids as they come.
        on_exchange: Told of each frame after the prompt, for the live plan.
        streaming_s: Seconds a token when the cloud streams alone; slower than this for long, and it shall.
        wants_latency: False: fewer cloud passes are the aim, so slowness is no reason to stop.
        finish_locally: Policy: whether the device may write the rest alone when the cloud is gone.
        prompt_timeout_s: How long to wait for the reply to a whole prompt.
    """

    def __init__(
        self,
        session: DraftingSession,
        drafter: Drafter,
        channel: FrameChannel,
        *,
        costs: RoundCosts,
        acceptance: Acceptance | None = None,
        clock: Callable[[], float],
        on_ids: Callable[[tuple[int, ...]], None] = lambda ids: None,
        on_exchange: OnExchange = lambda exchanged: None,
        streaming_s: float = float("inf"),
        wants_latency: bool = True,
        finish_locally: bool = True,
        prompt_timeout_s: float = PROMPT_TIMEOUT_S,
    ) -> None:
        self._session = session
        self._drafter = drafter
        self._exchange = Exchange(
            session,
            channel,
            clock=clock,
            prompt_timeout_s=prompt_timeout_s,
            on_exchange=on_exchange,
        )
        self._costs = costs
        self._length = DraftLength(costs, acceptance=acceptance)
        self._clock = clock
        self._on_ids = on_ids
        self._streaming_s = streaming_s
        self._wants_latency = wants_latency
        self._finish_locally = finish_locally
        self._draft = Average()
        self._num_rounds = self._num_drafted = self._num_accepted = self._num_refused = 0

    def run(self) -> VerifyResult:
        """Answer. Raises nothing of the network: a lost way is an ending."""
        started = self._clock()
        session = self._session
        draft = Draft()
        while not session.is_finished:
            round_started = self._clock()
            if self._num_rounds:
                draft = self._drafter.draft(session, self._length)
            outcome = self._round(draft)
            if isinstance(outcome, Mismatch):
                return self._result(Ending.MISMATCH, started, mismatch=outcome.field)
            if isinstance(outcome, Step):
                return self._without_cloud(outcome, started)
            if outcome.new_ids:
                self._on_ids(outcome.new_ids)
            if isinstance(outcome.reply, Extended):
                self._learn(outcome.reply, draft, self._clock() - round_started)
            draft = Draft()
            step = next_step(self._health())
            if step is Step.STREAM and not session.is_finished:
                return self._result(Ending.STREAM, started)
        return self._result(Ending.VERIFIED, started)

    def _round(self, draft: Draft) -> Exchanged | Mismatch | Step:
        """One frame and its reply; with the first one the device runs the prompt while the cloud does the same."""
        session = self._session
        is_prompt = session.is_prefilling or not self._num_rounds
        frame = session.open_frame(draft.ids)
        if self._num_rounds:
            return self._exchange.carry(frame, is_prompt=is_prompt)
        return self._exchange.carry(
            frame, is_prompt=True, meanwhile=lambda: self._drafter.prefill(session)
        )

    def _learn(self, reply: Extended, draft: Draft, seconds: float) -> None:
        sent, accepted = len(draft.ids), reply.num_accepted
        # A drafted end counts as the cloud's own token on the wire: it was neither accepted nor refused.
        is_end_drafted = accepted < sent and draft.ids[accepted] == reply.next_id
        judged = draft.probabilities[:accepted] if is_end_drafted else draft.probabilities
        self._num_rounds += 1
        self._num_drafted += sent
        self._num_accepted += accepted
        self._num_refused += accepted < sent and not is_end_drafted
        if self._num_rounds == 1:
            return
        if draft.num_drafted:
            self._draft.add(draft.seconds / draft.num_drafted)
        self._length.observe(seconds=seconds, probabilities=judged, num_accepted=accepted)
        slope = self._costs.verify_per_draft_s
        base = self._costs.verify_base_s
        seen = self._exchange.server.value
        if seen:
            # What a pass takes is seen whole; its slope stays the profile's, within what was seen.
            base = max(seen - slope * sent, 0.25 * seen)
        self._costs = replace(
            self._costs,
            draft_s=self._draft.value or self._costs.draft_s,
            verify_base_s=base,
            round_trip_s=self._exchange.round_trip.value or self._costs.round_trip_s,
        )
        self._length.update_costs(self._costs)

    def _health(self) -> Health:
        return Health(
            num_prefills=self._session.num_prefills,
            num_rounds=self._length.num_rounds,
            seconds_per_token=self._length.seconds_per_token,
            streaming_s=self._streaming_s,
            wants_latency=self._wants_latency,
        )

    def _without_cloud(self, step: Step, started: float) -> VerifyResult:
        if step is Step.STREAM:
            return self._result(Ending.STREAM, started)
        if not self._finish_locally:
            return self._result(Ending.LOST, started)
        verified = len(self._session.answer)
        self._session.abandon()
        rest = self._drafter.finish(self._session)
        self._on_ids(rest)
        return replace(
            self._result(Ending.UNVERIFIED, started),
            ids=(*self._session.answer, *rest),
            unverified_from=verified,
        )

    def _result(self, ending: Ending, started: float, *, mismatch: str = "") -> VerifyResult:
        return VerifyResult(
            ending=ending,
            ids=self._session.answer,
            mismatch=mismatch,
            num_rounds=self._num_rounds,
            num_drafted=self._num_drafted,
            num_accepted=self._num_accepted,
            num_refused=self._num_refused,
            draft_s=self._draft.value,
            seconds=self._clock() - started,
            sent_bytes=self._exchange.sent_bytes,
        )
