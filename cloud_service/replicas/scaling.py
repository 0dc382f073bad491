"""How many replicas are wanted, from what each one says about its engine. Pure arithmetic; Ray Serve adds the delays.

Two numbers of our own metrics tell how busy a replica is, and neither counts idle streams:

* ``kv_usage``: the share of the KV cache in use (``tandem_engine_kv_usage_ratio``). A full cache means that running answers
  give their memory up and are computed again, so more replicas are wanted well before that.
* ``waiting_ratio``: requests that wait for the engine (``tandem_engine_queue_depth``) per sequence that it runs at once
  (``engine.max_sequences``). One means that a whole further batch is waiting.

Their sum over the replicas, in units of a replica at its target, is the number that is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

TARGET_KV_USAGE: Final = 0.7
TARGET_WAITING_RATIO: Final = 0.5
KV_USAGE: Final = "kv_usage"
WAITING_RATIO: Final = "waiting_ratio"
# Just under a whole number is that number: sums of ratios are not exact.
_ROUNDING: Final = 1e-9


def wanted_replicas(
    kv_usages: Iterable[float],
    waiting_ratios: Iterable[float],
    *,
    target_kv_usage: float = TARGET_KV_USAGE,
    target_waiting_ratio: float = TARGET_WAITING_RATIO,
) -> int:
    """Replicas that would bring each one to its targets; at least 1."""
    load = sum(kv_usages) / target_kv_usage + sum(waiting_ratios) / target_waiting_ratio
    return max(1, math.ceil(load - _ROUNDING))


class EngineLoadPolicy:
    """The policy that ``autoscaling_config.policy`` of the deployment names."""

    def __init__(
        self,
        target_kv_usage: float = TARGET_KV_USAGE,
        target_waiting_ratio: float = TARGET_WAITING_RATIO,
    ) -> None:
        """Take the targets of ``policy_kwargs``."""
        self._target_kv_usage = target_kv_usage
        self._target_waiting_ratio = target_waiting_ratio

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Decide, from Ray Serve's ``AutoscalingContext``."""
        metrics: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        kv_usages, waiting_ratios = metrics.get(KV_USAGE, {}), metrics.get(WAITING_RATIO, {})
        if not kv_usages and not waiting_ratios:  # nobody has spoken yet
            return context.target_num_replicas, {}
        wanted = wanted_replicas(
            kv_usages.values(),
            waiting_ratios.values(),
            target_kv_usage=self._target_kv_usage,
            target_waiting_ratio=self._target_waiting_ratio,
        )
        least, most = (
            context.capacity_adjusted_min_replicas,
            context.capacity_adjusted_max_replicas,
        )
        return min(max(wanted, least), most), {}
