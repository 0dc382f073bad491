"""Where a request goes: a pure function of the confidence, the task's policy and what is possible right now."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.flow import Confidence, Decision, Route
from partition.oversight.budget import GivesWay
from partition.task import Policy, WhenUnreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What the confidence is compared with, and who says so."""

    certificate: str = ""  # why a certified threshold holds; empty: the task's own threshold
    least_score: float = 0.0  # of a certificate; compared with the raw score, which has no ties
    adaptive: str = ""  # what an adaptive threshold is called: it promises no confidence
    least_probability: float = 0.0  # of an adaptive threshold
    why_suspended: str = (
        ""  # by an alarm: nothing stands by itself; a sentence without request text
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the router has to know besides the confidence; each "why" is a sentence without request text."""

    why_no_cloud: str = ""  # empty: the cloud can be asked
    why_not_anonymized: str = ""  # empty: the anonymized text may leave
    why_no_local: str = "the local model was not asked"  # said only when there is no confidence
    threshold: Threshold | None = None  # of a certificate that covers what runs here
    why_no_certificate: str = "no certificate for this task"


def decide(confidence: Confidence | None, policy: Policy, situation: Situation) -> Decision:
    """Choose the route of one request.

    Args:
        confidence: Of the local answer; None when there is none (the local model failed or was skipped).
        policy: Of the task.
        situation: Of this moment.

    Returns:
        LOCAL, CLOUD, QUEUED (the local answer now, flagged; the cloud's follows) or REFUSED, with the reason in words.
    """
    sure, why_sure = _is_sure(confidence, policy, situation)
    if sure:
        return Decision(route=Route.LOCAL, reason=why_sure)
    if not policy.may_leave_device:
        return Decision(
            route=Route.REFUSED,
            reason=f"{why_sure}, and policy may_leave_device = false binds it to the device",
        )
    if situation.why_not_anonymized:
        return Decision(
            route=Route.REFUSED,
            reason=f"{why_sure}, and it must not leave: {situation.why_not_anonymized}",
        )
    if not situation.why_no_cloud:
        return Decision(route=Route.CLOUD, reason=why_sure)
    if policy.when_unreachable is WhenUnreachable.REFUSE:
        return Decision(
            route=Route.REFUSED,
            reason=f'{why_sure}, {situation.why_no_cloud}, and policy when_unreachable = "refuse"',
        )
    return Decision(
        route=Route.QUEUED,
        reason=f"{why_sure}, and {situation.why_no_cloud}: provisional, queued for a better answer",
    )


def give_way(
    decision: Decision,
    *,
    gives_way: GivesWay,
    why: str,
    policy: Policy,
    has_local: bool,
) -> Decision:
    """Choose again for a request that should go to the cloud and may not cost what it would.

    Args:
        decision: CLOUD, and why.
        gives_way: The operator's choice.
        why: What the budget says, a sentence.
        policy: Of the task.
        has_local: There is a local answer.

    Returns:
        QUEUED, REFUSED, or LOCAL with a flag: an answer below its threshold is never passed off as a sure one.
    """
    reason = f"{decision.reason}, and {why}"
    if gives_way is GivesWay.QUEUE:
        return Decision(
            route=Route.QUEUED,
            reason=f"{reason}: provisional, queued until the budget allows it",
        )
    if gives_way is GivesWay.FLAG and has_local and policy.may_stay_local:
        return Decision(
            route=Route.LOCAL,
            reason=f"{reason}: the local answer, flagged as below its threshold",
            flagged=True,
        )
    return Decision(route=Route.REFUSED, reason=f'{reason} (budget gives_way = "{gives_way}")')


def _is_sure(
    confidence: Confidence | None, policy: Policy, situation: Situation
) -> tuple[bool, str]:
    """Tell whether the local answer may stand, and why or why not."""
    if confidence is None:
        return False, f"no local answer: {situation.why_no_local}"
    if not policy.may_stay_local:
        return False, "policy may_stay_local = false"
    threshold = situation.threshold
    if threshold is not None:
        if threshold.why_suspended:
            return False, threshold.why_suspended
        if threshold.adaptive:
            name = f"the threshold {threshold.least_probability:.3f} ({threshold.adaptive})"
            if confidence.probability >= threshold.least_probability:
                return True, f"confidence reaches {name}"
            return False, f"confidence {confidence.probability:.2f} is below {name}"
        if confidence.score >= threshold.least_score:
            return True, f"score reaches the certified threshold ({threshold.certificate})"
        return False, "score is below the certified threshold"
    if not policy.allow_uncertified:
        return False, f"{situation.why_no_certificate}, and policy allow_uncertified = false"
    if confidence.probability >= policy.local_threshold:
        return (
            True,
            f"confidence reaches {policy.local_threshold:g} (uncertified: {situation.why_no_certificate})",
        )
    return False, f"confidence {confidence.probability:.2f} is below {policy.local_threshold:g}"
