"""How much one tenant may ask: calls at once, requests a second, tokens a minute, money a day. Decided before any work.

Pure: the clock is an argument, the day's bill comes from the state database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from protos.errors import QuotaExceededError

SECONDS_A_DAY = 86400
LEAST_WAIT_S = 1e-6  # less is an error of rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Limits of one tenant; 0 means none."""

    concurrent_calls: int = 64
    requests_per_s: float = 50.0
    tokens_per_minute: int = 600_000
    daily_micro_usd: int = 0


class Bucket:
    """A token bucket that may be overdrawn: what was done is charged afterwards, and waited for."""

    def __init__(self, *, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._level = burst
        self._filled_s: float | None = None

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until ``amount`` is there; 0: now."""
        self._fill(now_s)
        wait_s = (min(amount, self._burst) - self._level) / self._rate_per_s
        return wait_s if wait_s > LEAST_WAIT_S else 0.0

    def take(self, amount: float, now_s: float) -> None:
        """Charge."""
        self._fill(now_s)
        self._level -= amount

    def _fill(self, now_s: float) -> None:
        if self._filled_s is not None:
            gained = max(0.0, now_s - self._filled_s) * self._rate_per_s
            self._level = min(self._burst, self._level + gained)
        self._filled_s = now_s


class TenantMeter:
    """What one tenant is using right now. One thread."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.num_running = 0
        self._requests = _bucket(quota.requests_per_s, quota.requests_per_s)
        self._tokens = _bucket(quota.tokens_per_minute / 60, float(quota.tokens_per_minute))

    def admit(self, *, now_s: float, spent_micro_usd: int, unix_s: float) -> None:
        """Begin a call, or refuse it; every admitted call is to be ended by :meth:`leave`.

        Raises:
            QuotaExceededError: A limit is met; it names the limit and says when to come back.
        """
        quota = self.quota
        if 0 < quota.daily_micro_usd <= spent_micro_usd:
            wait_s = SECONDS_A_DAY - unix_s % SECONDS_A_DAY
            raise _refusal("daily_micro_usd", wait_s)
        if 0 < quota.concurrent_calls <= self.num_running:
            raise _refusal("concurrent_calls", 1.0)
        for name, bucket, amount in (
            ("requests_per_s", self._requests, 1.0),
            ("tokens_per_minute", self._tokens, 1.0),
        ):
            if bucket is not None and (wait_s := bucket.wait_s(amount, now_s)) > 0:
                raise _refusal(name, wait_s)
        if self._requests is not None:
            self._requests.take(1.0, now_s)
        self.num_running += 1

    def leave(self) -> None:
        """A call has ended."""
        assert self.num_running > 0
        self.num_running -= 1

    def charge(self, num_tokens: int, now_s: float) -> None:
        """Count the tokens of an answer."""
        if self._tokens is not None:
            self._tokens.take(num_tokens, now_s)


class Meters:
    """The meters of all tenants; a changed quota begins a fresh one. One thread."""

    def __init__(self, quotas: Mapping[str, Quota] | None = None) -> None:
        self._meters = {tenant: TenantMeter(quota) for tenant, quota in (quotas or {}).items()}

    def of(self, tenant: str, quota: Quota) -> TenantMeter:
        """The meter of one tenant."""
        meter = self._meters.get(tenant)
        if meter is None or meter.quota != quota:
            running = 0 if meter is None else meter.num_running
            meter = self._meters[tenant] = TenantMeter(quota)
            meter.num_running = running
        return meter


def _bucket(rate_per_s: float, burst: float) -> Bucket | None:
    return Bucket(rate_per_s=rate_per_s, burst=max(1.0, burst)) if rate_per_s > 0 else None


def _refusal(limit: str, wait_s: float) -> QuotaExceededError:
    return QuotaExceededError(
        f"the tenant's limit `{limit}` is used up; come back later, or ask the operator for more",
        retry_after_s=max(0.001, math.ceil(wait_s * 1000) / 1000),
        quota=limit,
    )
