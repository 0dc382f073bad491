"""One sequence that the engine works on, and how it tells what came of it."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, field
from typing import Protocol

from partition.generation.sampling import SamplingRule


class JobEnd(enum.Enum):
    """Why the engine stopped working on a job."""

    END_OF_SEQUENCE = "end of sequence"
    LISTENER = "listener"  # it had enough
    LENGTH = "length"
    SCORED = "scored"  # every label has its log-probability
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    LOST = "lost"  # its memory went to others, and it cannot be computed again from ids
    FAILED = "failed"  # the engine did, on this step
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """What came of a job."""

    end: JobEnd
    cached_tokens: int = 0
    compute_us: int = 0
    queue_us: int = 0
    started_s: float | None = (
        None  # of its first step, on the clock of time.monotonic; None: it had none
    )
    ended_s: float = 0.0
    num_steps: int = 0
    label_log_probabilities: tuple[float, ...] = ()


class JobListener(Protocol):
    """Hears of a job, on the engine's thread; must not block."""

    def on_token(self, token_id: int) -> bool:
        """One more token of the answer, never one that ends the sequence. True: that is enough."""

    def on_end(self, outcome: JobOutcome) -> None:
        """Called exactly once, last."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A prompt to be continued, or labels to be scored after it."""

    tenant: str
    prompt_ids: tuple[int, ...] = field(repr=False)
    answer_ids: tuple[int, ...] = field(default=(), repr=False)  # chosen before, by another server
    max_output_tokens: int
    sampling: SamplingRule
    end_ids: frozenset[int]
    labels: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    deadline_s: float  # on the clock of time.monotonic
    listener: JobListener
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    def cancel(self) -> None:
        """Ask the engine to stop within one step; from any thread."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancelled.is_set()


class Engine(Protocol):
    """Works on many jobs; every submitted job's listener hears ``on_end`` exactly once."""

    def submit(self, job: Job) -> None:
        """Queue a job; from any thread.

        Raises:
            QuotaExceededError: The queue is full.
            UnavailableError: The engine is closed.
        """

    @property
    def num_waiting(self) -> int:
        """Jobs that wait for their first step."""

    @property
    def capacity_tokens(self) -> int:
        """The longest sequence that it can hold."""

    def close(self) -> None:
        """End every job and the engine's thread; waits for the current step. Harmless when repeated."""
