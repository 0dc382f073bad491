"""Which local answers are checked afterwards: drawn by a keyed function of the request id, before the answer is seen.

Nobody who lacks the secret can tell which requests are audited, and the draw is the same after a restart.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass, field

from partition.errors import CalibrationError

MIN_RATE, MAX_RATE = 0.01, 1.0


class OnAlarm(enum.StrEnum):
    """What an alarm does."""

    CLOUD = "cloud"  # suspend the certificate: nothing of the task stands by itself
    STRICTER = "stricter"  # step to the next stricter certified threshold, and watch again


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """How often, and by which draw.

    Raises:
        CalibrationError: The rate is below 1 %, at which nothing would be learned, or the secret is short.
    """

    secret: bytes = field(repr=False)  # at least 16 bytes
    rate: float = 0.02
    deadline_s: float = 7 * 86400.0  # an audit without a label by then counts as an error

    def __post_init__(self) -> None:
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise CalibrationError("the audit rate must lie between 0.01 and 1; 0.02 is usual")
        if len(self.secret) < 16:
            raise CalibrationError("the audit secret needs at least 16 bytes; draw it at random")

    def draws(self, request_id: str) -> bool:
        """Whether this request's answer, if it stays local, is audited."""
        drawn = hmac.digest(self.secret, b"audit\0" + request_id.encode(), hashlib.sha256)
        return int.from_bytes(drawn[:8], "big") < self.rate * 2.0**64

    def name_of(self, request_id: str) -> str:
        """What stands for the request in files: keyed, because callers' ids may tell who they are about."""
        return hmac.digest(self.secret, b"name\0" + request_id.encode(), hashlib.sha256).hex()[:32]

    def digest_of(self, request_id: str, answer: str) -> str:
        """What stands for an answer until it is compared with a judge's; equal but for case and outer spaces."""
        text = f"answer\0{request_id}\0{answer.strip().casefold()}"
        return hmac.digest(self.secret, text.encode(), hashlib.sha256).hex()
