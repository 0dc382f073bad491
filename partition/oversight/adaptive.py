"""Adaptive mode: a threshold that follows the audits, so that the error keeps its limit in the long run.

It promises a long-run average, for any sequence of requests, and nothing at 95 % confidence: it is labelled so wherever
it is shown. After adaptive conformal inference (arXiv 2106.00170), with audits as feedback.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from partition.errors import CalibrationError

LABEL = "adaptive, long-run"
MAX_STEP = 0.01  # eta over the audit rate; more, and one audit swings the share


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveThreshold:
    """A threshold on probabilities in [0, 1]. It may rise above 1, when nothing is accepted. Immutable.

    Raises:
        CalibrationError: ``eta / audit_rate`` is above 0.01.
    """

    threshold: float
    max_error: float
    audit_rate: float
    eta: float
    decay: float = 1e-4  # per request while nothing is accepted; without it the threshold would never come back
    start: float = -1.0  # the first threshold; -1: the one given
    num_local: int = 0
    total_decay: float = 0.0
    num_pending: int = 0  # audits that wait for their label
    most_pending: int = (
        0  # at once, ever: so many may still push the threshold when nothing is accepted any more
    )

    def __post_init__(self) -> None:
        if self.eta / self.audit_rate > MAX_STEP + 1e-12:
            raise CalibrationError("eta may be at most a hundredth of the audit rate; lower it")
        if self.start == -1.0:
            object.__setattr__(self, "start", self.threshold)

    def accepts(self, probability: float) -> bool:
        """Whether a local answer may stand."""
        return probability >= self.threshold

    def after_local(self, audited_loss: float | None) -> Self:
        """State after a local answer stood; its loss if it was audited."""
        moved = self.threshold
        if audited_loss is not None:
            moved = max(0.0, moved + self.eta / self.audit_rate * (audited_loss - self.max_error))
        return replace(self, threshold=moved, num_local=self.num_local + 1)

    def after_audit_begun(self) -> Self:
        """State after a local answer stood whose label will come later; :meth:`after_audit` takes it."""
        pending = self.num_pending + 1
        return replace(
            self,
            num_local=self.num_local + 1,
            num_pending=pending,
            most_pending=max(self.most_pending, pending),
        )

    def after_audit(self, loss: float) -> Self:
        """State after the label of an earlier local answer came."""
        moved = self.threshold + self.eta / self.audit_rate * (loss - self.max_error)
        return replace(self, threshold=max(0.0, moved), num_pending=max(0, self.num_pending - 1))

    def after_sent(self) -> Self:
        """State after a request went elsewhere; the threshold sinks only while it is out of every score's reach."""
        if self.threshold <= 1.0:
            return self
        return replace(
            self,
            threshold=self.threshold - self.decay,
            total_decay=self.total_decay + self.decay,
        )

    @property
    def excess_bound(self) -> float:
        """Most by which the audited error of the local answers so far can exceed the limit, on average.

        Of answers whose label has come; each that still waits may add ``1 / (audit_rate * num_local)``.
        """
        if self.num_local == 0:
            return 1.0 - self.max_error
        step = self.eta / self.audit_rate
        overshoot = max(1, self.most_pending) * step * (1.0 - self.max_error)
        room = 1.0 - self.start + overshoot + self.total_decay
        return room / (self.eta * self.num_local)
