"""When a rollout goes on, waits, or stops: pure functions of what the devices reported.

The abort rule is a sequential test. Of ``n`` devices that began, ``k`` have failed so far; p0 is the failure rate that is
still acceptable:

    E(k, n) = mean over q in {2 p0, 4 p0, 8 p0} of (q / p0)^k ((1 - q) / (1 - p0))^(n - k)     abort at E >= 1 / alpha

E is a mean of likelihood ratios, so under a true rate of p0 or less it is a supermartingale, and by Ville's inequality
it ever reaches 1 / alpha with probability alpha at most, *however often one looks*. A percentage, or a binomial test at
each look, has no such bound. Devices without a verdict count as good: failures report in minutes and successes only
after the soak, so counting finished ones alone would abort good releases.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cloud_service.fleet.ring_rate import RingRate

ALTERNATIVES = (2.0, 4.0, 8.0)  # times p0
MAX_ALTERNATIVE = 0.9
MIN_RING_DEVICES = 5
AT_ONCE_BAD_HASHES = 2
HOLD_CLOUD_SHARE = 0.05
HOLD_STANDARD_ERRORS = 3.0
HOLD_LATENCY_RATIO = 1.2


class Verdict(enum.StrEnum):
    """What one device showed of one release."""

    PENDING = "PENDING"
    GOOD = "GOOD"
    FAILED = "FAILED"  # gate, or bad content
    ROLLED_BACK = "ROLLED_BACK"  # trial, crash loop, or an operator
    TIMED_OUT = "TIMED_OUT"  # began, and never said how it ended

    @property
    def is_failure(self) -> bool:
        """Whether it counts against the release."""
        return self not in (Verdict.PENDING, Verdict.GOOD)


class Action(enum.StrEnum):
    """What the rollout does next."""

    WAIT = "WAIT"
    ADVANCE = "ADVANCE"
    HOLD = "HOLD"
    ABORT = "ABORT"
    DONE = "DONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRule:
    """A threshold of the operator's own, besides the sequential test; the shape is that of AWS IoT Jobs."""

    on: str = "ALL"  # FAILED, ROLLED_BACK, TIMED_OUT or ALL
    min_executed: int
    threshold_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a release goes out."""

    steps_percent: tuple[float, ...] = (1.0, 10.0, 50.0, 100.0)
    soak_s: float = 24 * 3600.0  # of each ring
    min_executed: int = 5  # verdicts before the next ring
    report_share: float = 0.9  # of the ring's devices that were online
    timeout_s: float = 72 * 3600.0
    max_failure_rate: float = 0.02
    false_abort: float = 0.01
    rate: RingRate | None = None  # None: a ring opens at once
    abort: tuple[AbortRule, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProgress:
    """One device of the ring, as last heard of."""

    hardware_class: str = ""
    has_begun: bool = True
    verdict: Verdict = Verdict.PENDING
    error_kind: str = ""
    began_s: float = 0.0  # Unix
    is_online: bool = True
    cloud_share: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The same figures of devices that stay on the base."""

    num_devices: int = 0
    cloud_share: float = 0.0
    p95_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is to be done, and why, in words for the audit log."""

    action: Action
    reason: str


def log_evidence(failures: int, began: int, rate: float) -> float:
    """Return ln E: how much more the failures speak for a higher rate than for ``rate``."""
    terms = [
        failures * math.log(q / rate) + (began - failures) * math.log((1 - q) / (1 - rate))
        for q in _alternatives(rate)
    ]
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms) / len(terms))


def is_worse(failures: int, began: int, rate: float, alpha: float) -> bool:
    """Tell whether the failures prove, at level ``alpha`` and however often one looks, a rate above ``rate``."""
    return began > 0 and log_evidence(failures, began, rate) >= -math.log(alpha)


@lru_cache(maxsize=4096)
def fewest_failures(began: int, rate: float, alpha: float) -> int | None:
    """Return the fewest failures of ``began`` devices that abort; None when not even all would."""
    return next((k for k in range(began + 1) if is_worse(k, began, rate, alpha)), None)


def shown_failure_bound(num_good: int, confidence: float = 0.95) -> float:
    """Return what ``num_good`` devices without a failure bound the failure rate by (Clopper-Pearson, one-sided)."""
    return 1.0 if num_good == 0 else 1 - (1 - confidence) ** (1 / num_good)


def buckets_for(percent: float, places: Sequence[int], num_buckets: int) -> int:
    """Return how many buckets a ring opens.

    Args:
        percent: Of the channel's devices.
        places: The bucket of every device that is known.
        num_buckets: There are.

    Returns:
        At least the share of the buckets, and so many that the share of the known devices falls into them, but no fewer
        than MIN_RING_DEVICES: chance must not make a ring of one.
    """
    buckets = math.ceil(percent / 100 * num_buckets)
    wanted = min(len(places), max(MIN_RING_DEVICES, math.ceil(percent / 100 * len(places))))
    if wanted:
        buckets = max(buckets, sorted(places)[wanted - 1] + 1)
    return min(num_buckets, buckets)


def decide(
    devices: Sequence[DeviceProgress],
    policy: Policy,
    *,
    ring_began_s: float,
    is_last_ring: bool,
    now_s: float,
    baseline: Baseline | None = None,
    is_opening: bool = False,
) -> Step:
    """Decide what a rollout does next.

    Args:
        devices: Every device that the candidate was meant for so far, over all rings.
        policy: The operator's.
        ring_began_s: When the newest ring was opened, Unix.
        is_last_ring: Whether there is none after it.
        now_s: Unix.
        baseline: Of the devices outside.
        is_opening: Whether devices of the newest ring may not begin yet.
    """
    timed = [_with_timeout(device, policy, now_s) for device in devices]
    began = [device for device in timed if device.has_begun]
    failed = [device for device in began if device.verdict.is_failure]
    if (reason := _abort_reason(began, failed, policy)) is not None:
        return Step(action=Action.ABORT, reason=reason)
    if (reason := _hold_reason(began, baseline)) is not None:
        return Step(action=Action.HOLD, reason=reason)
    executed = [device for device in began if device.verdict is not Verdict.PENDING]
    online = [device for device in timed if device.is_online]
    reported = [device for device in online if device.verdict is not Verdict.PENDING]
    if is_opening:
        return _wait(f"the ring is opening; {len(began)} devices have begun")
    waited = now_s - ring_began_s
    if waited < policy.soak_s:
        return _wait(f"the ring soaks for another {round(policy.soak_s - waited)} s")
    least = min(policy.min_executed, len(timed))
    if len(executed) < least:
        return _wait(f"{len(executed)} of at least {least} verdicts are in")
    if len(reported) < policy.report_share * len(online):
        return _wait(f"{len(reported)} of {len(online)} devices that are online have a verdict")
    good = len(executed) - len(failed)
    shown = f"{len(failed)} of {len(executed)} failed"
    if not failed:
        shown += f", so at most {shown_failure_bound(good):.0%} would (95 %)"
    return Step(action=Action.DONE if is_last_ring else Action.ADVANCE, reason=shown)


def _abort_reason(
    began: Sequence[DeviceProgress], failed: Sequence[DeviceProgress], policy: Policy
) -> str | None:
    bad_hashes = sum(device.error_kind == "bad_hash" for device in failed)
    if bad_hashes >= AT_ONCE_BAD_HASHES:
        return f"{bad_hashes} devices received other content than was signed"
    if any(device.error_kind == "anonymizer" for device in failed):
        return "the anonymizer missed a planted identifier on a device"
    if is_worse(len(failed), len(began), policy.max_failure_rate, policy.false_abort):
        return (
            f"{len(failed)} of {len(began)} devices failed; "
            f"that is more than {policy.max_failure_rate:.1%} beyond doubt"
        )
    classes = sorted({device.hardware_class for device in began})
    for name in classes:  # one class fails together; its share of the error is alpha / classes
        inside = [device for device in began if device.hardware_class == name]
        bad = sum(device.verdict.is_failure for device in inside)
        if is_worse(bad, len(inside), policy.max_failure_rate, policy.false_abort / len(classes)):
            return f"{bad} of {len(inside)} devices of class {name or 'unknown'} failed"
    executed = sum(device.verdict is not Verdict.PENDING for device in began)
    for rule in policy.abort:
        hits = sum(rule.on in ("ALL", device.verdict) for device in failed)
        if executed >= rule.min_executed and 100 * hits >= rule.threshold_percent * executed:
            return f"{hits} of {executed} are {rule.on}; the policy stops at {rule.threshold_percent} %"
    return None


def _hold_reason(began: Sequence[DeviceProgress], baseline: Baseline | None) -> str | None:
    if baseline is None or baseline.num_devices == 0:
        return None
    shares = [device.cloud_share for device in began if device.cloud_share is not None]
    if len(shares) > 1:
        mean = sum(shares) / len(shares)
        spread = math.sqrt(sum((share - mean) ** 2 for share in shares) / (len(shares) - 1))
        error = spread / math.sqrt(len(shares))
        moved = abs(mean - baseline.cloud_share)
        if moved > HOLD_CLOUD_SHARE and moved > HOLD_STANDARD_ERRORS * error:
            return (
                f"the share of answers from the cloud moved from {baseline.cloud_share:.0%} to {mean:.0%}; "
                "look, then resume or roll back"
            )
    times = sorted(device.p95_ms for device in began if device.p95_ms)
    if times and baseline.p95_ms > 0:
        median = times[len(times) // 2]
        if median > HOLD_LATENCY_RATIO * baseline.p95_ms:
            return (
                f"the 95th percentile of latency rose from {baseline.p95_ms:.0f} to {median:.0f} ms; "
                "look, then resume or roll back"
            )
    return None


def _with_timeout(device: DeviceProgress, policy: Policy, now_s: float) -> DeviceProgress:
    is_late = (
        device.has_begun
        and device.verdict is Verdict.PENDING
        and now_s - device.began_s > policy.timeout_s
    )
    if not is_late:
        return device
    return DeviceProgress(
        hardware_class=device.hardware_class,
        verdict=Verdict.TIMED_OUT,
        began_s=device.began_s,
        is_online=device.is_online,
    )


def _alternatives(rate: float) -> tuple[float, ...]:
    """Return the rates that the evidence speaks for; at least one, for a policy that allows many failures."""
    found = tuple(factor * rate for factor in ALTERNATIVES if factor * rate < MAX_ALTERNATIVE)
    return found or ((1 + rate) / 2,)


def _wait(reason: str) -> Step:
    return Step(action=Action.WAIT, reason=reason)
