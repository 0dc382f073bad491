"""What one answer took: told to the metrics, to the tenant's meter and to the trace, in one place."""

from __future__ import annotations

import time

from cloud_service.config import PricesConfig
from cloud_service.generation import Usage
from cloud_service.metrics import Metrics
from cloud_service.rpc.calls import Call
from cloud_service.tenancy.tenants import UNREGISTERED_CLASS


class AnswerAccount:
    """Begun with the call, ended with its last token; one coroutine."""

    def __init__(self, call: Call, metrics: Metrics, prices: PricesConfig) -> None:
        self._call = call
        self._metrics = metrics
        self._prices = prices
        self._class = UNREGISTERED_CLASS if call.tenant is None else call.tenant.service_class
        self._first_s: float | None = None
        self._last_s = 0.0
        self._num_after_first = 0

    def came(self, num_tokens: int) -> None:
        """Tokens were chosen: the first ones end the wait, the others make the pace."""
        if num_tokens == 0:
            return
        now_s = time.monotonic()
        if self._first_s is None:
            self._first_s = now_s
            waited_s = now_s - self._call.started_s
            self._metrics.first_token_seconds.labels(self._class).observe(waited_s)
            self._call.span.event("first token")
            num_tokens -= 1
        self._num_after_first += num_tokens
        self._last_s = now_s

    def finish(self, usage: Usage) -> int:
        """Count a whole answer; returns what it costs, millionths of a dollar."""
        if self._first_s is None:
            self.came(1)  # a label is an answer in one piece
        assert self._first_s is not None
        metrics, call = self._metrics, self._call
        if self._num_after_first:
            pace_s = (self._last_s - self._first_s) / self._num_after_first
            metrics.output_token_seconds.labels(self._class).observe(pace_s)
        metrics.queue_seconds.labels(self._class).observe(usage.queue_us / 1e6)
        cost = usage.cost_micro_usd(self._prices)
        tenant = call.identity.tenant
        metrics.tokens.labels(tenant, "input").inc(usage.input_tokens)
        metrics.tokens.labels(tenant, "cached").inc(usage.cached_tokens)
        metrics.tokens.labels(tenant, "output").inc(usage.output_tokens)
        metrics.cost_micro_usd.labels(tenant).inc(cost)
        if call.meter is not None:
            call.meter.charge(usage.input_tokens + usage.output_tokens, time.monotonic())
        call.span.set(
            tandem__input_tokens=usage.input_tokens,
            tandem__cached_tokens=usage.cached_tokens,
            tandem__output_tokens=usage.output_tokens,
            tandem__queue_us=usage.queue_us,
            tandem__compute_us=usage.compute_us,
            tandem__cost_micro_usd=cost,
        )
        return cost
