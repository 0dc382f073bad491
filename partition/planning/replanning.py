"""When to change the plan while the agent runs: never for noise, at once when the current mode is impossible.

A change needs a gain of more than 15 % in three windows running, and a minute since the last change; a gain of more
than half needs the three windows only. The agent asks for the mode at the start of each request, so nothing changes in
the middle of one: that would move the KV cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hysteresis:
    """How hard it is to change the plan."""

    window_s: float = (
        0.3  # three windows and the frames before them are within two seconds of a link that breaks
    )
    num_windows: int = 3
    least_gain: float = 0.15  # of the current mode's cost
    urgent_gain: float = 0.5  # above which the minute is not waited for
    least_stay_s: float = 60.0


class Replanner:
    """Keeps the mode in use. Not thread-safe; the clock is the caller's.

    Args:
        mode: Mode in use at the start.
        now_s: Monotonic seconds.
        hysteresis: How hard it is to change.
    """

    def __init__(self, mode: str, *, now_s: float, hysteresis: Hysteresis | None = None) -> None:
        self._hysteresis = hysteresis or Hysteresis()
        self._mode = mode
        self._changed_at = float("-inf")
        self._window_end = now_s + self._hysteresis.window_s
        self._gains: list[float] = []  # of the windows running in which another mode was better
        self.num_changes = 0

    @property
    def mode(self) -> str:
        """The mode in use."""
        return self._mode

    def consider(self, costs: Mapping[str, float], *, now_s: float) -> str:
        """Look at fresh predictions.

        Args:
            costs: Weighted cost of each mode that is allowed now; one that is missing is not possible.
            now_s: Monotonic seconds. Calls within one window count once.

        Returns:
            The mode to use from the next request on.
        """
        if not costs:
            return self._mode
        best = min(costs, key=lambda name: (costs[name], name))
        if self._mode not in costs:
            self._change(best, now_s)
            return self._mode
        if now_s < self._window_end:
            return self._mode
        rules = self._hysteresis
        self._window_end = now_s + rules.window_s
        gain = 1 - costs[best] / costs[self._mode] if costs[self._mode] > 0 else 0.0
        self._gains = [*self._gains, gain][-rules.num_windows :] if gain > rules.least_gain else []
        has_stayed = now_s - self._changed_at >= rules.least_stay_s
        has_lasted = len(self._gains) == rules.num_windows
        if has_lasted and (has_stayed or min(self._gains) > rules.urgent_gain):
            self._change(best, now_s)
        return self._mode

    def _change(self, mode: str, now_s: float) -> None:
        self._mode = mode
        self._changed_at = now_s
        self._window_end = now_s + self._hysteresis.window_s
        self._gains = []
        self.num_changes += 1
