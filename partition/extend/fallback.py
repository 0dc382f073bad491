"""What VERIFY does when a reply does not come: pure decisions, so that their test is a table.

no reply within 3 (p95 of the round trip + p95 of verifying)   repeat the same frame, once
a second miss, the cloud reachable                             CLOUD streams on from the committed prefix
a second miss, the cloud gone                                  go on locally, flagged; the request is queued
NeedPrefill                                                    send the ids again without drafts; past 2: CLOUD
slower than streaming for 32 rounds, and latency is the aim    CLOUD streams the rest
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from partition.extend.draft_length import NUM_RECENT_ROUNDS

PATIENCE = 3.0  # times the p95 of a round before a frame counts as missed
MAX_MISSES = 2
MAX_PREFILLS = 2


class Step(enum.StrEnum):
    """What the device does next in a VERIFY or SPLIT answer."""

    GO_ON = "go on"
    REPEAT = "repeat the frame"
    STREAM = "let the cloud stream the rest"
    FINISH_LOCALLY = "finish locally, flagged as not verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How one answer is going."""

    num_misses: int = 0  # of the frame in flight
    num_prefills: int = 0  # times the cloud had lost the session
    is_reachable: bool = True
    num_rounds: int = 0  # in the running seconds a token
    seconds_per_token: float = 0.0
    streaming_s: float = float("inf")  # seconds a token of the cloud alone
    wants_latency: bool = True  # False: cloud passes or money are the aim


def reply_timeout_s(round_trip_p95_s: float, verify_p95_s: float) -> float:
    """How long to wait for a reply before the frame is sent again."""
    return PATIENCE * (round_trip_p95_s + verify_p95_s)


def next_step(health: Health) -> Step:
    """Decide how the answer goes on."""
    if health.num_misses >= MAX_MISSES or not health.is_reachable:
        return Step.STREAM if health.is_reachable else Step.FINISH_LOCALLY
    if health.num_misses:
        return Step.REPEAT
    if health.num_prefills > MAX_PREFILLS:
        return Step.STREAM
    is_slow = health.seconds_per_token > health.streaming_s
    if health.wants_latency and is_slow and health.num_rounds >= NUM_RECENT_ROUNDS:
        return Step.STREAM
    return Step.GO_ON
